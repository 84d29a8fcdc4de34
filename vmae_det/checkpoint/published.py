"""Parameter names of published files, as tables of patterns that turn them into ours.

Every format is a row of `FORMATS`; a state dict is recognised by names that only its format has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Format:
    """How the names of one kind of file become the names of our models.

    Args:
        name: as shown to the user.
        recognised_by: regular expressions; each matches at least one name of such a file.
        patterns: (regular expression, replacement) pairs; the first that matches from a name's start is applied.
    """

    name: str
    recognised_by: tuple[str, ...]
    patterns: tuple[tuple[str, str], ...]


FORMATS = (
    Format("vmae_det", (r"backbone\.patch_embed\.proj\.weight$", r"backbone\..*attn\.qkv\.bias$"), ()),
    Format(
        "VideoMAE pre-training",
        (r"encoder\.patch_embed\.", r"encoder\.blocks\..*attn\.qkv\."),
        ((r"encoder\.", "backbone."),),
    ),
    Format(
        "VideoMAE classification",
        (r"patch_embed\.", r"blocks\..*attn\.qkv\.", r"fc_norm\."),
        ((r"(patch_embed|blocks)\.", r"backbone.\1."),),
    ),
    Format(
        "VideoMAE action detection",
        (r"patch_embed\.", r"blocks\..*attn\.qkv\.", r"norm\."),
        ((r"(patch_embed|blocks|norm)\.", r"backbone.\1."), (r"head\.", "roi_head.classifier.")),
    ),
)


def to_our_names(state_dict: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Format] | None:
    """The state dict under our names and the format that it had, or None if no format is recognised."""
    for known in FORMATS:
        if all(any(re.match(p, name) for name in state_dict) for p in known.recognised_by):
            renamed = {_rename(name, known.patterns): value for name, value in state_dict.items()}
            return _fuse_attention_biases(renamed), known
    return None


def _rename(name: str, patterns: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in patterns:
        if re.match(pattern, name):
            return re.sub("^" + pattern, replacement, name)
    return name


def _fuse_attention_biases(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`q_bias` and `v_bias` become one `qkv.bias`, with zeros for the keys, which have none."""
    fused = {}
    for name, value in state_dict.items():
        if name.endswith("attn.q_bias"):
            v_bias = state_dict.get(name.replace("q_bias", "v_bias"))
            if v_bias is not None:
                fused[name.replace("q_bias", "qkv.bias")] = torch.cat([value, torch.zeros_like(value), v_bias])
        elif not name.endswith("attn.v_bias"):
            fused[name] = value
    return fused
