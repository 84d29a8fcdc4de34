"""detectron2's networks, from its model zoo or a custom config. detectron2 is optional."""

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
    download_error,
    person_classes,
)
from vmae_det.utils.errors import ConfigError, WeightsError
from vmae_det.utils.safe_pickle import PickledArray, safe_load_pickle

_PERSON = 0  # in detectron2's COCO classes
_PARAMETERS = (".weight", ".bias")
_REMEDY = (
    "see docs/guides/person_detectors.md for how to install it, or use fasterrcnn_resnet50_fpn_v2 or "
    "another network of torchvision"
)


@PERSON_DETECTOR_REGISTRY.register_as("detectron2")
class Detectron2Detector(PersonDetector):
    """The network of PERSON_DETECTOR.CONFIG, a config of detectron2's model zoo or a YAML file."""

    def __init__(self, cfg: CfgNode, device: torch.device) -> None:
        super().__init__(cfg, device)
        zoo, build_model, transforms = _import_detectron2()
        node = cfg.PERSON_DETECTOR
        if Path(node.CONFIG).is_file():
            zoo, d2_cfg = None, _read_config(node.CONFIG)
            self.person_class = _find_person_class(d2_cfg, node.CONFIG)
        else:
            d2_cfg, self.person_class = _zoo_config(node.CONFIG, zoo), _PERSON
        self._apply_options(d2_cfg, node)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.SEED)
            self.model = build_model(d2_cfg).eval()
        if node.WEIGHTS != RANDOM:
            _load_state_dict(self.model, *_find_weights(node, zoo))
        self.resize = transforms.ResizeShortestEdge(
            [d2_cfg.INPUT.MIN_SIZE_TEST, d2_cfg.INPUT.MIN_SIZE_TEST], d2_cfg.INPUT.MAX_SIZE_TEST
        )
        self.is_bgr = d2_cfg.INPUT.FORMAT == "BGR"

    def _apply_options(self, d2_cfg: Any, node: CfgNode) -> None:
        """Set the device, the thresholds and the input size in detectron2's config."""
        d2_cfg.defrost()
        d2_cfg.MODEL.DEVICE = str(self.device)
        d2_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = d2_cfg.MODEL.RETINANET.SCORE_THRESH_TEST = node.SCORE
        d2_cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = d2_cfg.MODEL.RETINANET.NMS_THRESH_TEST = node.NMS_IOU
        d2_cfg.TEST.DETECTIONS_PER_IMAGE = max(100, 2 * node.MAX_PEOPLE)
        if node.SHORT_SIDE:
            d2_cfg.INPUT.MIN_SIZE_TEST = node.SHORT_SIDE

    def _detect(self, frames: Sequence[np.ndarray]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        results = [result.get("instances") for result in self.model([self._input(f) for f in frames])]
        if any(instances is None for instances in results):
            raise ConfigError(f"PERSON_DETECTOR.CONFIG: {self.node.CONFIG} does not predict instances")
        persons = [instances[instances.pred_classes == self.person_class] for instances in results]
        return [(instances.pred_boxes.tensor, instances.scores) for instances in persons]

    def _input(self, frame: np.ndarray) -> dict[str, Any]:
        image = frame[:, :, ::-1] if self.is_bgr else frame
        image = self.resize.get_transform(image).apply_image(np.ascontiguousarray(image))
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
        return {"image": tensor, "height": frame.shape[0], "width": frame.shape[1]}


def _import_detectron2() -> tuple[Any, Any, ModuleType]:
    """Import detectron2's model zoo, `build_model` and transforms.

    Raises:
        ConfigError: detectron2 is not installed, or cannot be imported.
    """
    try:
        from detectron2 import model_zoo
        from detectron2.data import transforms
        from detectron2.modeling import build_model
    except ModuleNotFoundError as error:
        if error.name == "detectron2":
            raise ConfigError(f"PERSON_DETECTOR.NAME: detectron2 is not installed; {_REMEDY}") from None
        install = ' (`pip install "setuptools<81"`)' if error.name == "pkg_resources" else ""
        raise _broken_install(f"it needs {error.name}, which is not installed{install}") from None
    except Exception as error:  # such as a library that lacks a symbol or has an incompatible version
        raise _broken_install(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from None
    return model_zoo, build_model, transforms


def _broken_install(reason: str) -> ConfigError:
    return ConfigError(
        f"PERSON_DETECTOR.NAME: detectron2 is installed, but cannot be imported: {reason}; {_REMEDY}"
    )


def _zoo_config(name: str, zoo: Any) -> Any:
    if not name.startswith("COCO-"):
        raise ConfigError(
            "PERSON_DETECTOR.CONFIG: expected a YAML file of detectron2, or a COCO config of its model zoo "
            f"such as COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml, got '{name}'"
        )
    try:
        return zoo.get_config(name)
    except RuntimeError as error:
        raise ConfigError(f"PERSON_DETECTOR.CONFIG: {error}") from None


def _read_config(path: str) -> Any:
    """Read a config of detectron2 from a YAML file, without running code in it."""
    from detectron2.config import get_cfg

    d2_cfg = get_cfg()
    try:
        d2_cfg.merge_from_file(path, allow_unsafe=False)
    except Exception as error:  # errors of YAML, unknown keys and wrong values have no common base class
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"PERSON_DETECTOR.CONFIG: {path}: not a config of detectron2: {reason}") from None
    return d2_cfg


def _find_person_class(d2_cfg: Any, path: str) -> int:
    """Return the class that is a person, by the class names of the config's datasets, or the only class."""
    from detectron2.data import MetadataCatalog

    is_retinanet = d2_cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    count = d2_cfg.MODEL.RETINANET.NUM_CLASSES if is_retinanet else d2_cfg.MODEL.ROI_HEADS.NUM_CLASSES
    for dataset in (*d2_cfg.DATASETS.TEST, *d2_cfg.DATASETS.TRAIN):
        names = _class_names(dataset, MetadataCatalog)
        if len(names) != count:
            continue
        persons = person_classes(dict(enumerate(names)))
        if len(persons) == 1:
            return persons[0]
        raise ConfigError(
            f"PERSON_DETECTOR.CONFIG: {path}: expected one class that is a person, got {len(persons)} among "
            f"{', '.join(names[:10])}"
        )
    if count != 1:
        raise ConfigError(
            f"PERSON_DETECTOR.CONFIG: {path}: cannot tell which of its {count} classes is a person: none of "
            "its DATASETS is registered with as many class names ('thing_classes')"
        )
    return 0


def _class_names(dataset: str, catalog: Any) -> list[str]:
    """Return the class names of a dataset; [] if it is not registered in detectron2."""
    return catalog.get(dataset).get("thing_classes", []) if dataset in catalog.list() else []


def _find_weights(node: CfgNode, zoo: Any) -> tuple[dict[str, torch.Tensor], str]:
    """Return a state dict, and the path or URL it comes from."""
    if node.WEIGHTS:
        return _read_weights(locate(node.WEIGHTS)), node.WEIGHTS
    if zoo is None:
        raise ConfigError(f"PERSON_DETECTOR.WEIGHTS: empty, but {node.CONFIG} needs a file of weights")
    try:
        url = zoo.get_checkpoint_url(node.CONFIG)
    except RuntimeError as error:
        raise ConfigError(f"PERSON_DETECTOR.CONFIG: {error}") from None
    try:
        return _read_weights(locate(url)), url
    except WeightsError as error:
        raise download_error(node.CONFIG, url, error) from None


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a file of weights without running code in it; the files of the zoo are pickles of arrays."""
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
        raise WeightsError(f"{path}: contains {error}") from None


def _load_state_dict(model: torch.nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Load weights. Buffers such as anchors may be missing; modules such as a mask head may be in excess.

    Raises:
        WeightsError: a parameter is missing or has another shape, or a module of the model has no parameter
            for a weight.
    """
    try:
        keys = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # the first line is a heading
        reason = " ".join(" ".join(str(error).splitlines()[1:]).split())[:300]
        raise WeightsError(f"{source}: does not fit the person detector: {reason}") from None
    missing = [name for name, _ in model.named_parameters() if name in keys.missing_keys]
    modules = {_module(name) for name in model.state_dict()}
    unexpected = [
        name for name in keys.unexpected_keys if name.endswith(_PARAMETERS) and _module(name) in modules
    ]
    if unexpected:
        raise WeightsError(
            f"{source}: does not fit the person detector: {len(unexpected)} unexpected parameters, such as "
            f"{unexpected[0]}; set PERSON_DETECTOR.CONFIG to the network of the weights"
        )
    if missing:
        raise WeightsError(
            f"{source}: {len(missing)} parameters of the person detector are missing: {missing[:3]}"
        )


def _module(name: str) -> str:
    """Return the first two levels of a parameter's name, such as "backbone.bottom_up"."""
    return ".".join(name.split(".")[:2])
