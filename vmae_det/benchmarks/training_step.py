"""A training step that is timed by part; shared by the benchmarks `train` and `scaling`."""

from __future__ import annotations

import time
import warnings
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

    def forward(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Return the loss for the model's keyword arguments."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.amp_type) if self.amp_type else nullcontext():
            return self.model(**inputs)["loss"]

    def backward(self, loss: torch.Tensor) -> None:
        """Compute the gradients."""
        self.scaler.scale(loss).backward()

    def update(self) -> None:
        """Update the weights."""
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def run(self, inputs: dict[str, Any]) -> None:
        """Take a step without waiting for the device."""
        self.backward(self.forward(inputs))
        self.update()

    def time_parts(self, inputs: dict[str, Any]) -> dict[str, float]:
        """Take a step, wait for the device after each part, and return the seconds of STEP_PARTS."""
        losses: list[torch.Tensor] = []
        calls = (
            lambda: losses.append(self.forward(inputs)),
            lambda: self.backward(losses[0]),
            self.update,
        )
        return {part: seconds_of(call, self.device) for part, call in zip(STEP_PARTS, calls)}


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def seconds_of(function: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds that a call takes, until the device has finished its work."""
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def count_host_waits(function: Callable[[], Any]) -> int:
    """Return how often a call makes the host wait for the GPU, by torch.cuda.set_sync_debug_mode."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)
