"""What scores the people of a batch of clips: the model itself, or one that was exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vmae_det.checkpoint import read_checkpoint
from vmae_det.checkpoint.locate import locate
from vmae_det.config import CfgNode
from vmae_det.engine.setup import build_model_with_weights, choose_device
from vmae_det.engine.trainer import AMP_TYPES, to_device
from vmae_det.inference.exported_files import ONNX_SUFFIX, check_overrides, is_exported
from vmae_det.inference.exported_program import ExportedModel, read_torch_metadata
from vmae_det.inference.onnx_files import OnnxModel, read_onnx_metadata
from vmae_det.utils.errors import ConfigError

# Takes a batch on the CPU: `video` uint8 (B, 3, T, H, W), `boxes`, list of (N_i, 4) float32 xyxy pixels,
# `person_scores`, list of (N_i,), and `size`, list of (2,) float32: width and height less the padding. Gives
# the scores of each clip's people, list of (N_i, classes) float32.
Scorer = Callable[[dict], list[np.ndarray]]


class EagerModel:
    """The detector that a config describes, on its device and in its precision; a `Scorer`."""

    def __init__(self, cfg: CfgNode) -> None:
        self.device = choose_device(cfg)
        self.amp = AMP_TYPES[cfg.SOLVER.AMP]
        self.model = build_model_with_weights(cfg, complete=True).to(self.device).eval()

    @torch.inference_mode()
    def __call__(self, batch: dict) -> list[np.ndarray]:
        """Scores (N_i, classes) of each clip's people."""
        with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
            predictions = self.model(to_device(batch, self.device))
        return [scores.float().cpu().numpy() for scores in predictions["scores"]]


def load_scorer(cfg: CfgNode) -> Scorer:
    """What MODEL.WEIGHTS holds: weights for the config's detector, or an exported detector (.onnx, .pt2).

    An exported one computes in float32, whatever SOLVER.AMP says.

    Raises:
        ConfigError: the config is of no detector, or of another than the exported one.
        WeightsError: the file cannot be read, or is not safe to run.
        UserError: an ONNX file, and onnxruntime is not installed.
    """
    if cfg.MODEL.META_ARCHITECTURE != "ActionDetector":
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: detection needs an ActionDetector, got {cfg.MODEL.META_ARCHITECTURE}"
        )
    if not is_exported(cfg.MODEL.WEIGHTS):
        return EagerModel(cfg)
    path = locate(cfg.MODEL.WEIGHTS)
    check_overrides(cfg, read_extras(path)["config"], path)
    model = OnnxModel if path.suffix == ONNX_SUFFIX else ExportedModel
    return model(path, choose_device(cfg))


def read_extras(weights: str | Path) -> dict[str, Any]:
    """What travels in a file of weights or of an exported model: `config` and `label_map`, if any.

    Raises:
        WeightsError: the file cannot be read.
    """
    if not is_exported(weights):
        return read_checkpoint(weights)
    path = locate(weights)
    return read_onnx_metadata(path) if path.suffix == ONNX_SUFFIX else read_torch_metadata(path)
