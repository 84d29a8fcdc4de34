"""Scores the person boxes of a batch of clips, with a PyTorch model or with an exported one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vmae_det.checkpoint import read_checkpoint
from vmae_det.checkpoint.locate import locate
from vmae_det.config import CfgNode
from vmae_det.engine.setup import setup_device, warn_about_device
from vmae_det.engine.trainer import AMP_TYPES, to_device
from vmae_det.engine.weights import build_model_with_weights
from vmae_det.inference.export.exported_model import (
    ONNX_SUFFIX,
    OnnxModel,
    TorchExportModel,
    check_overrides,
    is_exported,
    read_exported_metadata,
)
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.transfer import copy_to_cpu

# Takes a batch on the CPU: `video` uint8 (B, 3, T, H, W), `boxes`, list of (N_i, 4) float32 xyxy pixels,
# `person_scores`, list of (N_i,), and `size`, list of (2,) float32: width and height without the padding.
# Returns the scores of each clip's persons, list of (N_i, classes) float32.
Scorer = Callable[[dict], list[np.ndarray]]


class EagerModel:
    """A `Scorer` that runs the detector of a config in PyTorch, on its device and in its precision."""

    def __init__(self, cfg: CfgNode) -> None:
        self.device = setup_device(cfg)
        warn_about_device(self.device, cfg.SOLVER.AMP)
        self.amp = AMP_TYPES[cfg.SOLVER.AMP]
        self.model = build_model_with_weights(cfg, complete=True).to(self.device).eval()

    @torch.inference_mode()
    def __call__(self, batch: dict) -> list[np.ndarray]:
        """Return the scores (N_i, classes) of each clip's persons."""
        with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
            predictions = self.model(to_device(batch, self.device))
        return [scores.float().numpy() for scores in copy_to_cpu(predictions["scores"])]


def load_scorer(cfg: CfgNode) -> Scorer:
    """Load MODEL.WEIGHTS: weights for the config's detector, or an exported detector (.onnx, .pt2).

    An exported detector computes in float32, whatever SOLVER.AMP is.

    Raises:
        ConfigError: the config does not describe a detector, or differs from that of the exported detector.
        WeightsError: the file cannot be read, or is not safe to load.
        UserError: the file is an ONNX file and onnxruntime is not installed.
    """
    if cfg.MODEL.META_ARCHITECTURE != "ActionDetector":
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: detection needs an ActionDetector, got {cfg.MODEL.META_ARCHITECTURE}"
        )
    if not is_exported(cfg.MODEL.WEIGHTS):
        return EagerModel(cfg)
    path = locate(cfg.MODEL.WEIGHTS)
    check_overrides(cfg, read_stored_metadata(path)["config"], path)
    model = OnnxModel if path.suffix == ONNX_SUFFIX else TorchExportModel
    return model(path, setup_device(cfg))


def read_stored_metadata(weights: str | Path) -> dict[str, Any]:
    """Read what a checkpoint or an exported model stores with the weights: `config` and `label_map`, if any.

    Raises:
        WeightsError: the file cannot be read.
    """
    return read_exported_metadata(locate(weights)) if is_exported(weights) else read_checkpoint(weights)
