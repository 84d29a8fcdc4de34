"""Hooks of a training run: learning rate, checkpoints, evaluation, writing of metrics, signals."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from vmae_det.engine.trainer import HookBase
from vmae_det.utils import distributed
from vmae_det.utils.errors import UserError, WeightsError
from vmae_det.utils.events import Writer
from vmae_det.utils.resource_usage import peak_memory

if TYPE_CHECKING:
    from fvcore.common.param_scheduler import ParamScheduler

    from vmae_det.checkpoint import Checkpointer
    from vmae_det.data.bad_samples import BadSampleTracker

logger = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds after a signal in which further signals are ignored


class TrainingError(UserError):
    """Training cannot continue."""


class Interrupted(Exception):
    """The run was stopped by a signal and has saved its state.

    Args:
        signal_number: the signal.
        state: what is done, and how to resume.
    """

    def __init__(self, signal_number: int, state: str) -> None:
        super().__init__(f"interrupted {state}")
        self.signal_number = signal_number


class LRScheduler(HookBase):
    """Set the learning rate of each step. Parameter groups scale it by their `lr_scale`."""

    def __init__(self, schedule: ParamScheduler) -> None:
        self.schedule = schedule

    def before_step(self) -> None:
        """Set the learning rate of the next step."""
        rate = self.schedule(self.trainer.step / self.trainer.total_steps)
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self.trainer.storage.put("lr", rate)


class ModelSchedule(HookBase):
    """Call `before_step(progress)` of a model before each optimizer step, once for all of its passes.

    `progress` is the fraction of the steps of the run that are done, in [0, 1). It is the same in a resumed
    run.

    Args:
        model: without the wrapper for several processes.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def before_step(self) -> None:
        """Call the model."""
        self.model.before_step(self.trainer.step / self.trainer.total_steps)


