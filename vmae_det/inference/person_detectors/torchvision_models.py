"""torchvision's Faster R-CNN and RetinaNet, with its COCO weights or those of a file."""

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
    download_error,
)
from vmae_det.utils.errors import WeightsError

_PERSON = 1  # in torchvision's COCO classes, where 0 is the background
# For each family, the names of the arguments for its thresholds.
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
# The layer whose length is the number of classes times the number of anchors, and the number of anchors.
_CLASS_LAYERS = {
    _FASTER_RCNN: ("roi_heads.box_predictor.cls_score.bias", 1),
    _RETINANET: ("head.classification_head.cls_logits.bias", 9),
}


class TorchvisionDetector(PersonDetector):
    """A detection network of torchvision; class 1 is the person.

    Args:
        name: name of the network in torchvision.
    """

    def __init__(self, name: str, cfg: CfgNode, device: torch.device) -> None:
        super().__init__(cfg, device)
        node, family = cfg.PERSON_DETECTOR, _MODELS[name]
        score, nms_iou, max_boxes = family
        # The network counts boxes of all classes; those of other classes are dropped afterwards.
        options = {score: node.SCORE, nms_iou: node.NMS_IOU, max_boxes: max(100, 2 * node.MAX_PEOPLE)}
        if node.SHORT_SIDE:
            options["min_size"] = node.SHORT_SIDE
        weights = _load_weights(name, node.WEIGHTS)
        classes = 2 if weights is None else _count_classes(name, weights, node.WEIGHTS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.SEED)
            model = get_model(name, weights=None, weights_backbone=None, num_classes=classes, **options)
        if weights is not None:
            _load_state_dict(model, weights, node.WEIGHTS or name)
        self.model = model.to(device).eval()

    def _detect(self, frames: Sequence[np.ndarray]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        detections = self.model([_to_tensor(frame, self.device) for frame in frames])
        is_person = [result["labels"] == _PERSON for result in detections]
        return [
            (result["boxes"][rows], result["scores"][rows]) for result, rows in zip(detections, is_person)
        ]


def _to_tensor(frame: np.ndarray, device: torch.device) -> torch.Tensor:
    """Convert a frame uint8 (H, W, 3) to floats (3, H, W) in [0, 1] on a device."""
    return torch.from_numpy(np.ascontiguousarray(frame)).to(device).permute(2, 0, 1).float() / 255


def _load_weights(name: str, source: str) -> dict[str, torch.Tensor] | None:
    """Return a state dict; None for random weights."""
    if source == RANDOM:
        return None
    return state_dict_of(read_checkpoint(source), source) if source else _load_published(name)


def _load_published(name: str) -> dict[str, torch.Tensor]:
    """Return torchvision's COCO weights, from torch.hub's cache or the web."""
    weights = get_model_weights(name).DEFAULT
    try:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{name}.lock"):  # several processes may download at the same time
            return weights.get_state_dict(
                progress=True, check_hash=True, map_location="cpu", weights_only=True
            )
    except urllib.error.URLError as error:
        raise download_error(name, weights.url, error.reason) from None
    except (OSError, RuntimeError) as error:  # a disk error, or a wrong hash
        raise download_error(name, weights.url, error) from None


def _count_classes(name: str, weights: dict[str, torch.Tensor], source: str) -> int:
    """Return the number of classes of the weights, including the background."""
    layer, anchors = _CLASS_LAYERS[_MODELS[name]]
    if layer not in weights or len(weights[layer]) < 2 * anchors:
        raise WeightsError(f"{source}: expected weights of torchvision's {name}, but it has no '{layer}'")
    return len(weights[layer]) // anchors


def _load_state_dict(model: torch.nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # the first line is a heading
        reason = " ".join(" ".join(str(error).splitlines()[1:]).split())[:300]
        raise WeightsError(f"{source}: does not fit the person detector: {reason}") from None


def _register(name: str) -> None:
    build: Callable[[CfgNode, torch.device], TorchvisionDetector] = partial(TorchvisionDetector, name)
    PERSON_DETECTOR_REGISTRY.register_as(name)(build)


for _name in _MODELS:
    _register(_name)
