"""A training step that is timed by part; shared by the benchmarks `train` and `scaling`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from vmae_det.engine.trainer import AMP_TYPES

STEP_PARTS = ("forward", "backward", "optimizer")
WARM_UP_STEPS = 6  # afterwards, a step needs no new memory from the system


class TimedTrainingStep:
    """A model and its optimizer.

    Args:
        amp: "none", "bf16" or "fp16".
        scale_loss: scale the loss in fp16, as the trainer does.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        amp: str,
        scale_loss: bool,
    ) -> None:
        self.model, self.optimizer, self.device = model, optimizer, device
        self.amp_type = AMP_TYPES[amp]
        self.scaler = torch.amp.GradScaler(device.type, enabled=scale_loss and amp == "fp16")

    def run(self, inputs: dict[str, Any]) -> dict[str, float]:
        """Take a step with the model's keyword arguments, and return the seconds of each of STEP_PARTS."""
        outputs: dict[str, torch.Tensor] = {}

        def forward() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, self.amp_type) if self.amp_type else nullcontext():
                outputs.update(self.model(**inputs))

        def backward() -> None:
            self.scaler.scale(outputs["loss"]).backward()

        def update() -> None:
            self.scaler.step(self.optimizer)
            self.scaler.update()

        return {
            part: seconds_of(function, self.device)
            for part, function in zip(STEP_PARTS, (forward, backward, update))
        }


def seconds_of(function: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds that a call takes, until the device has finished its work."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
