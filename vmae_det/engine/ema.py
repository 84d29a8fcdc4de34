"""Exponential moving average (EMA) of the weights."""

from __future__ import annotations

import torch
from torch import nn

from vmae_det.engine.trainer import HookBase
from vmae_det.utils.errors import WeightsError
from vmae_det.utils.sharded_tensors import copy_full_tensor, local_shard


class ModelEMA(HookBase):
    """After each step, update ema = decay * ema + (1 - decay) * weights. It starts at the model's weights.

    Register it before the hooks that evaluate and save. Each process updates its local shards.

    Args:
        model: the model that is trained, without a wrapper.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the average."""
        ema = [local_shard(value) for value in self.weights.values()]
        latest = [local_shard(value) for value in self.model.state_dict().values()]
        torch._foreach_lerp_(ema, latest, 1 - self.decay)

    @torch.no_grad()
    def reset(self) -> None:
        """Restart the average at the model's weights."""
        for value, latest in zip(self.weights.values(), self.model.state_dict().values()):
            value.copy_(latest)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the averaged weights."""
        return self.weights

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load averaged weights.

        Raises:
            WeightsError: a weight is missing or has another shape.
        """
        for name, value in self.weights.items():
            if name not in state or state[name].shape != value.shape:
                got = list(state[name].shape) if name in state else "none"
                raise WeightsError(f"EMA weights: {name}: expected {list(value.shape)}, got {got}")
            copy_full_tensor(state[name], value)
