"""Image vision transformers of timm as `timm:NAME`: their files on the Hugging Face hub, and their config."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import torch
import yaml
from torch import nn

from vmae_det.utils.errors import WeightsError, did_you_mean

PREFIX = "timm:"
_MAX_EPS = 1e-5  # of a LayerNorm; ours have 1e-6
_BLOCK = re.compile(r"blocks\.\d+\.")
_LAYERS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
_NAMES = {
    *("cls_token", "pos_embed"),
    *(f"{layer}.{part}" for layer in ("patch_embed.proj", "norm") for part in ("weight", "bias")),
    *(f"blocks.N.{layer}.{part}" for layer in _LAYERS for part in ("weight", "bias")),
}


def is_timm_name(source: object) -> bool:
    """Return whether a source of weights is the name of a model of timm, with its prefix."""
    return str(source).startswith(PREFIX)


def hub_name(source: str) -> str:
    """Return the repository on the Hugging Face hub that has the weights of the model `timm:NAME`.

    Raises:
        WeightsError: there is no such model, it is no plain vision transformer, or it has no weights there.
    """
    published = _plain_vit(source).pretrained_cfg
    if not published.get("hf_hub_id") or published.get("hf_hub_filename"):
        raise WeightsError(f"{source}: timm has no weights of this model on the Hugging Face hub")
    return published["hf_hub_id"]


def timm_config(source: str) -> str:
    """Return the config of the model `timm:NAME` as YAML, with only the keys of its network and its pixels.

    Raises:
        WeightsError: there is no such model, or it is not a plain vision transformer.
    """
    model = _plain_vit(source)
    published, block = model.pretrained_cfg, model.blocks[0]
    backbone = {
        "NAME": "VideoViT",
        "EMBED_DIM": model.embed_dim,
        "DEPTH": len(model.blocks),
        "NUM_HEADS": block.attn.num_heads,
        "MLP_RATIO": round(block.mlp.fc1.out_features / model.embed_dim, 4),
        "PATCH_SIZE": model.patch_embed.patch_size[0],
        "CLASS_TOKEN": True,
    }
    pixels = {
        key: [round(255 * value, 3) for value in published[name]]
        for key, name in (("PIXEL_MEAN", "mean"), ("PIXEL_STD", "std"))
    }
    size = model.patch_embed.img_size[0]
    return yaml.safe_dump({"MODEL": {"BACKBONE": backbone, **pixels}, "INPUT": {"CROP_SIZE": size}})


@lru_cache(maxsize=1)
def _plain_vit(source: str) -> nn.Module:
    """Return the model of timm without weights. WeightsError if it computes anything else than VideoViT."""
    import timm  # slow to import

    name = source.removeprefix(PREFIX)
    if not timm.is_model_pretrained(name):
        known = [PREFIX + model for model in timm.list_models("vit_*", pretrained=True)]
        raise WeightsError(f"{source}: timm has no weights of this name{did_you_mean(source, known)}")
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    differences = list(_differences(model))
    if differences:
        raise WeightsError(
            f"{source}: not a plain vision transformer with a class token: it has "
            f"{', '.join(differences[:3])}"
        )
    return model


def _differences(model: nn.Module) -> Iterator[str]:
    """Yield what distinguishes a model of timm from a plain vision transformer with a class token."""
    from timm.models import vision_transformer as timm_vit

    if type(model) is not timm_vit.VisionTransformer:
        yield f"the class {type(model).__name__}"
        return
    names = {_BLOCK.sub("blocks.N.", name) for name, _ in model.named_parameters()}
    names = {name for name in names if not name.startswith("head.")}
    yield from sorted(names - _NAMES)
    yield from (f"no {name}" for name in sorted(_NAMES - names))
    expected = {"": timm_vit.Block, ".attn": timm_vit.Attention, ".mlp": timm_vit.Mlp, ".mlp.act": nn.GELU}
    for number, block in enumerate(model.blocks):
        for part, kind in expected.items():
            module = block.get_submodule(part[1:])
            if type(module) is not kind:
                yield f"a {type(module).__name__} in blocks.{number}{part}"
    if any(getattr(module, "approximate", "none") != "none" for module in model.modules()):
        yield "an approximate GELU"
    if any(getattr(module, "eps", 0) > _MAX_EPS for module in model.modules()):
        yield f"a LayerNorm with an epsilon above {_MAX_EPS:g}"
    height, width = model.patch_embed.img_size
    if height != width or len(set(model.patch_embed.patch_size)) > 1:
        yield "images or patches that are not square"
