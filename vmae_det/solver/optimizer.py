"""The optimizer and its parameter groups: weight decay and layer-wise learning rate decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vmae_det.config import CfgNode


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float, head_factor: float = 1.0
) -> list[dict[str, Any]]:
    """Return groups of trainable parameters with `weight_decay` and `lr_scale`, a factor on the learning
    rate.

    Biases, norms, single tokens and `no_weight_decay` of the backbone have no weight decay. Layer-wise decay
    is that of BEiT (Bao et al., 2022): the factor is 1 after the last block, `layer_decay` for the last
    block, and layer_decay ** (depth + 1) for the embedding. Parameters outside of the backbone have the
    factor `head_factor`, which is for heads of one or two linear layers. The deeper person head has 1.
    """
    top_layer = model.backbone.num_layers()
    without_decay = {f"backbone.{name}" for name in getattr(model.backbone, "no_weight_decay", ())}
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        module, _, rest = name.partition(".")
        layer = model.backbone.layer_of(rest) if module == "backbone" else None
        outside = 1.0 if module == "person_head" else head_factor
        scale = outside if layer is None else layer_decay ** (top_layer - layer)
        decays = sum(size > 1 for size in parameter.shape) > 1 and name not in without_decay
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
    """Build the optimizer that SOLVER describes. The schedule sets its learning rates before each step."""
    solver = cfg.SOLVER
    groups = parameter_groups(model, solver.WEIGHT_DECAY, solver.LAYER_DECAY, solver.HEAD_LR_FACTOR)
    fused = cfg.MODEL.DEVICE != "mps"  # not all versions of torch have fused optimizers for it
    if solver.OPTIMIZER == "sgd":
        return torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, fused=fused)
    return torch.optim.AdamW(groups, lr=solver.BASE_LR, betas=solver.BETAS, fused=fused)
