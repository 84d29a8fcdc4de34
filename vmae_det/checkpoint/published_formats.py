"""Tables of the parameter names in published weight formats, next to our own names.

One step is not in the tables: our models have a fused `qkv`, so a table with `query`, `key` and `value`
describes a format that stores them separately. `rename_parameters.py` fuses and splits them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

# Number of attention heads by width, in the networks that the authors' code builds by name (VideoMAE and
# VideoMAE V2, modeling_pretrain.py and modeling_finetune.py). A state dict does not contain it.
HEADS_BY_WIDTH = {
    "backbone": {384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16},
    "decoder": {192: 3, 384: 6, 512: 8, 640: 8},
}
# The same, in the code of V-JEPA 2 and 2.1 (vision_transformer.py).
VJEPA_HEADS_BY_WIDTH = {"backbone": {768: 12, 1024: 16, 1280: 16, 1408: 22, 1664: 26}}
# The same of the last stage, in the video models of Hiera (hiera.py).
HIERA_HEADS_BY_WIDTH = {"backbone": {768: 8, 896: 16, 1152: 16, 2048: 32}}
_HEADS_OF_BACKBONE = {
    "VJepa2ViT": VJEPA_HEADS_BY_WIDTH,
    "VJepa21ViT": VJEPA_HEADS_BY_WIDTH,
    "Hiera": HIERA_HEADS_BY_WIDTH,
}
# Regular expressions of the placeholders in a pattern.
_PLACEHOLDERS = {"n": r"(?P<n>\d+)", "p": r"(?P<p>weight|bias)"}


class NameTable:
    """Pairs of name patterns, (published, ours), which translate names in both directions.

    A pattern is a full name with placeholders: `{n}` for a block number, `{p}` for "weight" or "bias". The
    first row that matches a name wins. Rows for names that are read but never written therefore come last.
    """

    def __init__(self, rows: Iterable[tuple[str, str]]) -> None:
        self.rows = tuple(rows)

    @cached_property
    def _to_ours(self) -> list[tuple[re.Pattern, str]]:
        return [(_compile(published), ours) for published, ours in self.rows]

    @cached_property
    def _to_published(self) -> list[tuple[re.Pattern, str]]:
        return [(_compile(ours), published) for published, ours in self.rows]

    def to_ours(self, name: str) -> str | None:
        """Return our name of the published parameter `name`, or None if it is not in the table."""
        return _translate(name, self._to_ours)

    def to_published(self, name: str) -> str | None:
        """Return the published name of our parameter `name`, or None if it is not in the table."""
        return _translate(name, self._to_published)

    def part_of(self, name: str) -> str:
        """Return the part of our models, such as "backbone", to which a published parameter belongs.

        Only the first component of its name must be in the table. Returns '' if it is not.
        """
        return self._parts.get(name.partition(".")[0], "")

    @cached_property
    def _parts(self) -> dict[str, str]:
        return {published.partition(".")[0]: part_of(ours) for published, ours in reversed(self.rows)}


def _compile(pattern: str) -> re.Pattern:
    expression = re.escape(pattern).replace(r"\{", "{").replace(r"\}", "}").format(**_PLACEHOLDERS)
    return re.compile(expression)


def _translate(name: str, rows: list[tuple[re.Pattern, str]]) -> str | None:
    for expression, pattern in rows:
        match = expression.fullmatch(name)
        if match:
            return pattern.format(**match.groupdict())
    return None


def part_of(name: str) -> str:
    """Return the part of our models that our parameter `name` belongs to: backbone, decoder, head, ..."""
    first = name.partition(".")[0]
    return "decoder" if first in ("encoder_to_decoder", "mask_token") else first


@dataclass(frozen=True)
class Format:
    """A published format: how to recognize it, and its parameter names.

    Args:
        family: name on the command line. A family may have one format for each task.
        name: name in messages.
        recognized_by: regular expressions, each of which matches the start of at least one name in a file.
        names: table of names; None for our own format, which keeps all names.
        top_key: key of the tensors in a file of `torch.save`; None for the top level.
        writable: whether files of this format can be written.
        backbone: name, in `BACKBONE_REGISTRY`, of the backbone that computes what the authors' model does
            with these weights; "" for any.
        ignored: regular expressions that match the start of names of parameters that do not affect the
            tokens of a video, although they belong to the encoder.
    """

    family: str
    name: str
    recognized_by: tuple[str, ...]
    names: NameTable | None
    top_key: str | None = "model"
    writable: bool = True
    backbone: str = "VideoViT"
    ignored: tuple[str, ...] = ()

    @property
    def heads_by_width(self) -> dict[str, dict[int, int]]:
        """Return the usual number of attention heads by part of a model and width."""
        return _HEADS_OF_BACKBONE.get(self.backbone, HEADS_BY_WIDTH)


def _blocks(published: str, ours: str, rows: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Expand the rows of one transformer block to all blocks under the prefixes `published` and `ours`."""
    return tuple((f"{published}.{{n}}.{name}", f"{ours}.{{n}}.{our_name}") for name, our_name in rows)


