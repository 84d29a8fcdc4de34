"""How large what a config describes is at least, from its keys alone and without building anything.

Lower bounds, to refuse what cannot fit; `engine/inspection.py` measures what a model really takes.
"""

from __future__ import annotations

from vmae_det.config.node import CfgNode

_FLOAT_BYTES = 4


def least_parameters(cfg: CfgNode) -> int:
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


def least_training_bytes(cfg: CfgNode, processes: int) -> tuple[int, int]:
    """What each of so many processes needs at least: for the model with its gradients and the optimizer's
    numbers, and for the clips of one forward pass with what the backward pass needs of them."""
    solver, probe = cfg.SOLVER, cfg.MODEL.META_ARCHITECTURE == "VideoClassifier" and (
        cfg.MODEL.CLASSIFIER.LINEAR_PROBE
    )
    numbers = 2 if solver.OPTIMIZER == "adamw" else int(solver.MOMENTUM > 0)
    model = least_parameters(cfg) * _FLOAT_BYTES * (1 if probe else 2 + numbers)
    pixels = 3 * cfg.INPUT.NUM_FRAMES * cfg.INPUT.CROP_SIZE**2 * _FLOAT_BYTES
    kept = 0 if probe or not least_parameters(cfg) else _kept_bytes(cfg)
    return model // (processes if solver.PARALLEL == "fsdp" else 1), clips_per_pass(cfg, processes) * (
        pixels + kept
    )


def _kept_bytes(cfg: CfgNode) -> int:
    """Activations of one clip in the blocks of the backbone that the backward pass needs."""
    node, tokens = cfg.MODEL.BACKBONE, tokens_per_clip(cfg)
    if cfg.MODEL.META_ARCHITECTURE == "MaskedAutoencoder":
        tokens = int(tokens * (1 - cfg.MODEL.MASK.RATIO))
    # Input and output of the norms, queries, keys, values, and the MLP's hidden layer.
    tensors = 1 if cfg.MODEL.ACTIVATION_CHECKPOINTING else 5 + node.MLP_RATIO
    return int(tokens * node.EMBED_DIM * node.DEPTH * tensors * (_FLOAT_BYTES if cfg.SOLVER.AMP == "none" else 2))
