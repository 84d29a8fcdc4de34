"""Rename the parameters of published checkpoints to our names and back, by the tables in `published_formats`.

This includes the changes that come with the names: wrapper prefixes are removed, query, key and value are
fused into one `qkv` or split, position tables lose or get their batch dimension, and the position of a class
token is added to it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from vmae_det.checkpoint.published_formats import FORMATS, Format
from vmae_det.config.size_bounds import MAX_TOKENS
from vmae_det.utils.errors import WeightsError

PATCH_EMBEDDING = "backbone.patch_embed.proj.weight"
POSITIONS = "backbone.positions"
CLASS_TOKEN = "backbone.class_token"
# Parts of positions: our name, and the published one.
_IMAGE_POSITIONS = ("backbone.image_positions", "pos_embed")
_CLASS_POSITION = ("backbone.class_position", "pos_embed_class")
_SPATIAL_POSITIONS = ("backbone.spatial_positions", "pos_embed_spatial")
_TEMPORAL_POSITIONS = ("backbone.temporal_positions", "pos_embed_temporal")
_CLASSIFIER = "roi_head.classifier."
_BACKGROUND = "roi_head.background."
_BACKGROUND_AND_CLASSIFIER = "roi_head.background_and_classifier."
_QKV = ("query", "key", "value")
# Added to names by torch.compile, FSDP and activation checkpointing.
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# The patch embedding in any format, after a prefix.
_ANY_PATCH_EMBEDDING = re.compile(
    r"(.*?)(patch_embed\.proj|patch_embed\.projection|embeddings\.patch_embeddings\.proj(ection)?)\.weight$"
)
_VJEPA_1_TABLES = ((1, 8 * 14 * 14), (1, 8 * 24 * 24))  # of 16 frames; V-JEPA 2 was trained on 64
_MAX_PREFIX = 100  # characters


@dataclass(frozen=True)
class RenamedWeights:
    """A published state dict under our names.

    Args:
        format: format that was recognized.
        weights: tensors under our names.
        unused: names in the file that have no counterpart in our models, each with the part of a model that
            it belongs to, such as "backbone"; '' if the format does not determine it.
    """

    format: Format
    weights: dict[str, torch.Tensor]
    unused: dict[str, str]


def rename_from_published(state_dict: dict[str, torch.Tensor]) -> RenamedWeights | None:
    """Return the state dict under our names, or None if no format is recognized.

    A position table (1, N, C) becomes (N, C). Tables of space and time become one. A class token (1, 1, C)
    becomes (C,), and its position is added to it. The background row of an mmaction2 detection classifier,
    its first, is moved to `roi_head.background`, which our models do not have; it is dropped if it is zero.

    Raises:
        WeightsError: the state dict contains several models, or a parameter twice, or a class token or a
            position table of another shape.
    """
    state_dict, known = _recognize(state_dict)
    if known is None:
        return None
    if known.names is None:
        return RenamedWeights(known, state_dict, {})
    weights: dict[str, torch.Tensor] = {}
    unused = {}
    for name, value in state_dict.items():
        ours = known.names.to_ours(name)
        if ours is None or ours in weights:
            is_ignored = any(re.match(expression, name) for expression in known.ignored)
            unused[name] = "" if is_ignored else known.names.part_of(name)
        else:
            weights[ours] = value
    if known.family == "hiera" and PATCH_EMBEDDING in weights and weights[PATCH_EMBEDDING].ndim != 5:
        raise WeightsError("an image model of Hiera; expected a video model, such as hiera_base_16x224")
    if known.family == "image-mae" and PATCH_EMBEDDING in weights and weights[PATCH_EMBEDDING].ndim != 4:
        raise WeightsError("a video model with a class token, which vmae_det does not support")
    if known.family == "vjepa2":
        _refuse_other_jepa(weights, state_dict)
    if POSITIONS in weights and weights[POSITIONS].ndim == 3:
        weights[POSITIONS] = weights[POSITIONS][0]
    if known.family == "mae-st":
        for name, published in (_CLASS_POSITION, _SPATIAL_POSITIONS, _TEMPORAL_POSITIONS):
            if name not in weights:
                raise WeightsError(f"{published} is not in the file")
    if CLASS_TOKEN in weights:
        _combine_positions(weights)
    for parameter in ("weight", "bias"):
        rows = weights.pop(_BACKGROUND_AND_CLASSIFIER + parameter, None)
        if rows is not None and rows.ndim:
            weights[_CLASSIFIER + parameter] = rows[1:]
            if rows[:1].any():
                weights[_BACKGROUND + parameter] = rows[:1]
    return RenamedWeights(known, _fuse_qkv(weights), unused)


def _refuse_other_jepa(weights: dict[str, torch.Tensor], state_dict: dict[str, torch.Tensor]) -> None:
    """Raise WeightsError for I-JEPA and V-JEPA (1), whose files have the names of V-JEPA 2."""
    if PATCH_EMBEDDING in weights and weights[PATCH_EMBEDDING].ndim != 5:
        raise WeightsError("an image model without class token, which vmae_det does not support")
    table = state_dict.get("pos_embed")
    if table is not None and tuple(table.shape[:2]) in _VJEPA_1_TABLES:
        raise WeightsError(
            "a V-JEPA model of 2024, with a position table, which vmae_det does not support; V-JEPA 2 and "
            "2.1 have rotary positions"
        )


def rename_to_published(
    weights: dict[str, torch.Tensor], family: str
) -> tuple[Format, dict[str, torch.Tensor], tuple[str, ...]]:
    """Rename weights from our names to the format of a `family` that can store most of them.

    Returns:
        The format, the state dict, and the names of the parameters that were dropped. A key bias of zeros is
        not counted as dropped, since it has no effect.

    Raises:
        WeightsError: no format of the family can be written, or a `qkv` cannot be split into three.
    """
    targets = [known for known in FORMATS if known.family == family and known.writable]
    if not targets:
        raise WeightsError(f"files in {family} format can be read, not written")
    return min((_rename(weights, target) for target in targets), key=lambda result: len(result[2]))


def _rename(
    weights: dict[str, torch.Tensor], target: Format
) -> tuple[Format, dict[str, torch.Tensor], tuple[str, ...]]:
    if target.names is None:
        return target, dict(weights), ()
    to_published = target.names.to_published
    weights = dict(weights)
    for parameter in ("weight", "bias"):
        if _CLASSIFIER + parameter in weights and to_published(_BACKGROUND_AND_CLASSIFIER + parameter):
            rows = weights.pop(_CLASSIFIER + parameter)
            background = weights.pop(_BACKGROUND + parameter, torch.zeros_like(rows[:1]))
            weights[_BACKGROUND_AND_CLASSIFIER + parameter] = torch.cat([background, rows])
    if POSITIONS in weights:
        weights[POSITIONS] = weights[POSITIONS][None]
    state_dict, dropped = {}, []
    for name, value in _split_qkv(weights, keep=to_published):
        published = to_published(name)
        if published is not None:
            state_dict[published] = value
        elif not name.endswith("attn.key.bias") or value.any():
            dropped.append(name)
    return target, state_dict, tuple(dropped)


def inflate_image_weights(
    weights: dict[str, torch.Tensor], tubelet_size: int, time_slices: int
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Turn the weights of an image model into those of a video model. Others are returned unchanged.

    The patch embedding (C, 3, H, W) is repeated over time and divided by the number of frames, so that a
    still clip has the same tokens as the image. The position table is repeated for each time slice.

    Args:
        weights: under our names.
        tubelet_size: frames of a token.
        time_slices: of the position table. 0 drops the table and the class token, for a model without one.

    Returns:
        The weights, and the published names of those that were dropped.

    Raises:
        WeightsError: the position table that is needed is missing, or too large.
    """
    image = weights.get(PATCH_EMBEDDING)
    if image is None or image.ndim != 4:
        return weights, ()
    weights = dict(weights)
    weights[PATCH_EMBEDDING] = image[:, :, None].repeat(1, 1, tubelet_size, 1, 1) / tubelet_size
    table = weights.pop(_IMAGE_POSITIONS[0], None)
    if time_slices and table is None:
        raise WeightsError(f"{_IMAGE_POSITIONS[1]} is not in the file")
    if time_slices:
        _check_tokens(len(table) * time_slices)
        return weights | {POSITIONS: table.repeat(time_slices, 1)}, ()
    dropped = ("cls_token",) if weights.pop(CLASS_TOKEN, None) is not None else ()
    return weights, dropped if table is None else (*dropped, _IMAGE_POSITIONS[1])


