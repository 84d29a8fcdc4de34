"""The published weights as a table, for `vmae-det inspect --list` and docs/results/model_zoo.md."""

from __future__ import annotations

from functools import lru_cache

from vmae_det.config import CfgNode
from vmae_det.model_zoo import get_config
from vmae_det.model_zoo.costs import COSTS
from vmae_det.model_zoo.weights import WEIGHTS

# By the dimension of a token. 896, 1152 and 2048 are those of Hiera.
_SIZES = {384: "S", 768: "B", 896: "B+", 1024: "L", 1152: "L", 1280: "H", 1408: "g", 1664: "G", 2048: "H"}
HEADER = (
    *("name", "backbone", "M parameters", "GFLOPs", "people"),
    *("trained on", "license", "published result"),
)


def weights_table() -> list[tuple[str, ...]]:
    """Return a row of `HEADER` for each entry of `WEIGHTS`."""
    return [
        (
            name,
            _backbone(weights.config),
            *(f"{number:.1f}" for number in COSTS[weights.config]),
            people_of(get_config(weights.config)),
            weights.note,
            weights.license,
            weights.result or "-",
        )
        for name, weights in WEIGHTS.items()
    ]


def people_of(cfg: CfgNode) -> str:
    """Return whether a detector finds people itself; "-" for other models."""
    if cfg.MODEL.META_ARCHITECTURE != "ActionDetector":
        return "-"
    return "finds people itself" if cfg.MODEL.PERSON_HEAD.NAME else "needs person boxes"


@lru_cache
def _backbone(config: str) -> str:
    cfg = get_config(config)
    node = cfg.MODEL.BACKBONE
    size = _SIZES.get(node.EMBED_DIM, node.EMBED_DIM)
    family = "ViT" if node.NAME == "VideoViT" else node.NAME.removesuffix("ViT")
    return f"{family}-{size}/{node.PATCH_SIZE}, {cfg.INPUT.NUM_FRAMES} x {cfg.INPUT.CROP_SIZE}"
