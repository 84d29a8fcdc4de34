"""From the parameter names of published files to ours and back, by the tables in `formats.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from vmae_det.checkpoint.formats import FORMATS, Format
from vmae_det.checkpoint.qkv import fuse_attention, split_attention
from vmae_det.utils.errors import WeightsError

PATCH_EMBEDDING = "backbone.patch_embed.proj.weight"
POSITIONS = "backbone.positions"
_CLASSIFIER = "roi_head.classifier."
_BACKGROUND = "roi_head.background."
_BOTH = "roi_head.background_and_classifier."
# What torch.compile, FSDP and activation checkpointing write into names.
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# The patch embedding of every format, and what stands before it.
_EMBEDDING = re.compile(
    r"(.*?)(patch_embed\.proj|patch_embed\.projection|embeddings\.patch_embeddings\.projection)\.weight$"
)
_MAX_PREFIX = 100  # letters of a prefix


@dataclass(frozen=True)
class Recognised:
    """A state dict whose format is known.

    Args:
        format: of the file.
        weights: under our names.
        unused: names in the file that have no counterpart among ours, each with the part of a model that it
            belongs to, such as "backbone"; '' where the format does not say.
    """

    format: Format
    weights: dict[str, torch.Tensor]
    unused: dict[str, str]


def to_our_names(state_dict: dict[str, torch.Tensor]) -> Recognised | None:
    """The state dict under our names, or None if no format is recognised.

    A position table (1, N, C) becomes (N, C). The first row of mmaction2's detection classifier, the
    background's, is kept apart as `roi_head.background`, which our models do not have, unless it is zero.

    Raises:
        WeightsError: it holds several models, or a parameter twice.
    """
    state_dict, known = _unwrap(state_dict)
    if known is None:
        return None
    if known.names is None:
        return Recognised(known, state_dict, {})
    weights: dict[str, torch.Tensor] = {}
    unused = {}
    for name, value in state_dict.items():
        ours = known.names.to_ours(name)
        if ours is None or ours in weights:
            unused[name] = known.names.part_of(name)
        else:
            weights[ours] = value
    if known.family == "image-mae" and PATCH_EMBEDDING in weights and weights[PATCH_EMBEDDING].ndim != 4:
        raise WeightsError("a video model with a class token, which no model of this program has")
    if POSITIONS in weights and weights[POSITIONS].ndim == 3:
        weights[POSITIONS] = weights[POSITIONS][0]
    for part in ("weight", "bias"):
        rows = weights.pop(_BOTH + part, None)
        if rows is not None and rows.ndim:
            weights[_CLASSIFIER + part] = rows[1:]
            if rows[:1].any():
                weights[_BACKGROUND + part] = rows[:1]
    return Recognised(known, fuse_attention(weights), unused)


def from_our_names(
    weights: dict[str, torch.Tensor], family: str
) -> tuple[Format, dict[str, torch.Tensor], tuple[str, ...]]:
    """Weights under our names as a state dict of a `family` of formats: of the one that has most of them.

    Returns:
        The format, the state dict, and what had no place in it. A key bias that is zero counts as having had
        its place.

    Raises:
        WeightsError: no format of the family can be written, or a `qkv` cannot be cut into three.
    """
    targets = [known for known in FORMATS if known.family == family and known.writable]
    if not targets:
        raise WeightsError(f"files of {family} format are read, not written")
    return min((_rename(weights, target) for target in targets), key=lambda result: len(result[2]))


def _rename(
    weights: dict[str, torch.Tensor], target: Format
) -> tuple[Format, dict[str, torch.Tensor], tuple[str, ...]]:
    if target.names is None:
        return target, dict(weights), ()
    has = target.names.to_theirs
    weights = dict(weights)
    for part in ("weight", "bias"):
        if _CLASSIFIER + part in weights and has(_BOTH + part):
            rows = weights.pop(_CLASSIFIER + part)
            background = weights.pop(_BACKGROUND + part, torch.zeros_like(rows[:1]))
            weights[_BOTH + part] = torch.cat([background, rows])
    if POSITIONS in weights:
        weights[POSITIONS] = weights[POSITIONS][None]
    state_dict, dropped = {}, []
    for name, value in split_attention(weights, keep=has):
        theirs = has(name)
        if theirs is not None:
            state_dict[theirs] = value
        elif not name.endswith("attn.key.bias") or value.any():
            dropped.append(name)
    return target, state_dict, tuple(dropped)


def inflate(weights: dict[str, torch.Tensor], tubelet_size: int) -> dict[str, torch.Tensor]:
    """Weights in which an image model's patch embedding (C, 3, H, W) is a video model's, (C, 3, T, H, W).

    Repeated over time and divided by its length, so that a still gives the token that it gave as an image.
    """
    image = weights.get(PATCH_EMBEDDING)
    if image is None or image.ndim != 4:
        return weights
    video = image[:, :, None].repeat(1, 1, tubelet_size, 1, 1) / tubelet_size
    return weights | {PATCH_EMBEDDING: video}


def _unwrap(state_dict: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Format | None]:
    """The state dict without what wrappers of modules write before and into its names, and its format.

    A prefix, such as `module.` or `model.backbone.`, is what stands before the name of the patch embedding.
    """
    bare: dict[str, torch.Tensor] = {}
    for name, value in state_dict.items():
        if (inner := _WRAPPERS.sub("", name)) in bare:
            raise WeightsError(f"{inner} comes twice, once as {name}")
        bare[inner] = value
    stems = {found[1] for name in bare if (found := _EMBEDDING.match(name))}
    for stem in sorted(stems, key=len):
        dots = [place + 1 for place, letter in enumerate(stem[:_MAX_PREFIX]) if letter == "."]
        for prefix in ("", *(stem[:end] for end in dots)):
            inside = {name.removeprefix(prefix) for name in bare if name.startswith(prefix)}
            known = next((known for known in FORMATS if _has(inside, known.recognised_by)), None)
            if known is None:
                continue
            if len(stems) > 1:
                models = ", ".join(sorted(f"'{stem}'" for stem in stems)[:4])
                raise WeightsError(f"holds several models, whose names begin with {models}; save one alone")
            inner = {name.removeprefix(prefix): value for name, value in bare.items()}
            if len(inner) < len(bare):
                raise WeightsError(f"some names come both with and without '{prefix}'")
            return inner, known
    return bare, None


def _has(names: Iterable[str], expressions: tuple[str, ...]) -> bool:
    return all(any(re.match(expression, name) for name in names) for expression in expressions)
