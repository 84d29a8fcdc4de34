"""What no shape of a parameter shows: the config of a run against the one that its weights were made with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from vmae_det.checkpoint.formats import FORMATS
from vmae_det.checkpoint.huggingface import DOUBTFUL_HEADS
from vmae_det.checkpoint.limits import HEADS_OF_WIDTH
from vmae_det.checkpoint.naming import part_of
from vmae_det.checkpoint.published import POSITIONS
from vmae_det.checkpoint.stored_config import stored_values
from vmae_det.checkpoint.weights import LoadReport
from vmae_det.config import CfgNode
from vmae_det.config.cfg_node import value_of
from vmae_det.utils.errors import ConfigError

logger = logging.getLogger(__name__)

_POSITIONS = "MODEL.BACKBONE.POSITIONS"
_HEADS = "MODEL.BACKBONE.NUM_HEADS"
# The same parameters compute something else with another value: an error, whatever they are loaded for. Each
# key with the part of the model that it belongs to.
_NETWORK = {
    _HEADS: "backbone",
    _POSITIONS: "backbone",
    "MODEL.BACKBONE.TUBELET_SIZE": "backbone",
    "MODEL.BACKBONE.PATCH_SIZE": "backbone",
    "MODEL.DECODER.NUM_HEADS": "decoder",
}
# Training gets used to another value, with a warning; a trained model gives wrong results: an error.
_TRAINED_FOR = {
    "MODEL.PIXEL_MEAN": "backbone",
    "MODEL.PIXEL_STD": "backbone",
    "MODEL.RECONSTRUCTION.NORMALIZE": "decoder",
    "MODEL.RECONSTRUCTION.SAMPLING_RATE": "decoder",
    "MODEL.ROI_HEAD.NAME": "roi_head",
    "MODEL.ROI_HEAD.RESOLUTION": "roi_head",
    "MODEL.ROI_HEAD.SAMPLING_RATIO": "roi_head",
    "MODEL.ROI_HEAD.ALIGNED": "roi_head",
}
# What a trained model may be tried with, with a warning.
_CLIPS = ("INPUT.NUM_FRAMES", "INPUT.SAMPLING", "INPUT.SAMPLING_RATE", "INPUT.CROP_SIZE")


def compare_configs(
    cfg: CfgNode, content: dict[str, Any], source: str | Path, report: LoadReport, complete: bool
) -> None:
    """Compare a run's config with that of the weights that its model was given.

    The weights' own is the one that travels with them, else the model zoo's for them. Published files without
    one were made with flat positions and, as a rule, with as many heads as VideoMAE's models have.

    Args:
        content: of the file.
        report: of loading it.
        complete: whether the weights are those of a trained model, which is not trained further.

    Raises:
        ConfigError: with the run's value of a key the weights would compute something else.
    """
    own = stored_values(content, source)
    parts = {part_of(name) for name in report.loaded}
    known = next(known for known in FORMATS if known.name == report.format)
    published = known.family not in ("vmae_det", "image-mae")  # images have other positions anyway
    if published:
        own = {_POSITIONS: "flat", **own}
    if POSITIONS in report.loaded and "decoder" not in parts:
        own.pop(_POSITIONS, None)  # the table itself is in the file
    width, heads = cfg.MODEL.BACKBONE.EMBED_DIM, cfg.MODEL.BACKBONE.NUM_HEADS
    is_doubtful = known.family == "huggingface" and own.get(_HEADS) == DOUBTFUL_HEADS.get(width)
    if is_doubtful and heads == HEADS_OF_WIDTH["backbone"].get(width):
        own.pop(_HEADS, None)  # the run has what the warning of `read_settings` advises
    for key, part in (_NETWORK | _TRAINED_FOR).items():
        if part in parts and key in own and not _same(value_of(cfg, key), own[key]):
            message = (
                f"{key}: {value_of(cfg, key)!r}, but {source} was made with {own[key]!r}, "
                "without which its weights give other results"
            )
            if complete or key in _NETWORK:
                raise ConfigError(message)
            logger.warning("%s; training has to make up for it", message)
    for key in _CLIPS if complete else ():
        if key in own and value_of(cfg, key) != own[key]:
            logger.warning("%s: %r, but %s was trained with %r", key, value_of(cfg, key), source, own[key])
    if published and _HEADS not in own:
        _compare_heads(cfg, source, parts)


def _compare_heads(cfg: CfgNode, source: str | Path, parts: set[str]) -> None:
    for part, heads_of_width in HEADS_OF_WIDTH.items():
        node = cfg.MODEL[part.upper()]
        usual = heads_of_width.get(node.EMBED_DIM, node.NUM_HEADS)
        if part in parts and usual != node.NUM_HEADS:
            logger.warning(
                "MODEL.%s.NUM_HEADS: %d, but VideoMAE's models of width %d have %d: set %d unless %s was "
                "made with %d",
                part.upper(),
                node.NUM_HEADS,
                node.EMBED_DIM,
                usual,
                usual,
                source,
                node.NUM_HEADS,
            )


def _same(value: Any, own: Any) -> bool:
    """Whether two values are equal, numbers up to rounding."""
    if isinstance(value, (tuple, list)) and isinstance(own, (tuple, list)) and len(value) == len(own):
        return all(_same(*pair) for pair in zip(value, own))
    if isinstance(value, float) and isinstance(own, (int, float)):
        return abs(value - own) <= 1e-4 * max(abs(value), 1)
    return value == own
