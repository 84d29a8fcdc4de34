"""The COCO models of detectron2's model zoo, where detectron2 is installed."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from vmae_det.checkpoint.files import read_checkpoint
from vmae_det.checkpoint.locate import locate
from vmae_det.checkpoint.state_dicts import state_dict_of
from vmae_det.config import CfgNode
from vmae_det.data.pickles import PickledArray, load_plain_pickle
from vmae_det.inference.person_detectors.interface import (
    PERSON_DETECTOR_REGISTRY,
    RANDOM,
    PersonDetector,
    no_weights,
)
from vmae_det.utils.errors import ConfigError, WeightsError

_PERSON = 0  # of detectron2's COCO classes
_INSTALL = (
    "PERSON_DETECTOR.NAME: detectron2 is not installed here; `pip install 'vmae_det[detectron2]'` gets it "
    "(built from source), or choose fasterrcnn_resnet50_fpn_v2 or another of torchvision's networks"
)


@PERSON_DETECTOR_REGISTRY.register_as("detectron2")
class Detectron2Detector(PersonDetector):
    """A network of detectron2's model zoo; PERSON_DETECTOR.CONFIG names it."""

    def __init__(self, cfg: CfgNode, device: torch.device) -> None:
        super().__init__(cfg, device)
        zoo, build_model, transforms = _import()
        own = self._config(zoo, cfg.PERSON_DETECTOR)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.SEED)
            self.model = build_model(own).eval()
        if cfg.PERSON_DETECTOR.WEIGHTS != RANDOM:
            _load(self.model, *_weights(zoo, cfg.PERSON_DETECTOR))
        self.resize = transforms.ResizeShortestEdge(
            [own.INPUT.MIN_SIZE_TEST, own.INPUT.MIN_SIZE_TEST], own.INPUT.MAX_SIZE_TEST
        )
        self.is_bgr = own.INPUT.FORMAT == "BGR"

    def _config(self, zoo: ModuleType, node: CfgNode) -> Any:
        """detectron2's config of the network, with our thresholds."""
        if not node.CONFIG.startswith("COCO-"):
            raise ConfigError(
                f"PERSON_DETECTOR.CONFIG: expected a COCO config of detectron2's model zoo, such as "
                f"COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml, got '{node.CONFIG}'"
            )
        try:
            own = zoo.get_config(node.CONFIG)
        except RuntimeError as error:
            raise ConfigError(f"PERSON_DETECTOR.CONFIG: {error}") from None
        own.defrost()
        own.MODEL.DEVICE = str(self.device)
        own.MODEL.ROI_HEADS.SCORE_THRESH_TEST = own.MODEL.RETINANET.SCORE_THRESH_TEST = node.SCORE
        own.MODEL.ROI_HEADS.NMS_THRESH_TEST = own.MODEL.RETINANET.NMS_THRESH_TEST = node.NMS_IOU
        own.TEST.DETECTIONS_PER_IMAGE = max(100, 2 * node.MAX_PEOPLE)
        if node.SHORT_SIDE:
            own.INPUT.MIN_SIZE_TEST = node.SHORT_SIDE
        return own

    def _detect(self, frames: Sequence[np.ndarray]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        found = [result.get("instances") for result in self.model([self._input(frame) for frame in frames])]
        if any(instances is None for instances in found):
            raise ConfigError(f"PERSON_DETECTOR.CONFIG: {self.node.CONFIG} finds no instances of classes")
        people = [instances[instances.pred_classes == _PERSON] for instances in found]
        return [(instances.pred_boxes.tensor, instances.scores) for instances in people]

    def _input(self, frame: np.ndarray) -> dict[str, Any]:
        picture = frame[:, :, ::-1] if self.is_bgr else frame
        picture = self.resize.get_transform(picture).apply_image(np.ascontiguousarray(picture))
        tensor = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float()
        return {"image": tensor, "height": frame.shape[0], "width": frame.shape[1]}


def _import() -> tuple[ModuleType, Any, ModuleType]:
    try:
        from detectron2 import model_zoo
        from detectron2.data import transforms
        from detectron2.modeling import build_model
    except ImportError as error:
        missing = (error.name or "").partition(".")[0] == "detectron2"
        raise ConfigError(_INSTALL if missing else f"{_INSTALL} ({error})") from None
    return model_zoo, build_model, transforms


def _weights(zoo: ModuleType, node: CfgNode) -> tuple[dict[str, torch.Tensor], str]:
    """Tensors by name, and where they are from."""
    if node.WEIGHTS:
        return _read(locate(node.WEIGHTS)), node.WEIGHTS
    try:
        url = zoo.get_checkpoint_url(node.CONFIG)
    except RuntimeError as error:
        raise ConfigError(f"PERSON_DETECTOR.CONFIG: {error}") from None
    try:
        return _read(locate(url)), url
    except WeightsError as error:
        raise no_weights(node.CONFIG, url, error) from None


def _read(path: Path) -> dict[str, torch.Tensor]:
    """The zoo's files are pickles of arrays, of which nothing is run; others are read as checkpoints are."""
    if path.suffix != ".pkl":
        return state_dict_of(read_checkpoint(path), str(path))
    content = load_plain_pickle(path, "weights")
    arrays = content.get("model", content) if isinstance(content, dict) else {}
    try:
        return {
            name: torch.tensor(value.to_numpy())
            for name, value in arrays.items()
            if isinstance(value, PickledArray)
        }
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: holds {error}") from None


def _load(model: torch.nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Buffers, such as anchors, may be missing; parameters may not."""
    try:
        missing = set(model.load_state_dict(weights, strict=False).missing_keys)
    except RuntimeError as error:
        reason = " ".join(" ".join(str(error).splitlines()[1:]).split())[:300]
        raise WeightsError(f"{source}: does not fit the person detector: {reason}") from None
    lacking = [name for name, _ in model.named_parameters() if name in missing]
    if lacking:
        raise WeightsError(f"{source}: lacks {len(lacking)} parameters of the person detector: {lacking[:3]}")
