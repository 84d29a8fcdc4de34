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
        patterns: (regular expression, replacement) pairs, applied to a name one after the other.
    """

    name: str
    recognised_by: tuple[str, ...]
    patterns: tuple[tuple[str, str], ...]


FORMATS = (
    Format("vmae_det", (r"backbone\.patch_embed\.proj\.weight$", r"backbone\..*attn\.qkv\.bias$"), ()),
    Format(
        "VideoMAE pre-training",
        (r"encoder\.patch_embed\.", r"encoder\.blocks\..*attn\.qkv\."),
        ((r"^encoder\.", "backbone."),),
    ),
    Format(
        "VideoMAE classification",
        (r"patch_embed\.", r"blocks\..*attn\.qkv\.", r"fc_norm\."),
        ((r"^(patch_embed|blocks)\.", r"backbone.\1."),),
    ),
    Format(
        "VideoMAE action detection",
        (r"patch_embed\.", r"blocks\..*attn\.qkv\.", r"norm\."),
        ((r"^(patch_embed|blocks|norm)\.", r"backbone.\1."), (r"^head\.", "roi_head.classifier.")),
    ),
    Format(
        "Hugging Face VideoMAE",
        (r"videomae\.embeddings\.", r"videomae\.encoder\.layer\."),
        (
            (r"^videomae\.embeddings\.patch_embeddings\.projection\.", "backbone.patch_embed.proj."),
            (r"^videomae\.encoder\.layer\.", "backbone.blocks."),
            (r"^videomae\.layernorm\.", "backbone.norm."),
            (r"^decoder\.decoder_layers\.", "decoder.blocks."),
            (r"^classifier\.", "head."),
            (r"\.layernorm_before\.", ".norm1."),
            (r"\.layernorm_after\.", ".norm2."),
            (r"\.attention\.attention\.(q|k|v)\w+\.weight$", r".attn.\1.weight"),
            (r"\.attention\.attention\.(q|v)(uery|alue)?[._]bias$", r".attn.\1_bias"),
            (r"\.attention\.output\.dense\.", ".attn.proj."),
            (r"\.intermediate\.dense\.", ".mlp.fc1."),
            (r"\.output\.dense\.", ".mlp.fc2."),
        ),
    ),
)


def to_our_names(state_dict: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Format] | None:
    """The state dict under our names and the format that it had, or None if no format is recognised."""
    for known in FORMATS:
        if all(any(re.match(p, name) for name in state_dict) for p in known.recognised_by):
            renamed = {_rename(name, known.patterns): value for name, value in state_dict.items()}
            return _fuse_attention(renamed), known
    return None


def _rename(name: str, patterns: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in patterns:
        name = re.sub(pattern, replacement, name)
    return name


def _fuse_attention(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Separate queries, keys and values become one `qkv`; keys, which have no bias, get zeros."""
    fused = dict(state_dict)
    for name in state_dict:
        prefix, _, part = name.rpartition(".")
        if part == "q_bias" and f"{prefix}.v_bias" in state_dict:
            query, value = fused.pop(f"{prefix}.q_bias"), fused.pop(f"{prefix}.v_bias")
            fused[f"{prefix}.qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
        if name.endswith("attn.q.weight"):
            parts = [f"{prefix.removesuffix('.q')}.{part}.weight" for part in "qkv"]
            if all(part in state_dict for part in parts):
                fused[f"{prefix.removesuffix('.q')}.qkv.weight"] = torch.cat(
                    [fused.pop(part) for part in parts]
                )
    return fused
