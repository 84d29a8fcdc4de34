"""What happens around the steps of training."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import torch
from fvcore.common.param_scheduler import ParamScheduler

from vmae_det.checkpoint import Checkpointer
from vmae_det.data.bad_samples import BadSampleTracker
from vmae_det.engine.trainer import HookBase
from vmae_det.utils import distributed
from vmae_det.utils.errors import UserError, WeightsError
from vmae_det.utils.events import Writer
from vmae_det.utils.resource_usage import peak_memory

logger = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds after a signal in which another one changes nothing


class TrainingError(UserError):
    """Training cannot go on in a way that makes sense."""


class Interrupted(Exception):
    """The run was asked to stop, and has saved what is done.

    Args:
        signal_number: what asked for it.
        state: what is done, and how to go on.
    """

    def __init__(self, signal_number: int, state: str) -> None:
        super().__init__(f"interrupted {state}")
        self.signal_number = signal_number


class LearningRate(HookBase):
    """Sets the learning rate of each step; groups may scale it by their `lr_scale`."""

    def __init__(self, schedule: ParamScheduler) -> None:
        self.schedule = schedule

    def before_step(self) -> None:
        """Set the rate for the step to come."""
        rate = self.schedule(self.trainer.step / self.trainer.total_steps)
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self.trainer.storage.put("lr", rate)


class Checkpointing(HookBase):
    """Saves the state of the run every `period` steps and after the last.

    Training goes on while a checkpoint is written; its end, however it comes, waits for that. An error of
    the writer ends the run in all processes.

    Args:
        state: gives what is saved.
        check: raises, in all processes, where the state is not worth saving.
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
        self._saved = 0

    def before_train(self) -> None:
        """What the run starts from needs no saving."""
        self._saved = self.trainer.step

    def data_failed(self) -> None:
        """Save the steps that are done."""
        if self.trainer.step > self._saved:
            self.save(wait=True)
            logger.info("the state after step %d is saved: go on with --resume", self.trainer.step)

    def alarm(self) -> bool:
        """Whether the writer has failed."""
        return self.checkpointer.failed

    def alarmed(self) -> None:
        """Raise its error."""
        self._together(self.checkpointer.check)

    def after_step(self) -> None:
        """Save where a period ends."""
        last = self.trainer.step == self.trainer.total_steps
        if last or self.trainer.step % self.period == 0:
            self.save(wait=last)

    def save(self, wait: bool = False) -> None:
        """Save now.

        Args:
            wait: for the checkpoint to be on disk.
        """
        self.check()
        self._together(lambda: self.checkpointer.save(self.state(), self.trainer.step))
        if wait:
            self._together(self.checkpointer.wait)
        self._saved = self.trainer.step

    def _together(self, action: Callable[[], Any]) -> None:
        """Do something in the processes that save; an error of one is raised in all."""
        failed = None
        if distributed.is_main_process() or self.checkpointer.sharded:
            try:
                action()
            except WeightsError as error:
                failed = error
        distributed.raise_together(failed)

    def close(self) -> None:
        """Wait for the writer; what ended the run is known by now."""
        try:
            self.checkpointer.wait()
        except WeightsError as error:
            logger.error("%s", error)


class StopOnSignal(HookBase):
    """On SIGINT or SIGTERM: finish the step, save, and leave. All processes leave after the same step."""

    def __init__(self, checkpointing: Checkpointing) -> None:
        self.checkpointing = checkpointing
        self.received = 0
        self._since = 0.0
        self._leave = 0  # the signal that all processes leave for
        self._handlers: dict[int, Any] = {}

    def before_train(self) -> None:
        """Listen."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        if not self.received:
            self.received = number
            self._since = time.monotonic()
        # One Ctrl-C reaches a process twice: from the terminal, and from the launcher. A later one is meant.
        elif time.monotonic() - self._since > PATIENCE:
            self.close()
            os.kill(os.getpid(), number)

    def alarm(self) -> bool:
        """Whether this process was asked to leave."""
        return bool(self.received)

    def alarmed(self) -> None:
        """Some process was; what other hooks do with the step comes first."""
        self._leave = max(distributed.all_gather_object(self.received))

    def after_step(self) -> None:
        """Save and leave if any process was asked to."""
        if self._leave:
            self.checkpointing.save(wait=True)
            done = f"after step {self.trainer.step}; the state is saved: go on with --resume"
            raise Interrupted(self._leave, done)

    def close(self) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


class BadVideos(HookBase):
    """Puts the number of videos and keyframes that were left out so far beside the losses, and says it at the
    end."""

    def __init__(self, bad_files: BadSampleTracker) -> None:
        self.bad_files = bad_files

    def after_step(self) -> None:
        """Put the number where there are any."""
        for kind in self.bad_files.totals:
            if count := self.bad_files.count(kind):
                self.trainer.storage.put_last(f"bad_{kind}s", float(count))

    def after_train(self) -> None:
        """Say the number where there are any."""
        for kind, total in self.bad_files.totals.items():
            if count := self.bad_files.count(kind):
                what = f"{count} of {total} {kind}s were left out, each named above with its reason"
                logger.info(what)


class Timing(HookBase):
    """Puts the seconds and the clips of a step.

    It belongs behind the hooks that are part of a step, one of which waits for the GPU, and in front of
    evaluation and saving, which do not count.
    """

    def before_step(self) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def after_step(self) -> None:
        """Stop the clock."""
        self.trainer.storage.put("step_seconds", time.perf_counter() - self._start)
        self.trainer.storage.put("clips", float(len(self.trainer.paths)))


class Evaluation(HookBase):
    """Calls `evaluate` every `period` steps, but not after the last; its metrics go to the log.

    Args:
        evaluate: gives the metrics after a step by name; all processes call it.
        period: steps; 0: never.
    """

    def __init__(self, evaluate: Callable[[int], dict[str, float]], period: int) -> None:
        self.evaluate = evaluate
        self.period = period

    def after_step(self) -> None:
        """Evaluate where a period ends."""
        step = self.trainer.step
        if self.period and step % self.period == 0 and step < self.trainer.total_steps:
            for name, value in self.evaluate(step).items():
                self.trainer.storage.put(name, value)
            self.trainer.model.train()


class Writing(HookBase):
    """Gives the numbers of the last `period` steps to writers, with those that follow from them.

    clips_per_second of all processes, data_share of the time that was spent on waiting for data, eta_seconds
    to the end of the run, and peak_memory_gb of the main process: on a GPU of tensors, else all of it.
    """

    def __init__(self, writers: Sequence[Writer], period: int) -> None:
        self.writers = writers
        self.period = period
        self._failed = False

    def after_step(self) -> None:
        """Write where a period ends."""
        step = self.trainer.step
        for writer in self.writers:
            writer.progress(step)
        if step % self.period == 0 or step == self.trainer.total_steps:
            values = self._add_derived(self.trainer.storage.take())
            distributed.raise_together(self._write(step, values))

    def _add_derived(self, values: dict[str, float]) -> dict[str, float]:
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
                f"OUTPUT_DIR: the numbers of step {step} cannot be written: {error.strerror or error}; "
                "the checkpoints from before it are kept"
            )
        return None

    def close(self) -> None:
        """Close the writers; what ended the run goes before what they still have to say."""
        for writer in self.writers:
            try:
                writer.close()
            except OSError as error:
                level = logging.DEBUG if self._failed else logging.ERROR  # it is said once
                logger.log(level, "the last numbers cannot be written: %s", error.strerror or error)