_NORMS_AND_MLP = (
    ("norm1.{p}", "norm1.{p}"),
    ("attn.proj.{p}", "attn.proj.{p}"),
    ("norm2.{p}", "norm2.{p}"),
    ("mlp.fc1.{p}", "mlp.fc1.{p}"),
    ("mlp.fc2.{p}", "mlp.fc2.{p}"),
)

# A fused qkv weight, and separate biases for queries and values only.
_VIDEOMAE_ATTENTION = (
    ("attn.qkv.weight", "attn.qkv.weight"),
    ("attn.q_bias", "attn.query.bias"),
    ("attn.v_bias", "attn.value.bias"),
)

_VIDEOMAE_BLOCK = (*_VIDEOMAE_ATTENTION, *_NORMS_AND_MLP)

_MMACTION2_BLOCK = (
    *_VIDEOMAE_ATTENTION,
    *_NORMS_AND_MLP[:3],
    ("mlp.layers.0.0.{p}", "mlp.fc1.{p}"),
    ("mlp.layers.1.{p}", "mlp.fc2.{p}"),
)

_IMAGE_BLOCK = (("attn.qkv.{p}", "attn.qkv.{p}"), *_NORMS_AND_MLP)

_MAE_ST_BLOCK = (
    ("attn.q.{p}", "attn.query.{p}"),
    ("attn.k.{p}", "attn.key.{p}"),
    ("attn.v.{p}", "attn.value.{p}"),
    *_NORMS_AND_MLP,
)

# MAE-ST, models_mae.py and models_vit.py. The class token and its position become one parameter, and the
# tables of space and time become one.
_MAE_ST = (
    ("cls_token", "backbone.class_token"),
    ("pos_embed_class", "backbone.class_position"),
    ("pos_embed_spatial", "backbone.spatial_positions"),
    ("pos_embed_temporal", "backbone.temporal_positions"),
    ("patch_embed.proj.{p}", "backbone.patch_embed.proj.{p}"),
    *_blocks("blocks", "backbone.blocks", _MAE_ST_BLOCK),
)

_HUGGING_FACE_BLOCK = (
    ("layernorm_before.{p}", "norm1.{p}"),
    ("attention.attention.query.weight", "attn.query.weight"),
    ("attention.attention.key.weight", "attn.key.weight"),
    ("attention.attention.value.weight", "attn.value.weight"),
    ("attention.attention.q_bias", "attn.query.bias"),
    ("attention.attention.v_bias", "attn.value.bias"),
    ("attention.output.dense.{p}", "attn.proj.{p}"),
    ("layernorm_after.{p}", "norm2.{p}"),
    ("intermediate.dense.{p}", "mlp.fc1.{p}"),
    ("output.dense.{p}", "mlp.fc2.{p}"),
    # Names of the biases in memory since Transformers 5. The files that it writes have the names above.
    ("attention.attention.query.bias", "attn.query.bias"),
    ("attention.attention.value.bias", "attn.value.bias"),
)

_HUGGING_FACE = NameTable(
    (
        ("videomae.embeddings.patch_embeddings.projection.{p}", "backbone.patch_embed.proj.{p}"),
        ("videomae.embeddings.position_embeddings", "backbone.positions"),
        *_blocks("videomae.encoder.layer", "backbone.blocks", _HUGGING_FACE_BLOCK),
        ("videomae.layernorm.{p}", "backbone.norm.{p}"),
        ("encoder_to_decoder.weight", "encoder_to_decoder.weight"),
        ("mask_token", "mask_token"),
        *_blocks("decoder.decoder_layers", "decoder.blocks", _HUGGING_FACE_BLOCK),
        ("decoder.norm.{p}", "decoder.norm.{p}"),
        ("decoder.head.{p}", "decoder.head.{p}"),
        ("fc_norm.{p}", "fc_norm.{p}"),
        ("classifier.{p}", "head.{p}"),
    )
)

