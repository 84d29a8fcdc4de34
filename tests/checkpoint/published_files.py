"""Tiny state dicts with the parameter names and shapes of published checkpoints, and random values."""

import torch

DEPTH, WIDTH, PATCH, TUBELET = 2, 24, 16, 2
DECODER_DEPTH, DECODER_WIDTH = 1, 16
CLASSES, ACTIONS = 5, 6
TOKENS = 2 * 4 * 4  # of a clip of 4 x 64 x 64
CUBE = 3 * TUBELET * PATCH * PATCH


def pair(name, *shape):
    """The weight (*shape) and the bias (shape[0]) of a layer."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def norm(name, width=WIDTH):
    return pair(name, width)


def fused_block(prefix, width, fc1="mlp.fc1", fc2="mlp.fc2"):
    """A block of VideoMAE, with qkv, q_bias and v_bias (modeling_finetune.py, class Attention)."""
    return {
        **norm(f"{prefix}.norm1", width),
        f"{prefix}.attn.q_bias": (width,),
        f"{prefix}.attn.v_bias": (width,),
        f"{prefix}.attn.qkv.weight": (3 * width, width),
        **pair(f"{prefix}.attn.proj", width, width),
        **norm(f"{prefix}.norm2", width),
        **pair(f"{prefix}.{fc1}", 4 * width, width),
        **pair(f"{prefix}.{fc2}", width, 4 * width),
    }


def image_block(prefix, width):
    """A block of timm's vision transformer, as in image MAE."""
    return {
        **norm(f"{prefix}.norm1", width),
        **pair(f"{prefix}.attn.qkv", 3 * width, width),
        **pair(f"{prefix}.attn.proj", width, width),
        **norm(f"{prefix}.norm2", width),
        **pair(f"{prefix}.mlp.fc1", 4 * width, width),
        **pair(f"{prefix}.mlp.fc2", width, 4 * width),
    }


def transformers_block(prefix, width):
    """VideoMAELayer of Transformers."""
    attention = f"{prefix}.attention.attention"
    return {
        f"{attention}.q_bias": (width,),
        f"{attention}.v_bias": (width,),
        f"{attention}.query.weight": (width, width),
        f"{attention}.key.weight": (width, width),
        f"{attention}.value.weight": (width, width),
        **pair(f"{prefix}.attention.output.dense", width, width),
        **pair(f"{prefix}.intermediate.dense", 4 * width, width),
        **pair(f"{prefix}.output.dense", width, 4 * width),
        **norm(f"{prefix}.layernorm_before", width),
        **norm(f"{prefix}.layernorm_after", width),
    }


def blocks(prefix, block=fused_block, depth=DEPTH, width=WIDTH, **names):
    return {key: shape for n in range(depth) for key, shape in block(f"{prefix}.{n}", width, **names).items()}


def decoder(block, prefix):
    return {
        "mask_token": (1, 1, DECODER_WIDTH),
        "encoder_to_decoder.weight": (DECODER_WIDTH, WIDTH),
        **blocks(prefix, block, DECODER_DEPTH, DECODER_WIDTH),
        **norm("decoder.norm", DECODER_WIDTH),
        **pair("decoder.head", CUBE, DECODER_WIDTH),
    }


def patch_embedding(name, patch=PATCH):
    return pair(name, WIDTH, 3, TUBELET, patch, patch)


MMACTION2_BACKBONE = {
    "backbone.pos_embed": (1, TOKENS, WIDTH),
    **patch_embedding("backbone.patch_embed.projection"),
    **blocks("backbone.blocks", fc1="mlp.layers.0.0", fc2="mlp.layers.1"),
}

# (family, task) -> (name of the format, top-level key, shapes by name)
PUBLISHED = {
    ("videomae", "pretrain"): (
        "VideoMAE pre-training",
        "model",
        {
            **patch_embedding("encoder.patch_embed.proj"),
            **blocks("encoder.blocks"),
            **norm("encoder.norm"),
            **decoder(fused_block, "decoder.blocks"),
        },
    ),
    ("videomae", "finetune"): (
        "VideoMAE classification",
        "module",
        {
            **patch_embedding("patch_embed.proj"),
            **blocks("blocks"),
            **norm("fc_norm"),
            **pair("head", CLASSES, WIDTH),
        },
    ),
    ("videomae", "detect"): (
        "VideoMAE action detection",
        "module",
        {
            **patch_embedding("patch_embed.proj"),
            **blocks("blocks"),
            **norm("norm"),
            **pair("head", ACTIONS, WIDTH),
        },
    ),
    ("huggingface", "pretrain"): (
        "Hugging Face VideoMAE",
        None,
        {
            **patch_embedding("videomae.embeddings.patch_embeddings.projection"),
            **blocks("videomae.encoder.layer", transformers_block),
            **norm("videomae.layernorm"),
            **decoder(transformers_block, "decoder.decoder_layers"),
        },
    ),
    ("huggingface", "finetune"): (
        "Hugging Face VideoMAE",
        None,
        {
            **patch_embedding("videomae.embeddings.patch_embeddings.projection"),
            **blocks("videomae.encoder.layer", transformers_block),
            **norm("fc_norm"),
            **pair("classifier", CLASSES, WIDTH),
        },
    ),
    ("mmaction2", "finetune"): (
        "mmaction2",
        "state_dict",
        {**MMACTION2_BACKBONE, **norm("backbone.fc_norm"), **pair("cls_head.fc_cls", CLASSES, WIDTH)},
    ),
    ("mmaction2", "detect"): (
        "mmaction2",
        "state_dict",
        {
            **MMACTION2_BACKBONE,
            **norm("backbone.norm"),
            **pair("roi_head.bbox_head.fc_cls", ACTIONS + 1, WIDTH),
        },
    ),
}

