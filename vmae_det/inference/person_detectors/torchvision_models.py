"""torchvision's Faster R-CNN and RetinaNet, with its own COCO weights or a file's."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torchvision.models import get_model, get_model_weights

from vmae_det.checkpoint.files import read_checkpoint
from vmae_det.checkpoint.state_dicts import state_dict_of
from vmae_det.config import CfgNode
from vmae_det.inference.person_detectors.interface import (
    PERSON_DETECTOR_REGISTRY,
    RANDOM,
    PersonDetector,
    as_tensor,
    no_weights,
)
from vmae_det.utils.errors import WeightsError

_PERSON = 1  # of torchvision's COCO classes, whose first is the background
# Of each family: what its thresholds are called.
_FASTER_RCNN = ("box_score_thresh", "box_nms_thresh", "box_detections_per_img")
_RETINANET = ("score_thresh", "nms_thresh", "detections_per_img")
_MODELS = {
    "fasterrcnn_resnet50_fpn_v2": _FASTER_RCNN,
    "fasterrcnn_resnet50_fpn": _FASTER_RCNN,
    "fasterrcnn_mobilenet_v3_large_fpn": _FASTER_RCNN,
    "fasterrcnn_mobilenet_v3_large_320_fpn": _FASTER_RCNN,
    "retinanet_resnet50_fpn_v2": _RETINANET,
    "retinanet_resnet50_fpn": _RETINANET,
}
# The layer whose size says how many classes there are, and its values for each of them.
_CLASS_LAYERS = {
    _FASTER_RCNN: "roi_heads.box_predictor.cls_score.bias",
    _RETINANET: "head.classification_head.cls_logits.bias",
}
_ANCHORS = {_FASTER_RCNN: 1, _RETINANET: 9}


class TorchvisionDetector(PersonDetector):
    """A detection network of torchvision; class 1 is the person.

    Args:
        name: of the network.
    """

    def __init__(self, name: str, cfg: CfgNode, device: torch.device) -> None:
        super().__init__(cfg, device)
        node, family = cfg.PERSON_DETECTOR, _MODELS[name]
        score, overlap, count = family
        # Boxes of other classes are counted before they are left out.
        options = {score: node.SCORE, overlap: node.NMS_IOU, count: max(100, 2 * node.MAX_PEOPLE)}
        if node.SHORT_SIDE:
            options["min_size"] = node.SHORT_SIDE
        weights = _weights(name, node.WEIGHTS)
        classes = 2 if weights is None else _classes(name, weights, node.WEIGHTS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.SEED)
            model = get_model(name, weights=None, weights_backbone=None, num_classes=classes, **options)
        if weights is not None:
            _load(model, weights, node.WEIGHTS or name)
        self.model = model.to(device).eval()

    def _detect(self, frames: Sequence[np.ndarray]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        found = self.model([as_tensor(frame, self.device).float() / 255 for frame in frames])
        people = [result["labels"] == _PERSON for result in found]
        return [(result["boxes"][rows], result["scores"][rows]) for result, rows in zip(found, people)]


def _weights(name: str, source: str) -> dict[str, torch.Tensor] | None:
    """Tensors by name; None for random ones."""
    if source == RANDOM:
        return None
    return state_dict_of(read_checkpoint(source), source) if source else _published(name)


def _published(name: str) -> dict[str, torch.Tensor]:
    """torchvision's COCO weights, from torch.hub's cache or the web."""
    weights = get_model_weights(name).DEFAULT
    try:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{name}.lock"):  # several processes may ask at once
            return weights.get_state_dict(
                progress=True, check_hash=True, map_location="cpu", weights_only=True
            )
    except urllib.error.URLError as error:
        raise no_weights(name, weights.url, error.reason) from None
    except (OSError, RuntimeError) as error:  # the disk; a file that is not the one expected
        raise no_weights(name, weights.url, error) from None


def _classes(name: str, weights: dict[str, torch.Tensor], source: str) -> int:
    """How many classes, the background included, the weights tell apart."""
    layer, anchors = _CLASS_LAYERS[_MODELS[name]], _ANCHORS[_MODELS[name]]
    if layer not in weights or len(weights[layer]) < 2 * anchors:
        raise WeightsError(f"{source}: expected weights of torchvision's {name}, but it has no '{layer}'")
    return len(weights[layer]) // anchors


def _load(model: torch.nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # a heading, and a line for each kind of misfit
        reason = " ".join(" ".join(str(error).splitlines()[1:]).split())[:300]
        raise WeightsError(f"{source}: does not fit the person detector: {reason}") from None


def _register(name: str) -> None:
    make: Callable[[CfgNode, torch.device], TorchvisionDetector] = partial(TorchvisionDetector, name)
    PERSON_DETECTOR_REGISTRY.register_as(name)(make)


for _name in _MODELS:
    _register(_name)