_HUGGING_FACE_VJEPA_BLOCK = (
    *((f"attention.{part}.{{p}}", f"attn.{part}.{{p}}") for part in ("query", "key", "value", "proj")),
    *(row for row in _NORMS_AND_MLP if not row[0].startswith("attn.")),
)

PUBLISHED_DETECTOR = "VideoMAE action detection"

# The first format that recognizes a file is used, so formats that share names with others come first.
FORMATS = (
    Format(
        "vmae_det",
        "vmae_det",
        (r"backbone\.patch_embed\.proj\.weight$", r"backbone\..*attn\.qkv\.bias$"),
        None,
        backbone="",
    ),
    Format(
        "videomae",
        "VideoMAE pre-training",
        (r"encoder\.patch_embed\.", r"encoder\.blocks\..*attn\.qkv\."),
        NameTable(
            (
                ("encoder.patch_embed.proj.{p}", "backbone.patch_embed.proj.{p}"),
                ("encoder.pos_embed", "backbone.positions"),
                *_blocks("encoder.blocks", "backbone.blocks", _VIDEOMAE_BLOCK),
                ("encoder.norm.{p}", "backbone.norm.{p}"),
                ("encoder_to_decoder.weight", "encoder_to_decoder.weight"),
                ("mask_token", "mask_token"),
                *_blocks("decoder.blocks", "decoder.blocks", _VIDEOMAE_BLOCK),
                ("decoder.norm.{p}", "decoder.norm.{p}"),
                ("decoder.head.{p}", "decoder.head.{p}"),
            )
        ),
    ),
    Format(
        "mae-st",
        "MAE-ST classification",
        (r"cls_token$", r"pos_embed_spatial$", r"blocks\..*attn\.q\.", r"head\."),
        # Its norm follows the mean over tokens.
        NameTable((*_MAE_ST, ("norm.{p}", "fc_norm.{p}"), ("head.{p}", "head.{p}"))),
        writable=False,
    ),
    Format(
        "mae-st",
        "MAE-ST",
        (r"cls_token$", r"pos_embed_spatial$", r"blocks\..*attn\.q\."),
        NameTable((*_MAE_ST, ("norm.{p}", "backbone.norm.{p}"))),
        writable=False,
    ),
    Format(
        "image-mae",
        "image MAE",
        (r"cls_token$", r"patch_embed\.proj\.", r"blocks\..*attn\.qkv\.weight$"),
        NameTable(
            (
                ("cls_token", "backbone.class_token"),
                ("pos_embed", "backbone.image_positions"),
                ("patch_embed.proj.{p}", "backbone.patch_embed.proj.{p}"),
                *_blocks("blocks", "backbone.blocks", _IMAGE_BLOCK),
                ("norm.{p}", "backbone.norm.{p}"),
                # Parameters of timm that our backbone lacks. A file with them is refused.
                ("reg_token", "backbone.register_tokens"),
                ("dist_token", "backbone.distillation_token"),
                ("norm_pre.{p}", "backbone.norm_before_blocks.{p}"),
            )
        ),
        writable=False,
    ),
    Format(
        "hiera",
        "Hiera",
        (r"patch_embed\.proj\.", r"blocks\.\d+\.proj\.weight$"),  # a projection to the width of a stage
        NameTable(
            (
                ("pos_embed_spatial", "backbone.pos_embed_spatial"),
                ("pos_embed_temporal", "backbone.pos_embed_temporal"),
                ("patch_embed.proj.{p}", "backbone.patch_embed.proj.{p}"),
                *_blocks("blocks", "backbone.blocks", (*_IMAGE_BLOCK, ("proj.{p}", "proj.{p}"))),
                ("norm.{p}", "fc_norm.{p}"),  # follows the mean over tokens
                ("head.projection.{p}", "head.{p}"),
            )
        ),
        top_key="model_state",
        writable=False,
        backbone="Hiera",
    ),
    Format(
        "vjepa2",
        "V-JEPA 2.1",
        (r"patch_embed\.proj\.", r"video_mod_embed$", r"norms_block\.3\."),
        NameTable(
            (
                ("patch_embed.proj.{p}", "backbone.patch_embed.proj.{p}"),
                ("video_mod_embed", "backbone.video_mod_embed"),
                *_blocks("blocks", "backbone.blocks", _IMAGE_BLOCK),
                ("norms_block.3.{p}", "backbone.norm.{p}"),
            )
        ),
        writable=False,
        backbone="VJepa21ViT",
        # The embedding of images, and the norms of the other three layers that were trained.
        ignored=(r"patch_embed_img\.", r"img_mod_embed$", r"norms_block\.[012]\."),
    ),
    Format(
        "vjepa2",
        "V-JEPA 2",
        (r"patch_embed\.proj\.", r"blocks\..*attn\.qkv\.bias$", r"norm\."),
        NameTable(
            (
                ("patch_embed.proj.{p}", "backbone.patch_embed.proj.{p}"),
                *_blocks("blocks", "backbone.blocks", _IMAGE_BLOCK),
                ("norm.{p}", "backbone.norm.{p}"),
            )
        ),
        writable=False,
        backbone="VJepa2ViT",
        ignored=(r"pos_embed$",),  # in some files, but not used with rotary positions
    ),
    Format(
        "videomae",
        PUBLISHED_DETECTOR,
        (r"patch_embed\.", r"blocks\..*attn\.qkv\.", r"norm\."),
        NameTable(
            (
                ("patch_embed.proj.{p}", "backbone.patch_embed.proj.{p}"),
                ("pos_embed", "backbone.positions"),
                *_blocks("blocks", "backbone.blocks", _VIDEOMAE_BLOCK),
                ("norm.{p}", "backbone.norm.{p}"),
                ("head.{p}", "roi_head.classifier.{p}"),
                # Not in VideoMAE's files: keeps the background row of mmaction2, so that it can be restored.
                ("background.{p}", "roi_head.background.{p}"),
            )
        ),
        top_key="module",
    ),
    Format(
        "videomae",
        "VideoMAE classification",
        (r"patch_embed\.", r"blocks\..*attn\.qkv\."),
        NameTable(
            (
                ("patch_embed.proj.{p}", "backbone.patch_embed.proj.{p}"),
                ("pos_embed", "backbone.positions"),
                *_blocks("blocks", "backbone.blocks", _VIDEOMAE_BLOCK),
                ("fc_norm.{p}", "fc_norm.{p}"),
                ("head.{p}", "head.{p}"),
            )
        ),
        top_key="module",
    ),
    Format(
        "huggingface",
        "Hugging Face VideoMAE",
        (r"videomae\.embeddings\.", r"videomae\.encoder\.layer\."),
        _HUGGING_FACE,
        top_key=None,
    ),
    Format(
        "huggingface",
        "Hugging Face VideoMAEModel",
        (r"embeddings\.patch_embeddings\.", r"encoder\.layer\."),
        NameTable((published.removeprefix("videomae."), ours) for published, ours in _HUGGING_FACE.rows),
        top_key=None,
        writable=False,
    ),
    Format(
        "vjepa2",
        "Hugging Face V-JEPA 2",
        (r"encoder\.embeddings\.patch_embeddings\.proj\.", r"encoder\.layer\..*attention\.query\."),
        NameTable(
            (
                ("encoder.embeddings.patch_embeddings.proj.{p}", "backbone.patch_embed.proj.{p}"),
                *_blocks("encoder.layer", "backbone.blocks", _HUGGING_FACE_VJEPA_BLOCK),
                ("encoder.layernorm.{p}", "backbone.norm.{p}"),
            )
        ),
        top_key=None,
        writable=False,
        backbone="VJepa2ViT",
    ),
    Format(
        "mmaction2",
        "mmaction2",
        (r"backbone\.patch_embed\.projection\.", r"backbone\.blocks\..*attn\.qkv\."),
        NameTable(
            (
                ("backbone.patch_embed.projection.{p}", "backbone.patch_embed.proj.{p}"),
                ("backbone.pos_embed", "backbone.positions"),
                *_blocks("backbone.blocks", "backbone.blocks", _MMACTION2_BLOCK),
                ("backbone.norm.{p}", "backbone.norm.{p}"),
                ("backbone.fc_norm.{p}", "fc_norm.{p}"),
                ("cls_head.fc_cls.{p}", "head.{p}"),
                # The first row is the background class, which is never trained; then one row per action.
                ("roi_head.bbox_head.fc_cls.{p}", "roi_head.background_and_classifier.{p}"),
            )
        ),
        top_key="state_dict",
    ),
)

OWN_FORMAT = next(known for known in FORMATS if known.names is None)
PUBLISHED_BACKBONES = {known.backbone for known in FORMATS} - {""}