class PeriodicCheckpointer(HookBase):
    """Save the state of the run every `period` steps and after the last.

    Checkpoints are written in the background. The run waits for the writer before it ends. An error of the
    writer ends the run on all processes.

    Args:
        state: returns the state to save.
        check: raises an error, on all processes, if the state must not be saved.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        state: Callable[[], dict[str, Any]],
        period: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.checkpointer = checkpointer
        self.state = state
        self.period = period
        self.check = check
        self._saved_step = 0

    def before_train(self) -> None:
        """Record the first step, whose state is already saved."""
        self._saved_step = self.trainer.step

    def data_failed(self) -> None:
        """Save the steps that are done."""
        if self.trainer.step > self._saved_step:
            self.save(wait=True)
            logger.info("saved the state after step %d; continue with --resume", self.trainer.step)

    def flag_event(self) -> bool:
        """Return whether the writer has failed."""
        return self.checkpointer.failed

    def handle_event(self) -> None:
        """Raise the error of the writer."""
        self._run_on_saving_processes(self.checkpointer.check)

    def after_step(self) -> None:
        """Save at the end of a period."""
        last = self.trainer.step == self.trainer.total_steps
        if last or self.trainer.step % self.period == 0:
            self.save(wait=last)

    def save(self, wait: bool = False) -> None:
        """Save now.

        Args:
            wait: wait until the checkpoint is on disk.
        """
        self.check()
        self._run_on_saving_processes(lambda: self.checkpointer.save(self.state(), self.trainer.step))
        if wait:
            self._run_on_saving_processes(self.checkpointer.wait)
        self._saved_step = self.trainer.step

    def _run_on_saving_processes(self, action: Callable[[], Any]) -> None:
        """Run `action` on the processes that save, and raise an error of one on all."""
        error = None
        if distributed.is_main_process() or self.checkpointer.sharded:
            try:
                action()
            except WeightsError as problem:
                error = problem
        distributed.raise_together(error)

    def close(self) -> None:
        """Wait for the writer. Its error is only logged, because another error may have ended the run."""
        try:
            self.checkpointer.wait()
        except WeightsError as error:
            logger.error("%s", error)


class StopOnSignal(HookBase):
    """On SIGINT or SIGTERM, finish the step, save, and stop. All processes stop after the same step."""

    def __init__(self, checkpointing: PeriodicCheckpointer) -> None:
        self.checkpointing = checkpointing
        self.received = 0  # signal that this process received
        self._received_at = 0.0
        self._stop_for = 0  # signal that all processes stop for
        self._previous_handlers: dict[int, Any] = {}

    def before_train(self) -> None:
        """Install the signal handlers."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous_handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if not self.received:
            self.received = number
            self._received_at = time.monotonic()
        # One Ctrl-C reaches a process twice: from the terminal and from the launcher. A later one is a second
        # Ctrl-C, which ends the process immediately.
        elif time.monotonic() - self._received_at > PATIENCE:
            self.close()
            os.kill(os.getpid(), number)

    def flag_event(self) -> bool:
        """Return whether this process received a signal."""
        return bool(self.received)

    def handle_event(self) -> None:
        """Agree on the signal. The run stops in `after_step`, after the other hooks have used the step."""
        self._stop_for = max(distributed.all_gather_object(self.received))

    def after_step(self) -> None:
        """Save and stop if any process received a signal."""
        if self._stop_for:
            self.checkpointing.save(wait=True)
            done = f"after step {self.trainer.step}; the state is saved: continue with --resume"
            raise Interrupted(self._stop_for, done)

    def close(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()


class BadSampleCounter(HookBase):
    """Record how many videos and keyframes were skipped because they cannot be read."""

    def __init__(self, bad_samples: BadSampleTracker) -> None:
        self.bad_samples = bad_samples

    def after_step(self) -> None:
        """Record the numbers that are not zero."""
        for kind in self.bad_samples.totals:
            if count := self.bad_samples.count(kind):
                self.trainer.storage.put_latest(f"bad_{kind}s", float(count))

    def after_train(self) -> None:
        """Log the numbers that are not zero."""
        for kind, total in self.bad_samples.totals.items():
            if count := self.bad_samples.count(kind):
                logger.info("skipped %d of %d %ss; each is named above with its reason", count, total, kind)


class StepTimer(HookBase):
    """Record the seconds and the clips of each step.

    Register it after the hooks that are part of a step, one of which waits for the GPU, and before evaluation
    and checkpointing, whose time is not counted.
    """

    def before_step(self) -> None:
        """Start the timer."""
        self._start = time.perf_counter()

    def after_step(self) -> None:
        """Stop the timer."""
        self.trainer.storage.put("step_seconds", time.perf_counter() - self._start)
        self.trainer.storage.put("clips", float(len(self.trainer.paths)))


class EvalHook(HookBase):
    """Call `evaluate` every `period` steps, but not after the last, and record its metrics.

    Args:
        evaluate: returns the metrics after a step. All processes call it.
        period: in steps; 0 never evaluates.
    """

    def __init__(self, evaluate: Callable[[int], dict[str, float]], period: int) -> None:
        self.evaluate = evaluate
        self.period = period

    def after_step(self) -> None:
        """Evaluate at the end of a period."""
        step = self.trainer.step
        if self.period and step % self.period == 0 and step < self.trainer.total_steps:
            for name, value in self.evaluate(step).items():
                self.trainer.storage.put(name, value)
            self.trainer.model.train()


class EarlyStop(HookBase):
    """End training when the best evaluation is `patience` evaluations old.

    Register it after `EvalHook` and before the hooks that act on the last step. It has no state: the number
    of evaluations follows from the step of the best one, which model_best.pt stores, so that a resumed run
    continues to count.

    Args:
        best_step: returns the step of the best evaluation, on the main process; 0 if there is none.
        patience: evaluations without improvement.
        period: steps between evaluations.
    """

    def __init__(self, best_step: Callable[[], int], patience: int, period: int) -> None:
        self.best_step = best_step
        self.patience = patience
        self.period = period

    def before_train(self) -> None:
        """Run no step if a resumed run has ended already."""
        if distributed.all_gather_object(self.best_step())[0]:
            self._stop_if_due()

    def after_step(self) -> None:
        """Stop after an evaluation."""
        if self.trainer.step % self.period == 0 and self.trainer.step < self.trainer.total_steps:
            self._stop_if_due()

    def _stop_if_due(self) -> None:
        best, step = distributed.all_gather_object(self.best_step())[0], self.trainer.step
        if (step - best) // self.period >= self.patience:
            logger.info(
                "early stop after step %d of %d: no better evaluation since step %d (TEST.PATIENCE %d)",
                step,
                self.trainer.total_steps,
                best,
                self.patience,
            )
            self.trainer.total_steps = step


class PeriodicWriter(HookBase):
    """Write the metrics of the last `period` steps, and values derived from them.

    The derived values are clips_per_second over all processes; data_share, the fraction of the time spent
    waiting for data; eta_seconds to the end of the run; and peak_memory_gb of the main process (on a GPU the
    memory of tensors, else resident memory).
    """

    def __init__(self, writers: Sequence[Writer], period: int) -> None:
        self.writers = writers
        self.period = period
        self._failed = False

    def after_step(self) -> None:
        """Write at the end of a period."""
        step = self.trainer.step
        for writer in self.writers:
            writer.progress(step)
        if step % self.period == 0 or step == self.trainer.total_steps:
            values = self._add_derived_values(self.trainer.storage.take())
            distributed.raise_together(self._write(step, values))

    def _add_derived_values(self, values: dict[str, float]) -> dict[str, float]:
        device = self.trainer.device
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
        seconds, clips = values["step_seconds"], values.pop("clips") * distributed.get_world_size()
        return values | {
            "clips_per_second": clips / seconds,
            "data_share": values["data_seconds"] / seconds,
            "eta_seconds": seconds * (self.trainer.total_steps - self.trainer.step),
            "peak_memory_gb": peak / 1e9,
        }

    def _write(self, step: int, values: dict[str, float]) -> TrainingError | None:
        try:
            for writer in self.writers:
                writer.write(step, values)
        except OSError as error:
            self._failed = True
            return TrainingError(
                f"OUTPUT_DIR: the metrics of step {step} cannot be written: {error.strerror or error}; "
                "earlier checkpoints are kept"
            )
        return None

    def close(self) -> None:
        """Close the writers. Errors are only logged, because another error may have ended the run."""
        for writer in self.writers:
            try:
                writer.close()
            except OSError as error:
                level = logging.DEBUG if self._failed else logging.ERROR  # report a full disk only once
                logger.log(level, "the last metrics cannot be written: %s", error.strerror or error)
