"""The optimizer and its parameter groups: weight decay where it belongs, layer-wise learning rates."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vmae_det.config import CfgNode


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float, head_factor: float = 1.0
) -> list[dict[str, Any]]:
    """Groups of trainable parameters with `weight_decay` and `lr_scale`, the factor on the learning rate.

    Biases, norms and single tokens do not decay. Layer-wise decay as in BEiT (Bao et al., 2022): what follows
    the last block learns at 1, the last block at `layer_decay`, the embedding at layer_decay ** (depth + 1).
    What lies outside of the backbone learns at `head_factor`.
    """
    top = model.backbone.num_layers()
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inside, _, rest = name.partition(".")
        layer = model.backbone.layer_of(rest) if inside == "backbone" else None
        scale = head_factor if layer is None else layer_decay ** (top - layer)
        decays = sum(side > 1 for side in parameter.shape) > 1
        group = groups.setdefault(
            (scale, decays),
            {
                "params": [],
                "names": [],
                "weight_decay": weight_decay if decays else 0.0,
                "lr_scale": scale,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that SOLVER describes; the schedule sets its learning rates before each step."""
    solver = cfg.SOLVER
    groups = parameter_groups(model, solver.WEIGHT_DECAY, solver.LAYER_DECAY, solver.HEAD_LR_FACTOR)
    if solver.OPTIMIZER == "sgd":
        return torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, fused=True)
    return torch.optim.AdamW(groups, lr=solver.BASE_LR, betas=solver.BETAS, fused=True)
