"""Convert weights between published formats, and refuse models that the target format cannot express."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vmae_det.checkpoint.files import check_suffix, read_checkpoint, shorten_list, write_checkpoint
from vmae_det.checkpoint.huggingface_config import (
    ARCHITECTURES,
    CONFIG,
    PREPROCESSORS,
    config_fields,
    preprocessor_fields,
)
from vmae_det.checkpoint.huggingface_folder import WEIGHT_FILES
from vmae_det.checkpoint.loading import check_backbone, read_weights
from vmae_det.checkpoint.published_formats import HEADS_BY_WIDTH, OWN_FORMAT, PUBLISHED_BACKBONES
from vmae_det.checkpoint.rename_parameters import (
    CLASS_TOKEN,
    PATCH_EMBEDDING,
    POSITIONS,
    RenamedWeights,
    inflate_image_weights,
    rename_to_published,
)
from vmae_det.checkpoint.state_dicts import StateDict, state_dict_of
from vmae_det.checkpoint.stored_config import stored_config
from vmae_det.config import CfgNode, get_cfg
from vmae_det.modeling.backbones.position_embedding import POSITION_TABLES, flat_positions
from vmae_det.utils.errors import WeightsError
from vmae_det.utils.output_files import write_json

_PUBLISHED_BACKBONE = "VideoViT"  # the only one that the formats which can be written express
_PUBLISHED_TUBELET_SIZE = 2  # frames per tubelet in all published video models
_PATCH_EMBEDDING_NAMES = (PATCH_EMBEDDING, PATCH_EMBEDDING.replace("weight", "bias"))
_IMAGENET_STATISTICS = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # mean, std


@dataclass(frozen=True)
class ConvertReport:
    """The parameters that were written and those that were dropped.

    Args:
        output: the file that was written.
        source_format, format: names of the formats read and written.
        written: parameters in the new file.
        dropped: parameters of the source that the new format cannot store.
        source: where in the source file the parameters were found.
        settings: settings that the file does not contain and that are needed to build its model; '' if they
            are unknown or not needed.
    """

    output: Path
    source_format: str
    format: str
    written: tuple[str, ...]
    dropped: tuple[str, ...]
    source: StateDict
    settings: str = ""

    def __str__(self) -> str:
        text = f"{self.output}: {len(self.written)} parameters, from {self.source_format} to {self.format}"
        if self.source.others:
            text += f", {self.source}"
        if self.dropped:
            text += f"; dropped, since the format cannot store them: {shorten_list(self.dropped)}"
        if self.settings:
            text += f"; the file does not contain the settings of its model: {self.settings}"
        return text


def convert_weights(
    source: str | Path,
    output: str | Path,
    family: str,
    cfg: CfgNode | None = None,
    label_map: dict[str, Any] | None = None,
) -> ConvertReport:
    """Read weights in any format and write them atomically in another format.

    Of the formats of the `family`, the one for the task of the weights is written. A file in our own format
    also gets the config and the label map.

    The values do not change, except those of image models. Their patch embedding is inflated to tubelets of
    two frames (of the config's in our own format). Their class token and positions are dropped unless the
    config has CLASS_TOKEN True. The positions are then repeated over time. Only our own format stores them.

    Args:
        source: see `read_checkpoint`.
        output: a file of `torch.save` (.pt, .pth, .bin), with the tensors under the key that is usual for the
            format, or .safetensors.
        family: family of one of `published_formats.FORMATS`.
        cfg: config of the weights; None for the one stored with them, if any.
        label_map: fields of a LabelMap; None for the one stored with the weights, if any.

    Raises:
        WeightsError: the source cannot be read or recognized, contains only part of a model or parameters
            that no model of ours has, the format cannot express the model, or the output cannot be written.
    """
    output = Path(output)
    check_suffix(output)
    content = read_checkpoint(source)
    stored = stored_config(content, source)
    known_cfg = cfg or stored or get_cfg()
    backbone = known_cfg.MODEL.BACKBONE.NAME
    is_custom = backbone not in PUBLISHED_BACKBONES
    names = state_dict_of(content, str(source)) if is_custom else ()
    found, renamed = read_weights(content, str(source), names)
    check_backbone(renamed.format, backbone, str(source))
    weights, unused = _inflate(renamed.weights, family, known_cfg, str(source))
    keep_config = cfg is None and renamed.format.names is None
    cfg = cfg or stored
    check_expressible(family, weights, cfg)
    if not is_custom:
        _check_complete(renamed, str(source))
    if family == "mmaction2" and cfg is not None and cfg.MODEL.BACKBONE.POSITIONS != "flat":
        weights = {POSITIONS: _position_table(cfg)} | weights
    if family == "huggingface":
        weights.pop(POSITIONS, None)  # Transformers computes them
    target, state_dict, dropped = rename_to_published(weights, family)
    if not state_dict:
        raise WeightsError(f"{source}: no parameter can be stored in {target.name} format")
    extras = {}
    if target.names is None:
        extras = {
            "config": content.get("config") if keep_config or cfg is None else cfg.dump(),
            "label_map": label_map or content.get("label_map"),
        }
    write_checkpoint(state_dict, output, target.top_key, extras)
    settings = "" if cfg is None or target.names is None else _settings(cfg)
    return ConvertReport(
        output,
        renamed.format.name,
        target.name,
        tuple(state_dict),
        (*renamed.unused, *unused, *dropped),
        found,
        settings,
    )


def _inflate(
    weights: dict[str, torch.Tensor], family: str, cfg: CfgNode, source: str
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Turn the weights of an image model into those of a video model: see `inflate_image_weights`."""
    node = cfg.MODEL.BACKBONE
    tubelet_size = node.TUBELET_SIZE if family == OWN_FORMAT.family else _PUBLISHED_TUBELET_SIZE
    time_slices = cfg.INPUT.NUM_FRAMES // tubelet_size if node.CLASS_TOKEN else 0
    try:
        return inflate_image_weights(weights, tubelet_size, time_slices)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None


def write_huggingface_folder(
    weights: dict[str, torch.Tensor], cfg: CfgNode, label_map: dict[str, Any] | None, folder: Path
) -> None:
    """Write a model as a folder for `from_pretrained` of Transformers, each file atomically.

    The files are `model.safetensors`, `config.json` and `preprocessor_config.json`.

    Args:
        weights: all weights of the model that `cfg` describes, under our names.
        label_map: fields of a LabelMap, whose names become `id2label`.

    Raises:
        WeightsError: Transformers has no such model, or the label map has other classes.
        OutputError: the folder cannot be written.
    """
    if cfg.MODEL.META_ARCHITECTURE not in ARCHITECTURES:
        raise WeightsError(
            f"{folder}: Transformers has no {cfg.MODEL.META_ARCHITECTURE}; expected "
            f"{' or '.join(ARCHITECTURES)}"
        )
    check_expressible("huggingface", weights, cfg)
    weights = {name: value for name, value in weights.items() if name != POSITIONS}  # computed there
    _, state_dict, _ = rename_to_published(weights, "huggingface")
    write_json(folder / PREPROCESSORS[0], preprocessor_fields(cfg))
    write_json(folder / CONFIG, config_fields(cfg, label_map))
    write_checkpoint(state_dict, folder / WEIGHT_FILES[0], None)


def _position_table(cfg: CfgNode) -> torch.Tensor:
    backbone, side = cfg.MODEL.BACKBONE, cfg.INPUT.CROP_SIZE // cfg.MODEL.BACKBONE.PATCH_SIZE
    grid = (cfg.INPUT.NUM_FRAMES // backbone.TUBELET_SIZE, side, side)
    return POSITION_TABLES[backbone.POSITIONS](grid, backbone.EMBED_DIM)


def _settings(cfg: CfgNode) -> str:
    """Return the settings that other programs need to build the model of the weights."""
    backbone = cfg.MODEL.BACKBONE
    settings = {
        "image size": cfg.INPUT.CROP_SIZE,
        "patch size": backbone.PATCH_SIZE,
        "frames": cfg.INPUT.NUM_FRAMES,
        "tubelet size": backbone.TUBELET_SIZE,
        "heads": backbone.NUM_HEADS,
        "MLP ratio": f"{backbone.MLP_RATIO:g}",
        "pixel mean": " ".join(f"{value:g}" for value in cfg.MODEL.PIXEL_MEAN),
        "pixel std": " ".join(f"{value:g}" for value in cfg.MODEL.PIXEL_STD),
    }
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _check_complete(renamed: RenamedWeights, source: str) -> None:
    """Raise WeightsError unless a file has a complete backbone, and no parameters that our models lack."""
    unknown = tuple(name for name, part in renamed.unused.items() if part)
    if unknown:
        raise WeightsError(
            f"{source}: no model of vmae_det has {shorten_list(unknown)}; without it, the model would differ"
        )
    blocks: dict[int, set[str]] = {}
    for name in renamed.weights:
        if name.startswith("backbone.blocks."):
            number, _, rest = name.removeprefix("backbone.blocks.").partition(".")
            if not rest.startswith("proj."):  # of the first block of a stage of Hiera
                blocks.setdefault(int(number), set()).add(rest)
    block_parameters = set().union(*blocks.values())
    missing = [
        f"backbone.blocks.{number}.{rest}"
        for number in range(min(max(blocks, default=0) + 1, len(blocks) + 1))
        for rest in sorted(block_parameters - blocks.get(number, set()))
    ]
    if not any(name.startswith(("backbone.norm.", "fc_norm.")) for name in renamed.weights):
        missing.append("a norm after the last block")
    missing += [name for name in _PATCH_EMBEDDING_NAMES if name not in renamed.weights]
    if missing:
        raise WeightsError(f"{source}: contains only part of a model, without {shorten_list(tuple(missing))}")


def check_expressible(family: str, weights: dict[str, torch.Tensor], cfg: CfgNode | None) -> None:
    """Raise WeightsError, with all reasons, if a format cannot express a model.

    Otherwise, the written weights would be those of another model.

    Args:
        family: family of formats.
        weights: weights under our names.
        cfg: config of the model; None if it is unknown, which checks only the weights.
    """
    reasons = list(_limits_of_weights(family, weights))
    if cfg is not None:
        reasons += _limits_of_config(family, cfg)
    if reasons:
        raise WeightsError(f"{family} format cannot express this model: {'; '.join(reasons)}")


def _limits_of_weights(family: str, weights: dict[str, torch.Tensor]) -> Iterator[str]:
    if "decoder.head.weight" in weights and "backbone.norm.weight" not in weights:
        yield "it has no norm after its encoder (use_mean_pooling true), which an autoencoder needs"
    if family != OWN_FORMAT.family and CLASS_TOKEN in weights:
        yield "it has a class token"
    if family == "huggingface" and POSITIONS in weights and not _is_flat(weights[POSITIONS]):
        yield f"{POSITIONS} was learned, but Transformers computes its positions"


def _is_flat(table: torch.Tensor) -> bool:
    """Return whether a position table (N, C) is the one that the published models compute."""
    return table.ndim == 2 and torch.allclose(
        table.float(), flat_positions((len(table), 1, 1), table.shape[1]), atol=1e-5
    )


def _limits_of_config(family: str, cfg: CfgNode) -> Iterator[str]:
    if family == "vmae_det":
        return
    model, backbone = cfg.MODEL, cfg.MODEL.BACKBONE
    if backbone.NAME != _PUBLISHED_BACKBONE:
        yield f"MODEL.BACKBONE.NAME is {backbone.NAME}, expected {_PUBLISHED_BACKBONE}"
    if backbone.POSITIONS != "flat" and family != "mmaction2":  # which stores the position table
        yield f"MODEL.BACKBONE.POSITIONS is {backbone.POSITIONS}, but its models compute flat positions"
    if backbone.TOKEN_KEEP_RATE < 1:
        yield f"MODEL.BACKBONE.TOKEN_KEEP_RATE is {backbone.TOKEN_KEEP_RATE}, but its models drop no tokens"
    if family == "videomae":
        yield from _unusual_heads("BACKBONE", backbone)
    if model.META_ARCHITECTURE == "MaskedAutoencoder":
        yield from _limits_of_pretraining(family, cfg)
    if model.META_ARCHITECTURE == "ActionDetector":
        yield from _limits_of_detector(family, cfg)


def _limits_of_pretraining(family: str, cfg: CfgNode) -> Iterator[str]:
    if family == "mmaction2":  # stores only the encoder
        return
    target, decoder = cfg.MODEL.RECONSTRUCTION, cfg.MODEL.DECODER
    for key, own in (("NUM_FRAMES", cfg.INPUT.NUM_FRAMES), ("SAMPLING_RATE", cfg.INPUT.SAMPLING_RATE)):
        if target[key] not in (0, own):
            yield (
                f"MODEL.RECONSTRUCTION.{key} is {target[key]}, but its models predict the clip's own frames "
                f"(0 or {own})"
            )
    if family == "videomae":
        yield from _unusual_heads("DECODER", decoder)
        return
    if decoder.MASK != "none":
        yield f"MODEL.DECODER.MASK is {decoder.MASK}, but Transformers predicts all masked tokens"
    statistics = tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD)
    if not target.NORMALIZE and statistics != _IMAGENET_STATISTICS:
        yield (
            "MODEL.RECONSTRUCTION.NORMALIZE is False and MODEL.PIXEL_MEAN and PIXEL_STD are not ImageNet's, "
            "which Transformers uses to compute unnormalized targets"
        )


def _limits_of_detector(family: str, cfg: CfgNode) -> Iterator[str]:
    if family == "huggingface":  # stores only the encoder
        return
    head = cfg.MODEL.ROI_HEAD
    published = {"NAME": "MaxPoolRoIHead", "NUM_LAYERS": 1}
    if family == "videomae":  # mmaction2 has options for these
        published |= {"RESOLUTION": 7, "SAMPLING_RATIO": 0, "ALIGNED": False}
        published |= {"TEMPORAL_POOL": "mean", "CONTEXT": False}
    for key, value in published.items():
        if head[key] != value:
            yield f"MODEL.ROI_HEAD.{key} is {head[key]}, but the published detector has {value}"


def _unusual_heads(group: str, node: CfgNode) -> Iterator[str]:
    heads = HEADS_BY_WIDTH[group.lower()].get(node.EMBED_DIM)
    if heads is not None and heads != node.NUM_HEADS:
        yield (
            f"MODEL.{group}.NUM_HEADS is {node.NUM_HEADS}, but its models of width {node.EMBED_DIM} have "
            f"{heads}"
        )
