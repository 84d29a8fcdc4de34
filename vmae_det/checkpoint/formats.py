"""The published formats of weights: tables of parameter names, theirs beside ours.

Between the names of a table and those of our models lies one step, in `attention.py`: our queries, keys and
values are one `qkv`; the tables call them `query`, `key` and `value` where a format keeps them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmae_det.checkpoint.naming import NameTable, blocks


@dataclass(frozen=True)
class Format:
    """How the names of one kind of file and those of our models become each other.

    Args:
        family: what the command line calls it; a family may have a format for each task.
        name: as shown to the user.
        recognised_by: regular expressions; each matches the beginning of at least one name of such a file.
        names: the table; None for our own format, which keeps all names.
        top_key: under which the tensors lie in a file of PyTorch's; None if they lie at the top.
        writable: whether files of this format can be written.
    """

    family: str
    name: str
    recognised_by: tuple[str, ...]
    names: NameTable | None
    top_key: str | None = "model"
    writable: bool = True


_NORMS_AND_MLP = (
    ("norm1.{p}", "norm1.{p}"),
    ("attn.proj.{p}", "attn.proj.{p}"),
    ("norm2.{p}", "norm2.{p}"),
    ("mlp.fc1.{p}", "mlp.fc1.{p}"),
    ("mlp.fc2.{p}", "mlp.fc2.{p}"),
)

# A fused qkv, with biases for queries and values alone.
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
    # So models of transformers 5 call the biases in memory; the files that it writes have the names above.
    ("attention.attention.query.bias", "attn.query.bias"),
    ("attention.attention.value.bias", "attn.value.bias"),
)

_HUGGING_FACE = NameTable(
    (
        ("videomae.embeddings.patch_embeddings.projection.{p}", "backbone.patch_embed.proj.{p}"),
        ("videomae.embeddings.position_embeddings", "backbone.positions"),
        *blocks("videomae.encoder.layer", "backbone.blocks", _HUGGING_FACE_BLOCK),
        ("videomae.layernorm.{p}", "backbone.norm.{p}"),
        ("encoder_to_decoder.weight", "encoder_to_decoder.weight"),
        ("mask_token", "mask_token"),
        *blocks("decoder.decoder_layers", "decoder.blocks", _HUGGING_FACE_BLOCK),
        ("decoder.norm.{p}", "decoder.norm.{p}"),
        ("decoder.head.{p}", "decoder.head.{p}"),
        ("fc_norm.{p}", "fc_norm.{p}"),
        ("classifier.{p}", "head.{p}"),
    )
)

PUBLISHED_DETECTOR = "VideoMAE action detection"

# The first format that recognises a file is taken, so those with more in common with others come first.
FORMATS = (
    Format(
        "vmae_det",
        "vmae_det",
        (r"backbone\.patch_embed\.proj\.weight$", r"backbone\..*attn\.qkv\.bias$"),
        None,
    ),
    Format(
        "videomae",
        "VideoMAE pre-training",
        (r"encoder\.patch_embed\.", r"encoder\.blocks\..*attn\.qkv\."),
        NameTable(
            (
                ("encoder.patch_embed.proj.{p}", "backbone.patch_embed.proj.{p}"),
                ("encoder.pos_embed", "backbone.positions"),
                *blocks("encoder.blocks", "backbone.blocks", _VIDEOMAE_BLOCK),
                ("encoder.norm.{p}", "backbone.norm.{p}"),
                ("encoder_to_decoder.weight", "encoder_to_decoder.weight"),
                ("mask_token", "mask_token"),
                *blocks("decoder.blocks", "decoder.blocks", _VIDEOMAE_BLOCK),
                ("decoder.norm.{p}", "decoder.norm.{p}"),
                ("decoder.head.{p}", "decoder.head.{p}"),
            )
        ),
    ),
    Format(
        "image-mae",
        "image MAE",
        (r"cls_token$", r"patch_embed\.proj\.", r"blocks\..*attn\.qkv\.weight$"),
        NameTable(
            (
                ("patch_embed.proj.{p}", "backbone.patch_embed.proj.{p}"),
                *blocks("blocks", "backbone.blocks", _IMAGE_BLOCK),
                ("norm.{p}", "backbone.norm.{p}"),
            )
        ),
        writable=False,
    ),
    Format(
        "videomae",
        PUBLISHED_DETECTOR,
        (r"patch_embed\.", r"blocks\..*attn\.qkv\.", r"norm\."),
        NameTable(
            (
                ("patch_embed.proj.{p}", "backbone.patch_embed.proj.{p}"),
                ("pos_embed", "backbone.positions"),
                *blocks("blocks", "backbone.blocks", _VIDEOMAE_BLOCK),
                ("norm.{p}", "backbone.norm.{p}"),
                ("head.{p}", "roi_head.classifier.{p}"),
                # Not VideoMAE's: where mmaction2's row of the background waits for the way back.
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
                *blocks("blocks", "backbone.blocks", _VIDEOMAE_BLOCK),
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
        NameTable((theirs.removeprefix("videomae."), ours) for theirs, ours in _HUGGING_FACE.rows),
        top_key=None,
        writable=False,
    ),
    Format(
        "mmaction2",
        "mmaction2",
        (r"backbone\.patch_embed\.projection\.", r"backbone\.blocks\..*attn\.qkv\."),
        NameTable(
            (
                ("backbone.patch_embed.projection.{p}", "backbone.patch_embed.proj.{p}"),
                ("backbone.pos_embed", "backbone.positions"),
                *blocks("backbone.blocks", "backbone.blocks", _MMACTION2_BLOCK),
                ("backbone.norm.{p}", "backbone.norm.{p}"),
                ("backbone.fc_norm.{p}", "fc_norm.{p}"),
                ("cls_head.fc_cls.{p}", "head.{p}"),
                # One row more than there are actions: the first is the background's, which is never trained.
                ("roi_head.bbox_head.fc_cls.{p}", "roi_head.background_and_classifier.{p}"),
            )
        ),
        top_key="state_dict",
    ),
)

OWN_FORMAT = next(known for known in FORMATS if known.names is None)
