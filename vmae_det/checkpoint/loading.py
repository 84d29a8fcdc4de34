"""Load weights into a model: every parameter that both have is loaded, and any mismatch is an error."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vmae_det.checkpoint.files import read_checkpoint, shorten_list
from vmae_det.checkpoint.published_formats import (
    FORMATS,
    OWN_FORMAT,
    PUBLISHED_BACKBONES,
    Format,
    part_of,
)
from vmae_det.checkpoint.rename_parameters import (
    CLASS_TOKEN,
    PATCH_EMBEDDING,
    POSITIONS,
    RenamedWeights,
    inflate_image_weights,
    rename_from_published,
)
from vmae_det.checkpoint.state_dicts import StateDict, find_state_dict
from vmae_det.checkpoint.unpickling import Placeholder
from vmae_det.utils.errors import WeightsError
from vmae_det.utils.safe_yaml import InvalidYAMLError, load_yaml

BACKBONE_PREFIX = "backbone."
# May be in only one of the file and the model: a classifier normalizes after pooling, so its backbone has no
# norm, and detectors of mmaction2 have a row of weights for the background.
_OPTIONAL = ("backbone.norm.", "roi_head.background.")
_BLOCK = re.compile(r"(backbone|decoder)\.blocks\.(\d{1,4})\.")


@dataclass(frozen=True)
class LoadReport:
    """The parameters that were loaded and those that were not.

    Args:
        format: name of the recognized format.
        loaded: parameters taken from the file.
        missing: parameters of the model that are not in the file and keep their values.
        unused: parameters of the file that are not in the model.
        source: where in the file the parameters were found.
        unread_parts: parts of the file, such as "head", that were ignored in order to load only the backbone.
    """

    format: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    source: StateDict
    unread_parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing)
        text = f"loaded {len(self.loaded)} of {total} parameters (format: {self.format})"
        if self.source.others:
            text += f": {self.source}"
        if self.missing:
            text += f"; missing in the file, keep their initial values: {shorten_list(self.missing)}"
        if self.unused:
            text += f"; not in the model, ignored: {shorten_list(self.unused)}"
        if self.unread_parts:
            text += f"; only the backbone is used, not {', '.join(self.unread_parts)}"
        return text


def load_weights(
    model: nn.Module, source: str | Path | dict[str, Any], *, backbone_only: bool = False, where: str = ""
) -> LoadReport:
    """Load our own or published weights into `model`, in place.

    A part (backbone, decoder, head) that the file lacks keeps its values, so pre-trained weights can be
    loaded into a classifier or a detector. The file must contain the backbone. A part that both contain is
    loaded completely: each of its parameters in the file must be in the model, and the reverse. A position
    table in the file replaces that of the model and is resized if their sizes differ; without one, the model
    keeps its own.

    Args:
        model: any model with a `backbone`.
        source: a file, a URL, a model zoo name (see `locate`), or a state dict, which may be under a key such
            as `model` (see `find_state_dict`). EMA weights are preferred.
        backbone_only: ignore everything but the backbone, for example a head for other classes.
        where: source of the state dict, for error messages.

    Raises:
        WeightsError: the file cannot be read, its format is unknown, or a parameter is missing, unexpected,
            of another shape, not floating-point, or not finite. The model is not changed in this case.
    """
    if not isinstance(source, dict):
        where, source = str(source), read_checkpoint(source)
    where = where or "state dict"
    model_state = model.state_dict()
    found, renamed = read_weights(source, where, model_state)
    classes = [base.__name__ for base in type(model.backbone).__mro__]
    backbone = next((name for name in classes if name in PUBLISHED_BACKBONES), "")
    check_backbone(renamed.format, backbone, where)
    time_slices = model.backbone.clip_grid[0] if CLASS_TOKEN in model_state else 0
    weights = renamed.weights
    if was_trained_on_frames(source):
        weights = _as_image_weights(weights)
    try:
        weights, dropped = inflate_image_weights(weights, model.backbone.tubelet_size, time_slices)
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}") from None
    weights = _fit_backbone(model.backbone, weights)
    model_state.pop(POSITIONS, None)
    parts = {"backbone"} if backbone_only else {part_of(name) for name in model_state}
    unknown = tuple(name for name, part in renamed.unused.items() if part in parts)
    unread = tuple(dict.fromkeys(map(part_of, weights))) if backbone_only else ()
    unread = tuple(part for part in unread if part not in parts)
    weights = {name: value for name, value in weights.items() if part_of(name) not in unread}
    common = [name for name in model_state if name in weights]
    missing = tuple(name for name in model_state if name not in weights)
    table = weights.pop(POSITIONS, None)
    problems = [
        *_mismatches(weights, model_state),
        *(f"{name} has no counterpart in the model" for name in unknown),
    ]
    if table is not None:
        try:
            table = _resize_table(model.backbone, table)
        except ValueError as error:
            problems.append(f"{POSITIONS}: {error}")
    if problems:
        differences = shorten_list((*_config_differences(weights, model_state), *problems), 3)
        raise WeightsError(
            f"{where}: does not fit the model of the config: {differences}. Use the config that the weights "
            "were trained with; to replace the head, set MODEL.BACKBONE.CHECKPOINT instead of MODEL.WEIGHTS"
        )
    not_finite = tuple(
        name for name in common if not weights[name].to(model_state[name].dtype).isfinite().all()
    )
    if not_finite or (table is not None and not torch.isfinite(table).all()):
        names = shorten_list(not_finite or (POSITIONS,))
        raise WeightsError(f"{where}: contains numbers that are not finite, in {names}")
    model.load_state_dict({name: weights[name] for name in common}, strict=False)
    if table is not None:
        model.backbone.set_positions(table)
        common.append(POSITIONS)
    unused = dropped
    if not backbone_only:
        unused = (*(name for name in weights if name not in model_state), *renamed.unused, *dropped)
    return LoadReport(renamed.format.name, tuple(common), missing, unused, found, unread)


def check_backbone(known: Format, backbone: str, where: str) -> None:
    """Raise WeightsError if weights in a published format belong to another backbone than `backbone`.

    Their parameters may have equal names and shapes.

    Args:
        backbone: a name in `BACKBONE_REGISTRY`. Custom backbones may load any format.
        where: source of the weights, for the error message.
    """
    if known.backbone and backbone in PUBLISHED_BACKBONES and known.backbone != backbone:
        raise WeightsError(
            f"{where}: {known.name} weights, which need MODEL.BACKBONE.NAME {known.backbone}, got {backbone}"
        )


def was_trained_on_frames(content: dict[str, Any]) -> bool:
    """Return whether the config in the content of a checkpoint is that of a model of single frames."""
    try:
        return load_yaml(content["config"])["INPUT"]["NUM_FRAMES"] == 1
    except (KeyError, TypeError, InvalidYAMLError):  # no config, or a damaged one
        return False


def _as_image_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights with the patch embedding of an image model, (C, 3, H, W)."""
    embedding = weights.get(PATCH_EMBEDDING)
    if embedding is None or embedding.ndim != 5 or embedding.shape[2] != 1 or CLASS_TOKEN in weights:
        return weights
    return weights | {PATCH_EMBEDDING: embedding[:, :, 0]}


