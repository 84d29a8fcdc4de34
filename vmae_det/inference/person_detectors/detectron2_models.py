"""detectron2's networks, of its model zoo or one's own, where detectron2 is installed."""

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
from vmae_det.inference.person_detectors.interface import (
    PERSON_DETECTOR_REGISTRY,
    RANDOM,
    PersonDetector,
    no_weights,
)
from vmae_det.inference.person_detectors.onnx_metadata import person_classes
from vmae_det.utils.errors import ConfigError, WeightsError
from vmae_det.utils.safe_pickle import PickledArray, safe_load_pickle

_PERSON = 0  # of detectron2's COCO classes
_PARAMETERS = (".weight", ".bias")
_STEPS = (
    "docs/person_detectors.md has the steps that install it, or choose fasterrcnn_resnet50_fpn_v2 or another "
    "of torchvision's networks"
)


@PERSON_DETECTOR_REGISTRY.register_as("detectron2")
class Detectron2Detector(PersonDetector):
    """The network that PERSON_DETECTOR.CONFIG names: of detectron2's model zoo, or in a YAML file."""

    def __init__(self, cfg: CfgNode, device: torch.device) -> None:
        super().__init__(cfg, device)
        zoo, build_model, transforms = _import()
        node = cfg.PERSON_DETECTOR
        if Path(node.CONFIG).is_file():
            zoo, own = None, _read_config(node.CONFIG)
            self.person = _person_class(own, node.CONFIG)
        else:
            own, self.person = _zoo_config(node.CONFIG, zoo), _PERSON
        self._set(own, node)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.SEED)
            self.model = build_model(own).eval()
        if node.WEIGHTS != RANDOM:
            _load(self.model, *_weights(node, zoo))
        self.resize = transforms.ResizeShortestEdge(
            [own.INPUT.MIN_SIZE_TEST, own.INPUT.MIN_SIZE_TEST], own.INPUT.MAX_SIZE_TEST
        )
        self.is_bgr = own.INPUT.FORMAT == "BGR"

    def _set(self, own: Any, node: CfgNode) -> None:
        """Device, thresholds and size in detectron2's config."""
        own.defrost()
        own.MODEL.DEVICE = str(self.device)
        own.MODEL.ROI_HEADS.SCORE_THRESH_TEST = own.MODEL.RETINANET.SCORE_THRESH_TEST = node.SCORE
        own.MODEL.ROI_HEADS.NMS_THRESH_TEST = own.MODEL.RETINANET.NMS_THRESH_TEST = node.NMS_IOU
        own.TEST.DETECTIONS_PER_IMAGE = max(100, 2 * node.MAX_PEOPLE)
        if node.SHORT_SIDE:
            own.INPUT.MIN_SIZE_TEST = node.SHORT_SIDE

    def _detect(self, frames: Sequence[np.ndarray]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        found = [result.get("instances") for result in self.model([self._input(frame) for frame in frames])]
        if any(instances is None for instances in found):
            raise ConfigError(f"PERSON_DETECTOR.CONFIG: {self.node.CONFIG} finds no instances of classes")
        people = [instances[instances.pred_classes == self.person] for instances in found]
        return [(instances.pred_boxes.tensor, instances.scores) for instances in people]

    def _input(self, frame: np.ndarray) -> dict[str, Any]:
        picture = frame[:, :, ::-1] if self.is_bgr else frame
        picture = self.resize.get_transform(picture).apply_image(np.ascontiguousarray(picture))
        tensor = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float()
        return {"image": tensor, "height": frame.shape[0], "width": frame.shape[1]}


def _import() -> tuple[ModuleType, Any, ModuleType]:
    """The parts of detectron2 that are used; ConfigError with the reason where it cannot be imported."""
    try:
        from detectron2 import model_zoo
        from detectron2.data import transforms
        from detectron2.modeling import build_model
    except ModuleNotFoundError as error:
        if error.name == "detectron2":
            raise ConfigError(f"PERSON_DETECTOR.NAME: detectron2 is not installed here; {_STEPS}") from None
        cure = ' (`pip install "setuptools<81"`)' if error.name == "pkg_resources" else ""
        raise _broken(f"it needs {error.name}, which is not installed{cure}") from None
    except Exception as error:  # a library that lacks a symbol, or one whose version it does not fit
        raise _broken(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from None
    return model_zoo, build_model, transforms


def _broken(reason: str) -> ConfigError:
    return ConfigError(
        f"PERSON_DETECTOR.NAME: detectron2 is installed here, but cannot be imported: {reason}; {_STEPS}"
    )


def _zoo_config(name: str, zoo: ModuleType) -> Any:
    if not name.startswith("COCO-"):
        raise ConfigError(
            "PERSON_DETECTOR.CONFIG: expected a YAML file of detectron2, or a COCO config of its model zoo, "
            f"such as COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml, got '{name}'"
        )
    try:
        return zoo.get_config(name)
    except RuntimeError as error:
        raise ConfigError(f"PERSON_DETECTOR.CONFIG: {error}") from None


def _read_config(path: str) -> Any:
    """detectron2's config in a YAML file, of which nothing is run."""
    from detectron2.config import get_cfg

    own = get_cfg()
    try:
        own.merge_from_file(path, allow_unsafe=False)
    except Exception as error:  # of YAML, of unknown keys and of wrong values, which have no common base
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"PERSON_DETECTOR.CONFIG: {path}: not a config of detectron2: {reason}") from None
    return own


def _person_class(own: Any, path: str) -> int:
    """The class that is a person: by the names that the config's datasets have, or the only one."""
    from detectron2.data import MetadataCatalog

    one_stage = own.MODEL.META_ARCHITECTURE == "RetinaNet"
    count = own.MODEL.RETINANET.NUM_CLASSES if one_stage else own.MODEL.ROI_HEADS.NUM_CLASSES
    for dataset in (*own.DATASETS.TEST, *own.DATASETS.TRAIN):
        names = _thing_classes(dataset, MetadataCatalog)
        if len(names) != count:
            continue
        people = person_classes(dict(enumerate(names)))
        if len(people) == 1:
            return people[0]
        raise ConfigError(
            f"PERSON_DETECTOR.CONFIG: {path}: expected one class that is a person, got {len(people)} among "
            f"{', '.join(names[:10])}"
        )
    if count != 1:
        raise ConfigError(
            f"PERSON_DETECTOR.CONFIG: {path}: which of its {count} classes is a person is unknown: none of "
            "its DATASETS is registered with as many names ('thing_classes')"
        )
    return 0


def _thing_classes(dataset: str, catalog: Any) -> list[str]:
    """The names of a dataset's classes; [] where it is not registered in detectron2."""
    return catalog.get(dataset).get("thing_classes", []) if dataset in catalog.list() else []


def _weights(node: CfgNode, zoo: ModuleType | None) -> tuple[dict[str, torch.Tensor], str]:
    """Tensors by name, and where they are from."""
    if node.WEIGHTS:
        return _read(locate(node.WEIGHTS)), node.WEIGHTS
    if zoo is None:
        raise ConfigError(f"PERSON_DETECTOR.WEIGHTS: names no file; {node.CONFIG} needs one")
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
    content = safe_load_pickle(path, "weights")
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
    """Load weights, which may lack buffers, such as anchors, and hold other parts, such as a mask head.

    Raises:
        WeightsError: a parameter is missing or of another shape, or a part of the model has no place for one.
    """
    try:
        keys = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        reason = " ".join(" ".join(str(error).splitlines()[1:]).split())[:300]
        raise WeightsError(f"{source}: does not fit the person detector: {reason}") from None
    lacking = [name for name, _ in model.named_parameters() if name in keys.missing_keys]
    parts = {_part(name) for name in model.state_dict()}
    surplus = [name for name in keys.unexpected_keys if name.endswith(_PARAMETERS) and _part(name) in parts]
    if surplus:
        raise WeightsError(
            f"{source}: does not fit the person detector: no place for {len(surplus)} parameters, such as "
            f"{surplus[0]}; PERSON_DETECTOR.CONFIG names the network of the weights"
        )
    if lacking:
        raise WeightsError(f"{source}: lacks {len(lacking)} parameters of the person detector: {lacking[:3]}")


def _part(name: str) -> str:
    """The part of a network that a parameter belongs to, such as "backbone.bottom_up"."""
    return ".".join(name.split(".")[:2])
