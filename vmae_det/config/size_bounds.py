"""Lower bounds for the size of a model and its training, computed from the config without building anything.

They serve to refuse what cannot fit. `engine/inspection.py` computes the actual sizes.
"""

from __future__ import annotations

from vmae_det.config.cfg_node import CfgNode

FLOAT_BYTES = 4
MAX_TOKENS = 1 << 18  # of a clip of 64 frames of 1440 x 1440 pixels, 167 times as many as in the paper
_VIT_BACKBONES = ("VideoViT", "VJepa2ViT", "VJepa21ViT")


def min_parameters(cfg: CfgNode) -> int:
    """Return the number of weights of the blocks and the embedding; 0 for another backbone."""
    node = cfg.MODEL.BACKBONE
    if node.NAME not in _VIT_BACKBONES:
        return 0
    total = _vit_parameters(cfg)
    if cfg.MODEL.META_ARCHITECTURE == "MaskedAutoencoder":
        total += cfg.MODEL.DECODER.DEPTH * _block_parameters(cfg.MODEL.DECODER.EMBED_DIM, 4.0)
    if cfg.MODEL.META_ARCHITECTURE == "MoCoV3":
        momentum, moco = _momentum_parameters(cfg), cfg.MODEL.MOCO
        total = 2 * momentum + 2 * moco.HIDDEN_DIM * moco.OUT_DIM  # with the predictor
    return total


def _momentum_parameters(cfg: CfgNode) -> int:
    """Return the number of weights of the momentum encoder, which are not trained; 0 without one."""
    if cfg.MODEL.META_ARCHITECTURE != "MoCoV3":
        return 0
    moco = cfg.MODEL.MOCO
    layers = (cfg.MODEL.BACKBONE.EMBED_DIM + moco.HIDDEN_DIM + moco.OUT_DIM) * moco.HIDDEN_DIM
    return _vit_parameters(cfg) + layers


def _vit_parameters(cfg: CfgNode) -> int:
    node = cfg.MODEL.BACKBONE
    embedding = 3 * node.TUBELET_SIZE * node.PATCH_SIZE**2 * node.EMBED_DIM
    return embedding + node.DEPTH * _block_parameters(node.EMBED_DIM, node.MLP_RATIO)


def _backbone_is_frozen(cfg: CfgNode) -> bool:
    return {
        "VideoClassifier": cfg.MODEL.CLASSIFIER.LINEAR_PROBE,
        "ActionDetector": cfg.MODEL.PERSON_HEAD.TRAIN_ALONE,
    }.get(cfg.MODEL.META_ARCHITECTURE, False)


def _block_parameters(width: int, mlp_ratio: float) -> int:
    """Weights of queries, keys, values and projection, and of the two layers of the MLP."""
    return 4 * width**2 + 2 * width * int(width * mlp_ratio)


def tokens_per_clip(cfg: CfgNode) -> int:
    """Return the number of tokens of a training clip."""
    node = cfg.MODEL.BACKBONE
    return cfg.INPUT.NUM_FRAMES // node.TUBELET_SIZE * (cfg.INPUT.CROP_SIZE // node.PATCH_SIZE) ** 2


def clips_per_pass(cfg: CfgNode, processes: int) -> int:
    """Return the number of clips in a forward pass of one process."""
    return cfg.SOLVER.BATCH_SIZE * cfg.DATALOADER.REPEATED_AUG // (cfg.SOLVER.ACCUMULATE * processes)


def min_training_bytes(cfg: CfgNode, processes: int) -> tuple[int, int]:
    """Return the fewest bytes that each of `processes` processes needs.

    The first number is for weights, gradients and optimizer state, the second for the clips of a forward pass
    and the activations kept for the backward pass.
    """
    solver, node = cfg.SOLVER, cfg.MODEL.BACKBONE
    states = 2 if solver.OPTIMIZER == "adamw" else int(solver.MOMENTUM > 0)
    model, kept = min_parameters(cfg) * (2 + states), 0
    if _backbone_is_frozen(cfg):
        model = min_parameters(cfg)
    elif model:
        model -= _momentum_parameters(cfg) * (1 + states)
        visible = 1 - cfg.MODEL.MASK.RATIO if cfg.MODEL.META_ARCHITECTURE == "MaskedAutoencoder" else 1
        # Every block has at least the tokens that are left at the end; three blocks drop some by default.
        visible *= node.TOKEN_KEEP_RATE ** (len(node.TOKEN_DROP_BLOCKS) or 3)
        # Per block: only its input; or norms, queries, keys, values and the hidden layer of the MLP.
        tensors = 1 if cfg.MODEL.ACTIVATION_CHECKPOINTING else 5 + node.MLP_RATIO
        kept = int(tokens_per_clip(cfg) * visible) * node.EMBED_DIM * node.DEPTH * tensors
        kept *= FLOAT_BYTES if solver.AMP == "none" else 2
    pixels = FLOAT_BYTES * 3 * cfg.INPUT.NUM_FRAMES * cfg.INPUT.CROP_SIZE**2
    share = processes if solver.PARALLEL == "fsdp" else 1
    views = 2 if cfg.MODEL.META_ARCHITECTURE == "MoCoV3" else 1
    return FLOAT_BYTES * model // share, int(clips_per_pass(cfg, processes) * views * (pixels + kept))
