"""How large what a config describes is at least, from its keys alone and without building anything.

Lower bounds, to refuse what cannot fit; `engine/inspection.py` measures what a model really takes.
"""

from __future__ import annotations

from vmae_det.config.cfg_node import CfgNode

FLOAT_BYTES = 4


def min_parameters(cfg: CfgNode) -> int:
    """Weights of the transformer blocks and the embedding; 0 for a backbone of the user's own."""
    node = cfg.MODEL.BACKBONE
    if node.NAME != "VideoViT":
        return 0
    embedding = 3 * node.TUBELET_SIZE * node.PATCH_SIZE**2 * node.EMBED_DIM
    total = embedding + node.DEPTH * _block_parameters(node.EMBED_DIM, node.MLP_RATIO)
    if cfg.MODEL.META_ARCHITECTURE == "MaskedAutoencoder":
        total += cfg.MODEL.DECODER.DEPTH * _block_parameters(cfg.MODEL.DECODER.EMBED_DIM, 4.0)
    return total


def _block_parameters(width: int, mlp_ratio: float) -> int:
    """Queries, keys, values, their projection, and the two layers of the MLP."""
    return 4 * width**2 + 2 * width * int(width * mlp_ratio)


def tokens_per_clip(cfg: CfgNode) -> int:
    """Tokens of a training clip."""
    node = cfg.MODEL.BACKBONE
    return cfg.INPUT.NUM_FRAMES // node.TUBELET_SIZE * (cfg.INPUT.CROP_SIZE // node.PATCH_SIZE) ** 2


def clips_per_pass(cfg: CfgNode, processes: int) -> int:
    """Clips of one forward pass of one process."""
    return cfg.SOLVER.BATCH_SIZE * cfg.DATALOADER.REPEATED_AUG // (cfg.SOLVER.ACCUMULATE * processes)


def min_training_bytes(cfg: CfgNode, processes: int) -> tuple[int, int]:
    """Bytes that each of so many processes needs at least: for the model with its gradients and the
    optimizer's numbers, and for one forward pass with what the backward pass needs of it."""
    solver, node = cfg.SOLVER, cfg.MODEL.BACKBONE
    numbers = 2 if solver.OPTIMIZER == "adamw" else int(solver.MOMENTUM > 0)
    model, kept = min_parameters(cfg) * (2 + numbers), 0
    if cfg.MODEL.META_ARCHITECTURE == "VideoClassifier" and cfg.MODEL.CLASSIFIER.LINEAR_PROBE:
        model = min_parameters(cfg)
    elif model:
        seen = 1 - cfg.MODEL.MASK.RATIO if cfg.MODEL.META_ARCHITECTURE == "MaskedAutoencoder" else 1
        # Of each block its input alone; or norms, queries, keys, values and the MLP's hidden layer.
        tensors = 1 if cfg.MODEL.ACTIVATION_CHECKPOINTING else 5 + node.MLP_RATIO
        kept = int(tokens_per_clip(cfg) * seen) * node.EMBED_DIM * node.DEPTH * tensors
        kept *= FLOAT_BYTES if solver.AMP == "none" else 2
    pixels = FLOAT_BYTES * 3 * cfg.INPUT.NUM_FRAMES * cfg.INPUT.CROP_SIZE**2
    share = processes if solver.PARALLEL == "fsdp" else 1
    return FLOAT_BYTES * model // share, int(clips_per_pass(cfg, processes) * (pixels + kept))
