"""What an optimizer keeps of each parameter, by the parameter's name."""

from __future__ import annotations

from typing import Any

import torch

from vmae_det.utils.sharded_tensors import copy_full_tensor, is_sharded


def tensors_by_name(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of each parameter's state; the optimizer's groups hold the names."""
    return {
        name: optimizer.state[parameter]
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"])
        if optimizer.state.get(parameter)
    }


def make_tensors(optimizer: torch.optim.Optimizer) -> None:
    """Have the tensors be there before the first step: by a step that changes no parameter."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate


def load_whole(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`optimizer.load_state_dict`, also where processes share the optimizer's tensors."""
    if not is_sharded(optimizer.param_groups[0]["params"][0]):
        optimizer.load_state_dict(state)
        return
    make_tensors(optimizer)
    saved = iter(value for group in state["param_groups"] for value in group["params"])
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in state["state"].get(next(saved), {}).items():
                copy_full_tensor(value, optimizer.state[parameter][key])