IMAGE_MAE = {
    "cls_token": (1, 1, WIDTH),
    "pos_embed": (1, 17, WIDTH),
    **pair("patch_embed.proj", WIDTH, 3, PATCH, PATCH),
    **blocks("blocks", image_block),
    **norm("norm"),
    "mask_token": (1, 1, DECODER_WIDTH),
    "decoder_pos_embed": (1, 17, DECODER_WIDTH),
    **pair("decoder_embed", DECODER_WIDTH, WIDTH),
    **blocks("decoder_blocks", image_block, DECODER_DEPTH, DECODER_WIDTH),
    **norm("decoder_norm", DECODER_WIDTH),
    **pair("decoder_pred", 3 * PATCH * PATCH, DECODER_WIDTH),
}


def mae_st_block(prefix, width):
    """A block of MAE-ST, with separate linear layers for queries, keys and values (util/video_vit.py)."""
    block = image_block(prefix, width)
    del block[f"{prefix}.attn.qkv.weight"], block[f"{prefix}.attn.qkv.bias"]
    return block | {k: v for part in "qkv" for k, v in pair(f"{prefix}.attn.{part}", width, width).items()}


MAE_ST_ENCODER = {
    "cls_token": (1, 1, WIDTH),
    "pos_embed_spatial": (1, 16, WIDTH),
    "pos_embed_temporal": (1, 2, WIDTH),
    "pos_embed_class": (1, 1, WIDTH),
    **patch_embedding("patch_embed.proj"),
    **blocks("blocks", mae_st_block),
    **norm("norm"),
}
MAE_ST = {  # models_mae.py
    **MAE_ST_ENCODER,
    "decoder_cls_token": (1, 1, DECODER_WIDTH),
    "mask_token": (1, 1, DECODER_WIDTH),
    "decoder_pos_embed_spatial": (1, 16, DECODER_WIDTH),
    "decoder_pos_embed_temporal": (1, 2, DECODER_WIDTH),
    "decoder_pos_embed_class": (1, 1, DECODER_WIDTH),
    **pair("decoder_embed", DECODER_WIDTH, WIDTH),
    **blocks("decoder_blocks", mae_st_block, DECODER_DEPTH, DECODER_WIDTH),
    **norm("decoder_norm", DECODER_WIDTH),
    **pair("decoder_pred", 3 * PATCH * PATCH, DECODER_WIDTH),
}
MAE_ST_CLASSIFIER = {**MAE_ST_ENCODER, **pair("head", CLASSES, WIDTH)}  # models_vit.py

UMT = {  # models/modeling_pretrain_umt.py: no decoder but layers that predict the tokens of CLIP
    **pair("encoder.patch_embed.proj", WIDTH, 3, 1, PATCH, PATCH),
    **blocks("encoder.blocks"),
    **norm("encoder.norm"),
    **{key: shape for n in range(2) for key, shape in pair(f"clip_decoder.{n}.head", 32, WIDTH).items()},
    **{key: shape for n in range(2) for key, shape in norm(f"clip_decoder.{n}.norm", 32).items()},
}


def vjepa_transformers_block(prefix, width):
    """VJEPA2Layer of Transformers."""
    return {
        **norm(f"{prefix}.norm1", width),
        **{
            name: shape
            for part in ("query", "key", "value", "proj")
            for name, shape in pair(f"{prefix}.attention.{part}", width, width).items()
        },
        **norm(f"{prefix}.norm2", width),
        **pair(f"{prefix}.mlp.fc1", 4 * width, width),
        **pair(f"{prefix}.mlp.fc2", width, 4 * width),
    }


_VJEPA = {**patch_embedding("patch_embed.proj"), **blocks("blocks", image_block)}
# Name of the format -> shapes by name, of an encoder.
VJEPA = {
    "V-JEPA 2": {"pos_embed": (1, 64, WIDTH), **_VJEPA, **norm("norm")},
    "V-JEPA 2.1": {
        **_VJEPA,
        **pair("patch_embed_img.proj", WIDTH, 3, 1, PATCH, PATCH),
        **{f"{kind}_mod_embed": (1, 1, WIDTH) for kind in ("img", "video")},
        **{name: shape for n in range(4) for name, shape in norm(f"norms_block.{n}").items()},
    },
    "Hugging Face V-JEPA 2": {
        **patch_embedding("encoder.embeddings.patch_embeddings.proj"),
        **blocks("encoder.layer", vjepa_transformers_block),
        **norm("encoder.layernorm"),
        **pair("predictor.embeddings.predictor_embeddings", WIDTH, WIDTH),
        **norm("predictor.layernorm"),
    },
}

HIERA = {**_VJEPA, **pair("blocks.1.proj", WIDTH, WIDTH), **norm("norm"), **pair("head.projection", 5, WIDTH)}


def tensors(shapes, seed=0):
    """Random tensors of the given shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def state_dict(family, task, seed=0):
    """The state dict of a published format."""
    return tensors(PUBLISHED[family, task][2], seed)


def save(family, task, path, seed=0):
    """Write a published file with `torch.save` under its top-level key, and return its state dict."""
    _, top, shapes = PUBLISHED[family, task]
    content = tensors(shapes, seed)
    torch.save({top: content} if top else content, path)
    return content
