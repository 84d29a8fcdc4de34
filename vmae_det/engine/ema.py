"""A running average of the weights."""

from __future__ import annotations

import torch
from torch import nn

from vmae_det.engine.trainer import HookBase
from vmae_det.utils.errors import WeightsError
from vmae_det.utils.sharded_tensors import copy_full_tensor, local_shard


class ModelEMA(HookBase):
    """After each step: average = decay x average + (1 - decay) x weights; it starts at the model's weights.

    It belongs in front of the hooks that evaluate and save. Each process averages what it holds of the model.

    Args:
        model: as it is trained, without a wrapper.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.source = model
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Take in the weights of this step."""
        values = [local_shard(value) for value in self.values.values()]
        latest = [local_shard(value) for value in self.source.state_dict().values()]
        torch._foreach_lerp_(values, latest, 1 - self.decay)

    @torch.no_grad()
    def restart(self) -> None:
        """Start anew, at the model's weights."""
        for value, latest in zip(self.values.values(), self.source.state_dict().values()):
            value.copy_(latest)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged weights."""
        return self.values

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from averaged weights; WeightsError where they are not the model's."""
        for name, value in self.values.items():
            if name not in state or state[name].shape != value.shape:
                found = list(state[name].shape) if name in state else "none"
                raise WeightsError(f"averaged weights: {name}: expected {list(value.shape)}, got {found}")
            copy_full_tensor(state[name], value)