def _combine_positions(weights: dict[str, torch.Tensor]) -> None:
    """Combine the parts of positions, in place: see `rename_from_published`.

    The table of an image model becomes (h * w, C).
    """
    class_token = _rows(weights.pop(CLASS_TOKEN), "cls_token")
    parts = {
        name: _rows(weights.pop(name), published, class_token.shape[1])
        for name, published in (_CLASS_POSITION, _SPATIAL_POSITIONS, _TEMPORAL_POSITIONS, _IMAGE_POSITIONS)
        if name in weights
    }
    position = parts.get(_CLASS_POSITION[0], class_token[:0])
    space, time = parts.get(_SPATIAL_POSITIONS[0]), parts.get(_TEMPORAL_POSITIONS[0])
    if space is not None and time is not None:
        _check_tokens(len(time) * len(space))
        weights[POSITIONS] = (time[:, None] + space).flatten(0, 1)
    if (image := parts.get(_IMAGE_POSITIONS[0])) is not None:
        extra = len(image) - math.isqrt(len(image)) ** 2  # rows before those of a square grid
        position, weights[_IMAGE_POSITIONS[0]] = image[:extra], image[extra:]
    if len(class_token) != 1 or len(position) > 1:
        raise WeightsError(
            f"expected one class token and at most one position for it, got {len(class_token)} and "
            f"{len(position)}"
        )
    weights[CLASS_TOKEN] = (class_token + position.sum(dim=0)).squeeze(0)


