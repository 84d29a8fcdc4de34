"""Scores the person boxes of a batch of clips, or the clips, with a PyTorch model or with an exported one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from vmae_det.checkpoint import read_checkpoint
from vmae_det.checkpoint.locate import locate
from vmae_det.config import CfgNode
from vmae_det.engine.setup import setup_device, warn_about_device
from vmae_det.engine.trainer import AMP_TYPES, to_device
from vmae_det.engine.weights import build_model_with_weights, published_classes
from vmae_det.inference.export.exported_model import (
    ONNX_SUFFIX,
    FoundPersons,
    OnnxModel,
    TorchExportModel,
    check_overrides,
    is_exported,
    read_exported_metadata,
)
from vmae_det.modeling.saliency import token_contributions
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.transfer import copy_to_cpu


class Scorer(Protocol):
    """Runs a model.

    Attributes:
        finds_persons: whether it finds the persons of clips.
        takes_boxes: whether it scores given persons.
    """

    finds_persons: bool
    takes_boxes: bool

    def __call__(self, batch: dict) -> list[np.ndarray]:
        """Return the scores of each clip's persons, list of (N_i, classes) float32.

        Args:
            batch: on the CPU; `video` uint8 (B, 3, T, H, W), `boxes`, list of (N_i, 4) float32 xyxy pixels,
                `person_scores`, list of (N_i,), and `size`, list of (2,) float32: width and height without
                the padding. A classifier's batch only has `video`, and each clip has one row of scores.
        """

    def find(self, batch: dict) -> FoundPersons:
        """Return the persons that the model finds, and their scores.

        Args:
            batch: `video` and `size` as above.
        """


class EagerModel:
    """A `Scorer` that runs the model of a config in PyTorch, on its device and in its precision."""

    takes_boxes = True

    def __init__(self, cfg: CfgNode) -> None:
        self.device = setup_device(cfg)
        warn_about_device(self.device, cfg.SOLVER.AMP)
        self.amp = AMP_TYPES[cfg.SOLVER.AMP]
        self.model = build_model_with_weights(cfg, complete=True).to(self.device).eval()
        self.model.requires_grad_(False)
        self.finds_persons = getattr(self.model, "person_head", None) is not None

    def __call__(self, batch: dict) -> list[np.ndarray]:
        """Return the scores (N_i, classes) of each clip's persons; of a classifier (1, classes) per clip."""
        scores = self._run(batch)["scores"]
        if isinstance(scores, torch.Tensor):  # (B, classes) of a classifier
            scores = scores.split(1)
        return _to_numpy(scores)

    def find(self, batch: dict) -> FoundPersons:
        """Return the persons that the person head finds, and their scores."""
        predictions = self._run(batch)
        return FoundPersons(*(_to_numpy(predictions[name]) for name in FoundPersons._fields))

    @torch.inference_mode()
    def _run(self, batch: dict) -> dict[str, Any]:
        with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
            return self.model(to_device(batch, self.device))

    def explain(self, batch: dict, classes: list[np.ndarray]) -> list[np.ndarray]:
        """Return for each person a map (N_i, h, w) of the tokens that raise the score of a class.

        It is the sum of the positive contributions over time (see `token_contributions`), over the clip with
        its padding.

        Args:
            classes: for each clip, the class (N_i,) of each person.
        """
        targets = [torch.as_tensor(own) for own in classes]
        with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
            contributions = token_contributions(self.model, to_device(batch, self.device), targets)
        maps = contributions.clamp(min=0).sum(dim=1).cpu()
        return [own.numpy() for own in maps.split([len(own) for own in classes])]


def _to_numpy(tensors: Sequence[torch.Tensor]) -> list[np.ndarray]:
    return [tensor.float().numpy() for tensor in copy_to_cpu(tensors)]


# What each model is used for, in messages, and what to do with it.
_PURPOSES = {"ActionDetector": "detection", "VideoClassifier": "classification"}
_REMEDIES = {
    "ActionDetector": "; use vmae-det detect",
    "VideoClassifier": "; use vmae-det classify",
    **dict.fromkeys(("MaskedAutoencoder", "MoCoV3"), "; fine-tune it first (docs/guides/finetune.md)"),
}


def check_architecture(cfg: CfgNode, expected: str) -> None:
    """Raise a ConfigError if a config describes another model than an ActionDetector or VideoClassifier."""
    got = cfg.MODEL.META_ARCHITECTURE
    if got != expected:
        article = "an" if expected[0] in "AEIOU" else "a"
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: {_PURPOSES[expected]} needs {article} {expected}, got {got} of "
            f"{cfg.MODEL.WEIGHTS or 'the config'}{_REMEDIES.get(got, '')}"
        )


def load_scorer(cfg: CfgNode, architecture: str = "ActionDetector") -> Scorer:
    """Load MODEL.WEIGHTS: weights for the config's model, or an exported model (.onnx, .pt2).

    An exported model computes in float32, whatever SOLVER.AMP is.

    Args:
        architecture: required MODEL.META_ARCHITECTURE, ActionDetector or VideoClassifier.

    Raises:
        ConfigError: the config describes another model, or differs from that of the exported model.
        WeightsError: the file cannot be read, or is not safe to load.
        UserError: the file is an ONNX file and onnxruntime is not installed.
    """
    check_architecture(cfg, architecture)
    if not is_exported(cfg.MODEL.WEIGHTS):
        return EagerModel(cfg)
    path = locate(cfg.MODEL.WEIGHTS)
    metadata = read_stored_metadata(path)
    check_overrides(cfg, metadata["config"], path)
    model = OnnxModel if path.suffix == ONNX_SUFFIX else TorchExportModel
    finds_persons = "boxes" in metadata.get("outputs", ())
    threshold = cfg.MODEL.PERSON_HEAD.SCORE_THRESHOLD if finds_persons else None
    return model(path, setup_device(cfg), threshold)


def read_stored_metadata(weights: str | Path) -> dict[str, Any]:
    """Read what a checkpoint or an exported model stores with the weights: `config` and `label_map`, if any.

    The label map of published weights that store none is that of the model zoo.

    Raises:
        WeightsError: the file cannot be read.
    """
    if is_exported(weights):
        return read_exported_metadata(locate(weights))
    content, classes = read_checkpoint(weights), published_classes(weights)
    if classes is not None and content.get("label_map") is None:
        content["label_map"] = classes.to_checkpoint()
    return content
