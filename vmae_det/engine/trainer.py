"""The training loop, for any task: a model turns a batch into losses, and everything else is a hook."""

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
    """Base class of hooks, which a trainer calls around its steps in the order of registration."""

    trainer: Trainer

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for old, new in (("alarm", "flag_event"), ("alarmed", "handle_event")):
            if old in vars(cls):  # it would never be called
                raise TypeError(
                    f"{cls.__name__}.{old}: HookBase.{old} was renamed to {new} in vmae_det 0.2.0"
                )

    def before_train(self) -> None:
        """Called before the first step."""

    def before_step(self) -> None:
        """Called before each step. `trainer.step` is the number of steps done."""

    def may_update(self) -> bool:
        """Called before the optimizer step, when `trainer.loss` is known. Return False to skip the step."""
        return True

    def flag_event(self) -> bool:
        """Called after each step. Return True to have `handle_event` called on all processes.

        The flags of all hooks are exchanged between the processes together. A hook that communicates by
        itself adds another exchange to each step.
        """
        return False

    def handle_event(self) -> None:
        """Called on all processes if `flag_event` returned True on any of them, before `after_step`."""

    def after_step(self) -> None:
        """Called after each step. `trainer.step` includes it."""

    def data_failed(self) -> None:
        """Called when the next batch cannot be loaded, before the error is raised."""

    def after_train(self) -> None:
        """Called after the last step, but not after an error or an interrupt."""

    def close(self) -> None:
        """Called when the loop ends for any reason."""


class Trainer:
    """Run optimizer steps on batches, with gradient accumulation, clipping and mixed precision.

    Args:
        model: called with a batch; returns a dict of losses, which are summed. The sum is logged as `loss`.
        batches: infinite iterator of batches of one forward pass. It raises a UserError on
            all processes.
        accumulate: forward and backward passes per optimizer step. Losses are averaged over them.
        clip_grad: largest norm of the gradient; 0 does not clip.
        amp: "none", "bf16" or "fp16".
        seed: seeds random layers, together with rank and step.
        measure_gradients: without clipping, compute the norm of the gradient every this many steps and at the
            last step; 0 never does.

    Attributes:
        step: number of optimizer steps done.
        total_steps: number of optimizer steps of the entire run. A hook may lower it to `step` to end it.
        storage: metrics of the steps since the last write.
        loss: of the latest step, averaged over its passes, on the device.
        gradient_norm: of the latest step, before clipping, on the device; None if not measured.
        paths: videos of the samples of the latest step on this process.
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
        self.copy_batch = BatchCopier(device)
        self.loss = torch.zeros((), device=device)
        self.gradient_norm: torch.Tensor | None = None
        self.paths: list[str] = []
        self.step = 0
        self.total_steps = 0
        self.storage = EventStorage()
        self.hooks: list[HookBase] = []

    def register_hooks(self, hooks: Sequence[HookBase]) -> None:
        """Add hooks, and set their attribute `trainer`."""
        for hook in hooks:
            hook.trainer = self
            self.hooks.append(hook)

    def train(self, start: int, total: int) -> None:
        """Run the steps `start` + 1 to `total`."""
        self.step, self.total_steps = start, total
        try:
            for hook in self.hooks:
                hook.before_train()
            self.model.train()
            while self.step < self.total_steps:
                heartbeat()
                for hook in self.hooks:
                    hook.before_step()
                self.run_step()
                self.step += 1
                self._handle_events()
                for hook in self.hooks:
                    hook.after_step()
            for hook in self.hooks:
                hook.after_train()
        finally:
            for hook in self.hooks:
                hook.close()

    def run_step(self) -> None:
        """Run one optimizer step."""
        waited = 0.0
        # Seed random layers by the step, so that a resumed run draws the same numbers as an uninterrupted
        # one.
        entropy = np.random.SeedSequence((self.seed, distributed.get_rank(), self.step))
        torch.manual_seed(int(entropy.generate_state(1)[0]))
        self.optimizer.zero_grad(set_to_none=True)
        self.loss, self.paths, terms = torch.zeros((), device=self.device), [], []
        for micro_step in range(self.accumulate):
            before = time.perf_counter()
            with record_function("data"):
                batch = self.copy_batch(self._next_batch())
            self.paths += batch.pop("path", [])
            waited += time.perf_counter() - before
            # Synchronize accumulated gradients once, in the last backward pass.
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
        """Update the weights, unless a hook skips the step."""
        self._measure_gradients()
        if all(hook.may_update() for hook in self.hooks):
            self.scaler.step(self.optimizer)
            for losses in terms:
                for name, value in ({"loss": sum(losses.values())} | losses).items():
                    self.storage.put(name, value)
            if self.gradient_norm is not None:
                self.storage.put("gradient_norm", self.gradient_norm)
        self.scaler.update()

    def _measure_gradients(self) -> None:
        """Unscale and clip the gradients, and measure their norm."""
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

    def _handle_events(self) -> None:
        flags = distributed.each_in_any_process([hook.flag_event() for hook in self.hooks])
        for hook, flag in zip(self.hooks, flags):
            if flag:
                hook.handle_event()

    def _next_batch(self) -> dict[str, Any]:
        try:
            return next(self.batches)
        except UserError:
            for hook in self.hooks:
                hook.data_failed()
            raise


class BatchCopier:
    """Copies batches to a device. A GPU copies a batch while it still computes the previous step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch with its tensors on the device."""
        if self.stream is None:
            return to_device(batch, self.device)
        with torch.cuda.stream(self.stream):
            batch = to_device(batch, self.device)
        step_stream = torch.cuda.current_stream(self.device)
        step_stream.wait_stream(self.stream)
        for tensor in tensors_of(batch):
            tensor.record_stream(step_stream)  # else their memory is reused before the step has read them
        return batch


def to_device(value: Any, device: torch.device) -> Any:
    """Move the tensors in a batch and in its nested dicts and lists to a device. Other values are kept."""
    if torch.is_tensor(value):
        return value.to(device, non_blocking=device.type == "cuda")
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list):
        return [to_device(item, device) for item in value]
    return value


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in a batch and in its nested dicts and lists."""
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(item)
