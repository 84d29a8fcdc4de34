"""What the published formats cannot express of a model: to write it all the same would give another one."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vmae_det.checkpoint.published import POSITIONS
from vmae_det.config import CfgNode
from vmae_det.modeling.position_embedding import flat_positions
from vmae_det.utils.errors import WeightsError

BACKBONE = "VideoViT"  # the one that published formats hold
# Heads by width, of the networks that the authors' code builds by name (VideoMAE and VideoMAE V2, their
# modeling_pretrain.py and modeling_finetune.py). A file says nothing of them.
HEADS_OF_WIDTH = {
    "backbone": {384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16},
    "decoder": {192: 3, 384: 6, 512: 8, 640: 8},
}
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def check_expressible(family: str, weights: dict[str, torch.Tensor], cfg: CfgNode | None) -> None:
    """WeightsError, with all reasons, for a model that files of a `family` of formats cannot hold.

    Args:
        weights: under our names.
        cfg: of the model; None where it is not known, which leaves what the weights show.
    """
    reasons = list(_of_weights(family, weights))
    if cfg is not None:
        reasons += _of_config(family, cfg)
    if reasons:
        raise WeightsError(f"{family} format cannot express this model: {'; '.join(reasons)}")


def is_flat(table: torch.Tensor) -> bool:
    """Whether a position table (N, C) is the one that the published models compute."""
    return table.ndim == 2 and torch.allclose(
        table.float(), flat_positions((len(table), 1, 1), table.shape[1]), atol=1e-5
    )


def _of_weights(family: str, weights: dict[str, torch.Tensor]) -> Iterator[str]:
    if "decoder.head.weight" in weights and "backbone.norm.weight" not in weights:
        yield "it has no norm behind its encoder (use_mean_pooling true), as an autoencoder must have"
    if family == "huggingface" and POSITIONS in weights and not is_flat(weights[POSITIONS]):
        yield f"{POSITIONS} was learned, and Transformers computes its positions"


def _of_config(family: str, cfg: CfgNode) -> Iterator[str]:
    if family == "vmae_det":
        return
    model, backbone = cfg.MODEL, cfg.MODEL.BACKBONE
    if backbone.NAME != BACKBONE:
        yield f"MODEL.BACKBONE.NAME is {backbone.NAME}, expected {BACKBONE}"
    if backbone.POSITIONS != "flat" and family != "mmaction2":  # whose files hold the table
        yield f"MODEL.BACKBONE.POSITIONS is {backbone.POSITIONS}, and its models compute flat ones"
    if family == "videomae":
        yield from _other_heads("BACKBONE", backbone)
    if model.META_ARCHITECTURE == "MaskedAutoencoder":
        yield from _of_pretraining(family, cfg)
    if model.META_ARCHITECTURE == "ActionDetector" and family == "videomae":
        yield from _of_detector(cfg)


def _of_pretraining(family: str, cfg: CfgNode) -> Iterator[str]:
    if family == "mmaction2":  # takes the encoder alone
        return
    target, decoder = cfg.MODEL.RECONSTRUCTION, cfg.MODEL.DECODER
    for key, own in (("NUM_FRAMES", cfg.INPUT.NUM_FRAMES), ("SAMPLING_RATE", cfg.INPUT.SAMPLING_RATE)):
        if target[key] not in (0, own):
            yield (
                f"MODEL.RECONSTRUCTION.{key} is {target[key]}, and its models predict the clip's own frames "
                f"(0 or {own})"
            )
    if family == "videomae":
        yield from _other_heads("DECODER", decoder)
        return
    if decoder.MASK != "none":
        yield f"MODEL.DECODER.MASK is {decoder.MASK}, and Transformers predicts all masked tokens"
    statistics = tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD)
    if not target.NORMALIZE and statistics != _IMAGENET:
        yield (
            "MODEL.PIXEL_MEAN and PIXEL_STD are not ImageNet's, by which Transformers makes the targets that "
            "MODEL.RECONSTRUCTION.NORMALIZE False predicts"
        )


def _of_detector(cfg: CfgNode) -> Iterator[str]:
    head = cfg.MODEL.ROI_HEAD
    published = {"NAME": "MaxPoolRoIHead", "RESOLUTION": 7, "SAMPLING_RATIO": 0, "ALIGNED": False}
    for key, value in published.items():
        if head[key] != value:
            yield f"MODEL.ROI_HEAD.{key} is {head[key]}, and the published detector's is {value}"


def _other_heads(group: str, node: CfgNode) -> Iterator[str]:
    heads = HEADS_OF_WIDTH[group.lower()].get(node.EMBED_DIM)
    if heads is not None and heads != node.NUM_HEADS:
        yield (
            f"MODEL.{group}.NUM_HEADS is {node.NUM_HEADS}, and its models of width {node.EMBED_DIM} have "
            f"{heads}"
        )
