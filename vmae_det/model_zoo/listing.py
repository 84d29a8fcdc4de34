"""The published weights as a table, for `vmae-det inspect --list` and docs/results/model_zoo.md."""

from __future__ import annotations

from vmae_det.config import CfgNode
from vmae_det.model_zoo import get_config
from vmae_det.model_zoo.costs import COSTS
from vmae_det.model_zoo.weights import WEIGHTS

_SIZES = {384: "S", 768: "B", 1024: "L", 1280: "H", 1408: "g", 1664: "G"}  # by the dimension of a token
HEADER = ("name", "backbone", "M parameters", "GFLOPs", "trained on", "license", "published result")


def weights_table() -> list[tuple[str, ...]]:
    """Return a row of `HEADER` for each entry of `WEIGHTS`."""
    backbones = {config: _backbone(get_config(config)) for config in COSTS}
    return [
        (
            name,
            backbones[weights.config],
            *(f"{number:.1f}" for number in COSTS[weights.config]),
            weights.note,
            weights.license,
            weights.result or "-",
        )
        for name, weights in WEIGHTS.items()
    ]


def _backbone(cfg: CfgNode) -> str:
    node = cfg.MODEL.BACKBONE
    size = _SIZES.get(node.EMBED_DIM, node.EMBED_DIM)
    family = "ViT" if node.NAME == "VideoViT" else node.NAME.removesuffix("ViT")
    return f"{family}-{size}/{node.PATCH_SIZE}, {cfg.INPUT.NUM_FRAMES} x {cfg.INPUT.CROP_SIZE}"
