"""The config that weights were trained with: read it from a checkpoint, and compare it to the run's config.

The comparison covers the settings that parameter shapes do not reveal, such as the number of attention heads.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from vmae_det import model_zoo
from vmae_det.checkpoint.huggingface_config import DOUBTFUL_HEADS
from vmae_det.checkpoint.loading import LoadReport
from vmae_det.checkpoint.published_formats import (
    FORMATS,
    HEADS_BY_WIDTH,
    PUBLISHED_BACKBONES,
    Format,
    part_of,
)
from vmae_det.checkpoint.rename_parameters import POSITIONS
from vmae_det.config import CfgNode, check_config, get_cfg
from vmae_det.config.cfg_node import flatten, value_of
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.safe_yaml import load_yaml

logger = logging.getLogger(__name__)

_NAME_KEY = "MODEL.BACKBONE.NAME"
_POSITIONS_KEY = "MODEL.BACKBONE.POSITIONS"
_HEADS_KEY = "MODEL.BACKBONE.NUM_HEADS"
_TEMPORAL_POOL_KEY = "MODEL.ROI_HEAD.TEMPORAL_POOL"
# Keys that change what the same parameters compute, with the part of the model that they belong to. A
# different value is always an error.
_NETWORK_KEYS = {
    _NAME_KEY: "backbone",
    _HEADS_KEY: "backbone",
    _POSITIONS_KEY: "backbone",
    "MODEL.BACKBONE.TUBELET_SIZE": "backbone",
    "MODEL.BACKBONE.PATCH_SIZE": "backbone",
    "MODEL.BACKBONE.CLASS_TOKEN": "backbone",
    "MODEL.DECODER.NUM_HEADS": "decoder",
}
# Keys to which training can adapt: a different value is a warning in training, and an error otherwise.
_TRAINED_KEYS = {
    "MODEL.PIXEL_MEAN": "backbone",
    "MODEL.PIXEL_STD": "backbone",
    "MODEL.RECONSTRUCTION.NORMALIZE": "decoder",
    "MODEL.RECONSTRUCTION.SAMPLING_RATE": "decoder",
    "MODEL.ROI_HEAD.NAME": "roi_head",
    "MODEL.ROI_HEAD.RESOLUTION": "roi_head",
    "MODEL.ROI_HEAD.SAMPLING_RATIO": "roi_head",
    "MODEL.ROI_HEAD.ALIGNED": "roi_head",
    _TEMPORAL_POOL_KEY: "roi_head",
    "MODEL.ROI_HEAD.ATTENTION_HEADS": "roi_head",
    "MODEL.PERSON_HEAD.NAME": "person_head",
    "MODEL.PERSON_HEAD.BLOCKS": "person_head",
}
# Keys that may differ when a trained model is used; a different value is a warning.
_KEEP_RATE_KEY = "MODEL.BACKBONE.TOKEN_KEEP_RATE"
_USE_KEYS = (
    *("INPUT.NUM_FRAMES", "INPUT.SAMPLING", "INPUT.SAMPLING_RATE", "INPUT.CROP_SIZE"),
    *(_KEEP_RATE_KEY, "MODEL.BACKBONE.TOKEN_DROP_BLOCKS"),
)
# The default of PERSON_DETECTOR.NAME before there were person heads. It was not a choice of the user.
_FORMER_PERSON_DETECTOR = "fasterrcnn_resnet50_fpn_v2"
_MODELS = {  # by backbone, in messages
    "VideoViT": "VideoMAE",
    "VJepa2ViT": "V-JEPA 2",
    "VJepa21ViT": "V-JEPA 2.1",
    "Hiera": "Hiera",
}


def stored_config(content: dict[str, Any], source: str | Path) -> CfgNode | None:
    """Return the config stored in a checkpoint, or else that of the model zoo for `source`, or else None.

    Args:
        content: content of the checkpoint.
        source: path or name that the content was read from.

    Raises:
        ConfigError: the stored config is damaged, or a value is out of range.
    """
    text = content.get("config")
    if isinstance(text, str) and text:
        cfg = get_cfg()
        cfg.merge_from_text(text, str(source))
        is_former = "PERSON_HEAD" not in load_yaml(text).get("MODEL", {})
        if is_former and cfg.PERSON_DETECTOR.NAME == _FORMER_PERSON_DETECTOR:
            cfg.PERSON_DETECTOR.NAME = "auto"
        check_config(cfg)
        return cfg
    published = model_zoo.WEIGHTS.get(str(source))
    return model_zoo.get_config(published.config) if published else None


def _stored_values(content: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """Return the values of the keys that `stored_config` sets, without those left at their defaults."""
    cfg = stored_config(content, source)
    if cfg is None:
        return {}
    keys = (key for key, _ in flatten(load_yaml(content.get("config") or cfg.dump())))
    return {key: value_of(cfg, key) for key in keys}


def compare_configs(
    cfg: CfgNode, content: dict[str, Any], source: str | Path, report: LoadReport, complete: bool
) -> None:
    """Compare the config of a run to that of the weights that were loaded into its model.

    See `stored_config` for the latter. Published files without a config are assumed to have flat positions,
    the usual number of heads of their authors' models, and the mean over time before the RoI head.

    Args:
        content: content of the checkpoint.
        source: path or name that the content was read from.
        report: what `load_weights` returned.
        complete: whether the weights are a trained model that is not trained further.

    Raises:
        ConfigError: with the run's value of a key, the weights would compute other results.
    """
    stored = _stored_values(content, source)
    parts = {part_of(name) for name in report.loaded}
    known = next(known for known in FORMATS if known.name == report.format)
    if stored or known.names is not None:
        # Published models, and checkpoints from before the keys, average over time and drop no tokens.
        stored = {_TEMPORAL_POOL_KEY: "mean", _KEEP_RATE_KEY: 1.0, **stored}
    published = known.family not in ("vmae_det", "image-mae")  # images have other positions
    is_image_model = stored.get("INPUT.NUM_FRAMES") == 1 and not complete
    if known.family == "image-mae" or is_image_model:
        stored.pop("MODEL.BACKBONE.TUBELET_SIZE", None)  # an image fits tokens of any number of frames
    if published and known.backbone == "VideoViT":
        stored = {_POSITIONS_KEY: "flat", **stored}
    if not {cfg.MODEL.BACKBONE.NAME, stored.get(_NAME_KEY)} <= PUBLISHED_BACKBONES:
        stored.pop(_NAME_KEY, None)  # a custom backbone may load the weights of another
    if POSITIONS in report.loaded and "decoder" not in parts:
        stored.pop(_POSITIONS_KEY, None)  # the file contains the table itself
    width, heads = cfg.MODEL.BACKBONE.EMBED_DIM, cfg.MODEL.BACKBONE.NUM_HEADS
    is_doubtful = known.family == "huggingface" and stored.get(_HEADS_KEY) == DOUBTFUL_HEADS.get(width)
    if is_doubtful and heads == HEADS_BY_WIDTH["backbone"].get(width):
        stored.pop(_HEADS_KEY, None)  # the user followed the warning of `read_settings`
    for key, part in (_NETWORK_KEYS | _TRAINED_KEYS).items():
        if part in parts and key in stored and not _equal(value_of(cfg, key), stored[key]):
            message = (
                f"{key}: {value_of(cfg, key)!r}, but {source} was trained with {stored[key]!r}, and its "
                "weights produce different results with another value"
            )
            if complete or key in _NETWORK_KEYS:
                raise ConfigError(message)
            logger.warning("%s; training continues with the new value", message)
    for key in _USE_KEYS if complete else ():
        if key in stored and value_of(cfg, key) != stored[key]:
            logger.warning("%s: %r, but %s was trained with %r", key, value_of(cfg, key), source, stored[key])
    if published and _HEADS_KEY not in stored:
        _warn_about_heads(cfg, source, parts, known)


def _warn_about_heads(cfg: CfgNode, source: str | Path, parts: set[str], known: Format) -> None:
    for part, heads_by_width in known.heads_by_width.items():
        node = cfg.MODEL[part.upper()]
        usual = heads_by_width.get(node.EMBED_DIM, node.NUM_HEADS)
        if part in parts and usual != node.NUM_HEADS:
            logger.warning(
                "MODEL.%s.NUM_HEADS: %d, but %s models of width %d have %d: set %d unless %s was "
                "trained with %d",
                part.upper(),
                node.NUM_HEADS,
                _MODELS.get(known.backbone, known.name),
                node.EMBED_DIM,
                usual,
                usual,
                source,
                node.NUM_HEADS,
            )


def _equal(value: Any, stored: Any) -> bool:
    """Return whether two values are equal, up to rounding of floating-point numbers."""
    if isinstance(value, (tuple, list)) and isinstance(stored, (tuple, list)) and len(value) == len(stored):
        return all(_equal(*pair) for pair in zip(value, stored))
    if isinstance(value, float) and isinstance(stored, (int, float)):
        return abs(value - stored) <= 1e-4 * max(abs(value), 1)
    return value == stored
