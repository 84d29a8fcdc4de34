"""Build a model and load the weights that MODEL.WEIGHTS and MODEL.BACKBONE.CHECKPOINT name."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from vmae_det.checkpoint import LoadReport, load_weights, read_checkpoint
from vmae_det.checkpoint.published_formats import PUBLISHED_DETECTOR
from vmae_det.checkpoint.stored_config import compare_configs
from vmae_det.config import CfgNode
from vmae_det.data.classes import ModelClasses
from vmae_det.formats.label_map import LabelMap
from vmae_det.model_zoo import WEIGHTS
from vmae_det.modeling import build_model
from vmae_det.modeling.build import PRETRAINING_TASKS
from vmae_det.utils.errors import ConfigError, WeightsError
from vmae_det.utils.sharded_tensors import full_state_dict

logger = logging.getLogger(__name__)

_FROZEN_PARTS = ("backbone.", "roi_head.")  # with MODEL.PERSON_HEAD.TRAIN_ALONE


def build_model_with_weights(
    cfg: CfgNode, complete: bool = False, required: tuple[str, ...] = ("",)
) -> nn.Module:
    """Build the model and load MODEL.WEIGHTS, or MODEL.BACKBONE.CHECKPOINT into its backbone.

    If INPUT.CONVENTION is auto and MODEL.WEIGHTS is a published detector, set it to published in `cfg`.

    Args:
        complete: require MODEL.WEIGHTS to contain every parameter, as testing does.
        required: with `complete`, prefixes of the names of the parameters that are required.

    Raises:
        ConfigError: `complete`, and MODEL.WEIGHTS is empty.
        WeightsError: the weights cannot be read or do not fit, or `complete` and parameters are missing.
    """
    return _build(cfg, complete, required)[0]


def build_model_and_classes(
    cfg: CfgNode, complete: bool = False, required: tuple[str, ...] = ("",)
) -> tuple[nn.Module, ModelClasses | None]:
    """Like `build_model_with_weights`, and also return the class names stored with the head of the weights.

    The classes are None if the weights contain no head or no class names, or the head is not `required`.
    """
    model, has_classes = _build(cfg, complete, required)
    return model, _read_classes(cfg.MODEL.WEIGHTS) if has_classes else None


def _build(cfg: CfgNode, complete: bool, required: tuple[str, ...]) -> tuple[nn.Module, bool]:
    """Return the model, and whether MODEL.WEIGHTS contains a head for classes that is required."""
    model, has_classes, with_classes = build_model(cfg), False, "" in required
    trains_alone = not complete and getattr(model, "train_persons_alone", False)
    if trains_alone:
        complete, required = True, _FROZEN_PARTS
    if cfg.MODEL.BACKBONE.CHECKPOINT and not cfg.MODEL.WEIGHTS:
        _load(model, cfg, cfg.MODEL.BACKBONE.CHECKPOINT, backbone_only=True)
    if cfg.MODEL.WEIGHTS:
        report = _load(model, cfg, cfg.MODEL.WEIGHTS, complete=complete)
        _resolve_input_convention(cfg, report)
        has_head = any(not name.startswith("backbone.") for name in report.loaded)
        has_classes = has_head and model.task not in PRETRAINING_TASKS and with_classes
        missing = [name for name in report.missing if name.startswith(required)]
        if complete and missing:
            without_persons = all(name.startswith("person_head.") for name in missing)
            hint = "; train the person head first (docs/guides/one_stage.md)" if without_persons else ""
            raise WeightsError(
                f"{cfg.MODEL.WEIGHTS}: a {report.format} file without {', '.join(missing[:3])}: not "
                f"the weights of a trained {cfg.MODEL.META_ARCHITECTURE}{hint}"
            )
    elif trains_alone:
        raise ConfigError(
            "MODEL.WEIGHTS: empty, but MODEL.PERSON_HEAD.TRAIN_ALONE needs the weights of a trained detector"
        )
    elif complete:
        raise ConfigError("MODEL.WEIGHTS: empty; testing needs the weights of a trained model")
    return model, has_classes


def _load(
    model: nn.Module, cfg: CfgNode, source: str, backbone_only: bool = False, complete: bool = False
) -> LoadReport:
    """Load a file into the model, and compare the config of the run with the config in the file."""
    content = read_checkpoint(source)
    report = load_weights(model, content, backbone_only=backbone_only, where=source)
    compare_configs(cfg, content, source, report, complete)
    logger.info("%s: %s", source, report)
    return report


def _read_classes(weights: str) -> ModelClasses | None:
    """Return the class names stored with weights, or those of the model zoo if they are in another order.

    Warn and return None if there are none.
    """
    classes = ModelClasses.from_checkpoint(read_checkpoint(weights).get("label_map"), weights)
    published = published_classes(weights)
    # Label maps in alphabetical order, which is that of prepared datasets, may spell the names differently.
    if classes is None and published and list(published.label_map.names) != sorted(published.label_map.names):
        classes = published
    if classes is None:
        logger.warning(
            "%s: contains no class names: its outputs are interpreted as the classes of the dataset's label "
            "map, in its order",
            weights,
        )
    return classes


def published_classes(weights: str | Path) -> ModelClasses | None:
    """Return the classes that the model zoo has for published weights; None for other weights."""
    published = WEIGHTS.get(str(weights))
    if published is None or not published.label_map:
        return None
    return ModelClasses(LabelMap.builtin(published.label_map), str(weights))


def _resolve_input_convention(cfg: CfgNode, report: LoadReport) -> None:
    """Set INPUT.CONVENTION from auto to published for a published detector."""
    if cfg.INPUT.CONVENTION != "auto" or report.format != PUBLISHED_DETECTOR:
        return
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.INPUT.CONVENTION = "published"
    if frozen:
        cfg.freeze()
    logger.info(
        "INPUT.CONVENTION: published, because the weights are in %s format; set it to centred to use the "
        "convention of this program",
        report.format,
    )


def unsharded_copy(cfg: CfgNode, state_dict: dict[str, torch.Tensor], device: torch.device) -> nn.Module:
    """Return a new model with the tensors of a state dict, gathered if they are sharded.

    All processes must call this.
    """
    model = build_model(cfg)
    load_weights(model, full_state_dict(state_dict))
    return model.to(device)
