"""A running average of the weights."""

from __future__ import annotations

from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn

from vmae_det.checkpoint import load_weights
from vmae_det.engine.trainer import HookBase


class WeightAverage(HookBase):
    """After each step: average = decay x average + (1 - decay) x weights; it starts at the model's weights.

    It belongs in front of the hooks that evaluate and save. All processes hold the same average, as they hold
    the same weights.

    Args:
        model: as it is trained, without a wrapper.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.source = model
        self.average = ModelEmaV3(model, decay=decay).requires_grad_(False)

    @property
    def model(self) -> nn.Module:
        """The model with averaged weights, in evaluation mode."""
        return self.average.module

    def after_step(self) -> None:
        """Take in the weights of this step."""
        self.average.update(self.source)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged weights."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from averaged weights; WeightsError where they are not the model's."""
        load_weights(self.model, state)
