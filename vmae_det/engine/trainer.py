"""The training loop. It knows no task: a model turns a batch into losses, all else is a hook."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.profiler import record_function

from vmae_det.engine.parallel import no_gradient_sync
from vmae_det.utils import distributed
from vmae_det.utils.errors import UserError
from vmae_det.utils.events import EventStorage
from vmae_det.utils.sharded_tensors import full_tensor
from vmae_det.utils.watchdog import heartbeat

AMP_TYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class HookBase:
    """Something that happens around the steps of a trainer. Hooks are called in the order they were given."""

    trainer: Trainer

    def before_train(self) -> None:
        """Before the first step."""

    def before_step(self) -> None:
        """Before each step; `trainer.step` steps are done."""

    def alarm(self) -> bool:
        """After each step, before `after_step`: whether something is up in this process that all must know.

        The processes tell one another of all hooks at once: a hook that asks them itself costs each step an
        exchange more.
        """
        return False

    def alarmed(self) -> None:
        """Called in all processes where `alarm` held in one of them."""

    def after_step(self) -> None:
        """After each step; `trainer.step` counts it."""

    def may_update(self) -> bool:
        """Before the weights are changed, with `trainer.loss` at hand; False leaves them as they are."""
        return True

    def data_failed(self) -> None:
        """No batch could be had for the next step; the error follows."""

    def after_train(self) -> None:
        """After the last step; not after an error or an interrupt."""

    def close(self) -> None:
        """The loop was left, in whatever way."""


class Trainer:
    """Runs optimizer steps on batches, with accumulation, clipping and mixed precision.

    Args:
        model: called with a batch, gives a dict of losses, which are added up.
        batches: endless, of one forward pass each; a UserError comes in all processes alike.
        accumulate: forward and backward passes per optimizer step; the losses are averaged over them.
        clip_grad: largest norm of the gradient; 0: no clipping.
        amp: "none", "bf16" or "fp16".
        seed: of what layers draw at random, with the rank and the step.
        measure_gradients: without clipping, too, know the norm of the gradient every so many steps and at
            the last; 0: never.

    Attributes:
        step: number of optimizer steps done.
        total_steps: of the whole run.
        storage: where numbers of a step are put.
        loss: of the latest step, a mean over its passes, on the device.
        gradient_norm: of the latest step, before clipping, on the device; None where it was not measured.
        paths: the videos of the latest step's samples in this process.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterator[dict[str, Any]],
        device: torch.device,
        *,
        accumulate: int = 1,
        clip_grad: float = 0.0,
        amp: str = "none",
        seed: int = 0,
        measure_gradients: int = 0,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.batches = batches
        self.device = device
        self.accumulate = accumulate
        self.clip_grad = clip_grad
        self.amp_type = AMP_TYPES[amp]
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        self.seed = seed
        self.measure_gradients = measure_gradients
        self.loss = torch.zeros((), device=device)
        self.gradient_norm: torch.Tensor | None = None
        self.paths: list[str] = []
        self.step = 0
        self.total_steps = 0
        self.storage = EventStorage()
        self.hooks: list[HookBase] = []

    def register_hooks(self, hooks: Sequence[HookBase]) -> None:
        """Add hooks; each gets to know the trainer as `hook.trainer`."""
        for hook in hooks:
            hook.trainer = self
            self.hooks.append(hook)

    def train(self, start: int, total: int) -> None:
        """Run steps `start` + 1 to `total`."""
        self.step, self.total_steps = start, total
        try:
            for hook in self.hooks:
                hook.before_train()
            self.model.train()
            while self.step < total:
                heartbeat()
                for hook in self.hooks:
                    hook.before_step()
                self.run_step()
                self.step += 1
                self._exchange_alarms()
                for hook in self.hooks:
                    hook.after_step()
            for hook in self.hooks:
                hook.after_train()
        finally:
            for hook in self.hooks:
                hook.close()

    def run_step(self) -> None:
        """One optimizer step."""
        waited = 0.0
        # What layers draw at random follows from the step, so that a resumed run draws what it would
        # have drawn.
        entropy = np.random.SeedSequence((self.seed, distributed.get_rank(), self.step))
        torch.manual_seed(int(entropy.generate_state(1)[0]))
        self.optimizer.zero_grad(set_to_none=True)
        self.loss, self.paths, terms = torch.zeros((), device=self.device), [], []
        for micro_step in range(self.accumulate):
            before = time.perf_counter()
            with record_function("data"):
                batch = to_device(self._next_batch(), self.device)
            self.paths += batch.pop("path", [])
            waited += time.perf_counter() - before
            # Accumulated gradients travel between processes once, with the last of them.
            with no_gradient_sync(self.model) if micro_step < self.accumulate - 1 else nullcontext():
                with (
                    record_function("forward"),
                    torch.autocast(self.device.type, self.amp_type, enabled=self.amp_type is not None),
                ):
                    losses = self.model(batch)
                loss = sum(losses.values()) / self.accumulate
                with record_function("backward"):
                    self.scaler.scale(loss).backward()
            self.loss = self.loss + loss.detach()
            terms.append(losses)
        with record_function("optimizer"):
            self._update(terms)
        self.storage.put("data_seconds", waited)

    def _update(self, terms: list[dict[str, torch.Tensor]]) -> None:
        """Change the weights, unless a hook is against it."""
        self._measure_gradients()
        if all(hook.may_update() for hook in self.hooks):
            self.scaler.step(self.optimizer)
            for name, value in (item for losses in terms for item in losses.items()):
                self.storage.put(name, value)
            if self.gradient_norm is not None:
                self.storage.put("gradient_norm", self.gradient_norm)
        self.scaler.update()

    def _measure_gradients(self) -> None:
        """Undo the loss scaling, and clip where that is wanted."""
        step, period = self.step + 1, self.measure_gradients
        self.gradient_norm = None
        if self.clip_grad or (period and (step % period == 0 or step == self.total_steps)):
            self.scaler.unscale_(self.optimizer)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            if self.clip_grad:
                norm = nn.utils.clip_grad_norm_(parameters, self.clip_grad)
            else:
                norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            self.gradient_norm = full_tensor(norm)

    def _exchange_alarms(self) -> None:
        alarms = distributed.each_in_any_process([hook.alarm() for hook in self.hooks])
        for hook, alarm in zip(self.hooks, alarms):
            if alarm:
                hook.alarmed()

    def _next_batch(self) -> dict[str, Any]:
        try:
            return next(self.batches)
        except UserError:
            for hook in self.hooks:
                hook.data_failed()
            raise


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors in a batch, and in its lists, on a device; all else as it is."""
    if torch.is_tensor(value):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list):
        return [to_device(item, device) for item in value]
    return value
