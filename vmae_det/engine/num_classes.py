"""Resolve `NUM_CLASSES: auto`: the number of classes of the weights, or of the datasets."""

from __future__ import annotations

import logging

from vmae_det.checkpoint import read_checkpoint
from vmae_det.checkpoint.loading import config_keys_from_shapes, read_weights
from vmae_det.config import CfgNode
from vmae_det.config.cfg_node import value_of
from vmae_det.config.checks import NUM_CLASSES_KEYS
from vmae_det.config.ranges import AUTO
from vmae_det.data.catalog import get_dataset
from vmae_det.formats.label_map import LabelMap
from vmae_det.modeling import model_class
from vmae_det.utils.errors import ConfigError

logger = logging.getLogger(__name__)


def resolve_num_classes(cfg: CfgNode, stored: CfgNode | None = None) -> str:
    """Replace `auto` by the number of classes in `cfg`, which may be frozen.

    It is the number of outputs of MODEL.WEIGHTS, if they contain a head for this task. Otherwise it is the
    number of classes of the first dataset of DATASETS.TRAIN (without any, of DATASETS.TEST) with a label map.

    Args:
        stored: the config stored with MODEL.WEIGHTS. None reads the number from the weights.

    Returns:
        The weights, label map or datasets that the number comes from; "" if it was not auto.

    Raises:
        ConfigError: neither the weights nor the datasets have classes.
    """
    key = NUM_CLASSES_KEYS.get(model_class(cfg).task)
    if key is None or value_of(cfg, key) != AUTO:
        return ""
    number, source = _of_weights(cfg, key, stored), cfg.MODEL.WEIGHTS
    if number is None:
        number, source = _of_datasets(cfg, key)
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.merge_from_list([key, number])
    if frozen:
        cfg.freeze()
    logger.info("%s: %d, the classes of %s", key, number, source)
    return source


def _of_weights(cfg: CfgNode, key: str, stored: CfgNode | None) -> int | None:
    weights = cfg.MODEL.WEIGHTS
    if not weights:
        return None
    if stored is not None and stored.MODEL.META_ARCHITECTURE == cfg.MODEL.META_ARCHITECTURE:
        number = value_of(stored, key)
        if number != AUTO:
            return number
    if stored is not None:
        return None  # weights for another task, such as a pre-trained backbone
    _, renamed = read_weights(read_checkpoint(weights), weights)
    return config_keys_from_shapes(renamed.weights).get(key)


def _of_datasets(cfg: CfgNode, key: str) -> tuple[int, str]:
    names = cfg.DATASETS.TRAIN or cfg.DATASETS.TEST
    specs = [get_dataset(name, cfg.DATASETS.ROOT) for name in names]
    for spec in specs:
        if spec.label_map is not None:
            return len(LabelMap.from_file(spec.label_map)), str(spec.label_map)
    is_list = [spec.type == "classification" for spec in specs]
    if specs and key == NUM_CLASSES_KEYS["classification"] and all(is_list):
        labels = [spec.labeled_videos()[1].max() for spec in specs]
        return int(max(labels)) + 1, ", ".join(spec.name for spec in specs)
    where = ", ".join(names) or "DATASETS.TRAIN, which is empty,"
    raise ConfigError(f"{key}: auto, but {where} has no label map; set the number of classes")