def _fit_backbone(backbone: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights after `Backbone.fit_weights`, which a custom backbone may lack."""
    if not hasattr(backbone, "fit_weights"):
        return weights
    inside = {name: value for name, value in weights.items() if name.startswith(BACKBONE_PREFIX)}
    fitted = backbone.fit_weights({name[len(BACKBONE_PREFIX) :]: value for name, value in inside.items()})
    outside = {name: value for name, value in weights.items() if name not in inside}
    return {BACKBONE_PREFIX + name: value for name, value in fitted.items()} | outside


def _resize_table(backbone: nn.Module, table: torch.Tensor) -> torch.Tensor:
    """Resize a position table to the grid of a backbone; ValueError if it has none, or none fits."""
    if not hasattr(backbone, "resize_table"):
        raise ValueError(f"{type(backbone).__name__} has no position table")
    return backbone.resize_table(table)


def read_weights(
    content: dict[str, Any], where: str, model_names: Iterable[str] = ()
) -> tuple[StateDict, RenamedWeights]:
    """Find the weights in a state dict or in the content of a file, and rename them to our names.

    Args:
        where: source of the content, for error messages.
        model_names: parameter names of a model. They identify the file of a custom backbone.

    Raises:
        WeightsError: the parameter names match no known format, or several models.
    """
    found = find_state_dict(content, where)
    try:
        renamed = rename_from_published(found.tensors)
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}") from None
    backbone = {name for name in model_names if name.startswith(BACKBONE_PREFIX)}
    if renamed is None and backbone and backbone <= found.tensors.keys():
        renamed = RenamedWeights(OWN_FORMAT, dict(found.tensors), {})
    if renamed is None and found.tensors:
        formats = ", ".join(dict.fromkeys(known.name for known in FORMATS))
        raise WeightsError(
            f"{where}: the parameter names match no known format ({formats}); the first {found} are "
            f"{shorten_list(tuple(found.tensors))}"
        )
    if renamed is None:
        entries = shorten_list(tuple(map(_describe_entry, content.items()))) or "nothing"
        raise WeightsError(f"{where}: contains no parameters; it contains {entries}")
    return found, renamed


def _describe_entry(entry: tuple[Any, Any]) -> str:
    key, value = entry
    is_object = isinstance(value, Placeholder) and not value
    return f"{key} (an object of {value.name})" if is_object else str(key)


def _mismatches(weights: dict[str, torch.Tensor], model_state: dict[str, torch.Tensor]) -> list[str]:
    """Return the reasons why weights cannot be loaded into a model with the state dict `model_state`."""
    different = [
        _mismatch(name, weights[name], value) for name, value in model_state.items() if name in weights
    ]
    parts = {part_of(name) for name in model_state}
    parts_in_file = {part_of(name) for name in weights} | {"backbone"}
    missing = [
        name for name in _required(model_state) if part_of(name) in parts_in_file and name not in weights
    ]
    if "decoder" in parts_in_file and "decoder" in parts:  # the decoder was trained on normalized tokens
        missing += [name for name in model_state if name.startswith("backbone.norm.") and name not in weights]
    unexpected = [name for name in _required(weights) if part_of(name) in parts and name not in model_state]
    return [
        *filter(None, different),
        *(f"{name} is not in the file" for name in missing),
        *(f"{name} is not in the model" for name in unexpected),
    ]


def _mismatch(name: str, value: torch.Tensor, parameter: torch.Tensor) -> str:
    """Return why a value from a file cannot replace the parameter `parameter`, or ''."""
    if value.shape != parameter.shape:
        return f"{name} is {tuple(value.shape)} in the file, {tuple(parameter.shape)} in the model"
    if value.is_floating_point() != parameter.is_floating_point():
        return f"{name} is {value.dtype}, expected {parameter.dtype}"
    return ""


def _required(names: Iterable[str]) -> Iterable[str]:
    return (name for name in names if not name.startswith(_OPTIONAL))


def _config_differences(weights: dict[str, torch.Tensor], model_state: dict[str, torch.Tensor]) -> list[str]:
    """Return the config keys whose values differ between file and model, as far as parameter shapes show."""
    in_file, in_config = config_keys_from_shapes(weights), config_keys_from_shapes(model_state)
    return [
        f"{key} is {in_file[key]} in the file, {value} in the config"
        for key, value in in_config.items()
        if in_file.get(key, value) != value
    ]


def config_keys_from_shapes(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return the values of config keys that the (our) names and shapes of parameters reveal."""
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    keys: dict[str, Any] = {}
    if "backbone.video_mod_embed" in shapes:
        keys["MODEL.BACKBONE.NAME"] = "VJepa21ViT"
    embedding = shapes.get(PATCH_EMBEDDING, ())
    if len(embedding) == 5:
        keys["MODEL.BACKBONE.EMBED_DIM"] = embedding[0]
        keys["MODEL.BACKBONE.TUBELET_SIZE"] = embedding[2]
        keys["MODEL.BACKBONE.PATCH_SIZE"] = embedding[3]
    if "backbone.pos_embed_spatial" in shapes:
        keys |= _hiera_keys(shapes)
    elif embedding:
        keys["MODEL.BACKBONE.CLASS_TOKEN"] = CLASS_TOKEN in shapes
    hidden = shapes.get("backbone.blocks.0.mlp.fc1.weight", ())
    if len(hidden) == 2 and hidden[1]:
        keys["MODEL.BACKBONE.MLP_RATIO"] = round(hidden[0] / hidden[1], 4)
    for part in ("backbone", "decoder"):
        if depth := _depth(shapes, part):
            keys[f"MODEL.{part.upper()}.DEPTH"] = depth
    for key, name, dimension in (
        ("MODEL.DECODER.EMBED_DIM", "encoder_to_decoder.weight", 0),
        ("MODEL.CLASSIFIER.NUM_CLASSES", "head.weight", 0),
        ("MODEL.ROI_HEAD.NUM_CLASSES", "roi_head.classifier.weight", 0),
    ):
        if shapes.get(name):
            keys[key] = shapes[name][dimension]
    return keys


def _hiera_keys(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return config keys of Hiera. The first block of each further stage has a projection to its width."""
    depth = _depth(shapes, "backbone")
    starts = [block for block in range(depth) if f"backbone.blocks.{block}.proj.weight" in shapes]
    last = shapes.get(f"backbone.blocks.{depth - 1}.norm2.weight", ())
    return {
        "MODEL.BACKBONE.NAME": "Hiera",
        "MODEL.BACKBONE.STAGES": tuple(end - start for start, end in zip([0, *starts], [*starts, depth])),
        "MODEL.BACKBONE.TUBELET_SIZE": 2,
        "MODEL.BACKBONE.PATCH_SIZE": 32,
        **({"MODEL.BACKBONE.EMBED_DIM": last[0]} if last else {}),
    }


def _depth(names: Iterable[str], part: str) -> int:
    numbers = {int(match[2]) for name in names if (match := _BLOCK.match(name)) and match[1] == part}
    return max(numbers, default=-1) + 1