def _check_tokens(number: int) -> None:
    """Raise WeightsError if a small file makes a huge position table."""
    if number > MAX_TOKENS:
        raise WeightsError(f"a position table of {number} tokens, more than {MAX_TOKENS}")


def _rows(tensor: torch.Tensor, name: str, width: int | None = None) -> torch.Tensor:
    """Return a tensor (1, N, C) as (N, C); WeightsError if it has another shape, or C is not `width`."""
    if tensor.ndim != 3 or len(tensor) != 1 or width not in (None, tensor.shape[2]):
        raise WeightsError(f"{name}: expected (1, N, {width or 'C'}), got {tuple(tensor.shape)}")
    return tensor[0]


def _fuse_qkv(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Replace `attn.query`, `attn.key` and `attn.value` by one `attn.qkv`. Missing key biases become zeros.

    Parts that are incomplete or have different shapes stay as they are.
    """
    fused = dict(weights)
    for name in weights:
        for parameter in ("weight", "bias"):
            prefix = name.removesuffix(f"attn.query.{parameter}")
            if prefix == name:
                continue
            parts = [weights.get(f"{prefix}attn.{part}.{parameter}") for part in _QKV]
            if parameter == "bias" and parts[1] is None:
                parts[1] = torch.zeros_like(parts[0])
            if any(part is None or not part.ndim or part.shape != parts[0].shape for part in parts):
                continue
            fused[f"{prefix}attn.qkv.{parameter}"] = torch.cat(parts)
            for part in _QKV:
                fused.pop(f"{prefix}attn.{part}.{parameter}", None)
    return fused


def _split_qkv(
    weights: dict[str, torch.Tensor], keep: Callable[[str], object]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield names and tensors. Each `attn.qkv` that is not to `keep` is split into its three parts.

    Raises:
        WeightsError: its length is not a multiple of three.
    """
    for name, value in weights.items():
        prefix, qkv, parameter = name.rpartition("attn.qkv.")
        if not qkv or keep(name):
            yield name, value
            continue
        if not value.ndim or len(value) % 3:
            raise WeightsError(f"{name}: expected queries, keys and values, got shape {tuple(value.shape)}")
        for part, rows in zip(_QKV, value.chunk(3)):
            yield f"{prefix}attn.{part}.{parameter}", rows


def _recognize(state_dict: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Format | None]:
    """Return the state dict without the prefixes of wrapper modules, and its format.

    The candidates for a prefix, such as `module.` or `model.backbone.`, are the beginnings of the name of the
    patch embedding.
    """
    unwrapped: dict[str, torch.Tensor] = {}
    for name, value in state_dict.items():
        if (inner := _WRAPPERS.sub("", name)) in unwrapped:
            raise WeightsError(f"{inner} exists twice, once as {name}")
        unwrapped[inner] = value
    stems = {match[1] for name in unwrapped if (match := _ANY_PATCH_EMBEDDING.match(name))}
    if "backbone." in stems:  # our MoCoV3, whose backbone is the base encoder
        stems.discard("momentum_encoder.backbone.")
    for stem in sorted(stems, key=len):
        ends = [index + 1 for index, letter in enumerate(stem[:_MAX_PREFIX]) if letter == "."]
        for prefix in ("", *(stem[:end] for end in ends)):
            inside = {name.removeprefix(prefix) for name in unwrapped if name.startswith(prefix)}
            known = next((known for known in FORMATS if _matches(inside, known.recognized_by)), None)
            if known is None:
                continue
            if len(stems) > 1:
                models = ", ".join(sorted(f"'{stem}'" for stem in stems)[:4])
                raise WeightsError(
                    f"contains several models, whose names begin with {models}; save only one of them"
                )
            without_prefix = {name.removeprefix(prefix): value for name, value in unwrapped.items()}
            if len(without_prefix) < len(unwrapped):
                raise WeightsError(f"some names exist both with and without '{prefix}'")
            return without_prefix, known
    return unwrapped, None


def _matches(names: Iterable[str], expressions: tuple[str, ...]) -> bool:
    return all(any(re.match(expression, name) for name in names) for expression in expressions)
