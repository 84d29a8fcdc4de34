"""The config keys that the shapes of parameters show."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch

_BLOCK = re.compile(r"(backbone|decoder)\.blocks\.(\d{1,4})\.")


def keys_of(weights: dict[str, torch.Tensor]) -> dict[str, int | float]:
    """Values of config keys by the names (ours) and shapes of parameters, as far as these show them."""
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    found: dict[str, int | float] = {}
    embedding = shapes.get("backbone.patch_embed.proj.weight", ())
    if len(embedding) == 5:
        found["MODEL.BACKBONE.EMBED_DIM"] = embedding[0]
        found["MODEL.BACKBONE.TUBELET_SIZE"] = embedding[2]
        found["MODEL.BACKBONE.PATCH_SIZE"] = embedding[3]
    hidden = shapes.get("backbone.blocks.0.mlp.fc1.weight", ())
    if len(hidden) == 2 and hidden[1]:
        found["MODEL.BACKBONE.MLP_RATIO"] = round(hidden[0] / hidden[1], 4)
    for part in ("backbone", "decoder"):
        if depth := _depth(shapes, part):
            found[f"MODEL.{part.upper()}.DEPTH"] = depth
    for key, name, dimension in (
        ("MODEL.DECODER.EMBED_DIM", "encoder_to_decoder.weight", 0),
        ("MODEL.CLASSIFIER.NUM_CLASSES", "head.weight", 0),
        ("MODEL.ROI_HEAD.NUM_CLASSES", "roi_head.classifier.weight", 0),
    ):
        if shapes.get(name):
            found[key] = shapes[name][dimension]
    return found


def _depth(names: Iterable[str], part: str) -> int:
    numbers = {int(match[2]) for name in names if (match := _BLOCK.match(name)) and match[1] == part}
    return max(numbers, default=-1) + 1
