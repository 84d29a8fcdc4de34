"""What to do with a loss that is not finite or too large (SOLVER.ON_BAD_LOSS): stop, or skip the step."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vmae_det.engine.hooks import TrainingError
from vmae_det.engine.trainer import HookBase
from vmae_det.utils import distributed
from vmae_det.utils.sharded_tensors import full_tensor

logger = logging.getLogger(__name__)

BAD_BATCHES = "bad_batches.jsonl"


class _PendingLoss(NamedTuple):
    """The loss of a step that is being copied to the CPU.

    Args:
        copied: on a GPU, the event after which `value` can be read.
        paths: videos of the samples.
    """

    step: int
    value: torch.Tensor
    copied: torch.cuda.Event | None
    paths: list[str]

    def wait(self) -> _PendingLoss:
        """Wait until the value can be read."""
        if self.copied is not None:
            self.copied.synchronize()
        return self


class BadLossHandler(HookBase):
    """Check the loss of every step on all processes, and list bad batches in bad_batches.jsonl.

    With `skip=False` the loss on a GPU is checked one step later, so that no step waits for the GPU; `check`
    runs before a checkpoint is written. Register it before all hooks that use the weights.

    Args:
        skip: skip bad steps; else stop at the first.
        max_loss: a loss above it is bad.
        max_skipped: most steps to skip in a row.
        folder: of the run.
    """

    def __init__(self, skip: bool, max_loss: float, max_skipped: int, folder: str | Path) -> None:
        self.skip = skip
        self.max_loss = max_loss
        self.max_skipped = max_skipped
        self.file = Path(folder) / BAD_BATCHES
        self.skipped = 0
        self.in_row = 0
        self._pending: deque[_PendingLoss] = deque()
        self._ready: list[_PendingLoss] = []

    def may_update(self) -> bool:
        """With `skip=True`, return whether the step is good on all processes."""
        if not self.skip:
            return True
        step = self.trainer.step + 1
        loss = float(self.trainer.loss)
        norm = self.trainer.gradient_norm
        scaled = self.trainer.scaler.is_enabled()  # a loss scaler skips steps with such gradients itself
        if math.isfinite(loss) and norm is not None and not scaled and not math.isfinite(float(norm)):
            loss = math.nan
        values = self._gather_bad_losses(step, loss, self.trainer.paths)
        if not values:
            self.in_row = 0
            return True
        self.skipped += 1
        self.in_row += 1
        self.trainer.storage.put_latest("skipped_steps", float(self.skipped))
        problem = f"the loss or its gradient is {values[0]:g}"
        if self.in_row > self.max_skipped:
            raise TrainingError(
                f"{problem} at step {step}; this is bad step {self.in_row} in a row, and SOLVER.MAX_SKIPPED "
                f"allows {self.max_skipped}; {self._advice()}"
            )
        if distributed.is_main_process():
            logger.warning("step %d is skipped: %s; its samples are in %s", step, problem, self.file)
        return False

    def flag_event(self) -> bool:
        """With `skip=False`, return whether the loss of this step (on a GPU the last step) is bad."""
        if self.skip:
            return False
        loss, copied = self.trainer.loss, None
        on_gpu = loss.device.type == "cuda"
        if on_gpu:
            loss = loss.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._pending.append(_PendingLoss(self.trainer.step, loss, copied, self.trainer.paths))
        self._ready = [self._pending.popleft() for _ in range(len(self._pending) - int(on_gpu))]
        return any(self._is_bad(float(loss.wait().value)) for loss in self._ready)

    def handle_event(self) -> None:
        """Stop the run on all processes."""
        self._raise_if_bad(self._ready)

    def check(self) -> None:
        """Check all losses so far and the norm of the weights. This waits for the device.

        Raises:
            TrainingError: one of them is bad. It is raised on all processes.
        """
        self._raise_if_bad([loss.wait() for loss in self._pending])
        self._pending.clear()
        norm = float(full_tensor(torch.nn.utils.get_total_norm(list(self.trainer.model.parameters()))))
        if not math.isfinite(norm):  # all processes have the same weights
            raise TrainingError(
                f"the norm of the weights is {norm:g} after step {self.trainer.step}; {self._advice()}"
            )

    def _raise_if_bad(self, losses: Sequence[_PendingLoss]) -> None:
        for step, value, _, paths in losses:
            values = self._gather_bad_losses(step, float(value), paths)
            if values:
                raise TrainingError(
                    f"loss is {values[0]:g} at step {step}; its samples are in {self.file}; {self._advice()}"
                )

    def _is_bad(self, loss: float) -> bool:
        return not loss <= self.max_loss  # NaN is bad, too

    def _gather_bad_losses(self, step: int, loss: float, paths: list[str]) -> list[float]:
        """Return the bad losses of all processes, and list them with their samples in the file."""
        bad = self._is_bad(loss)
        if not distributed.any_process(bad):
            return []
        gathered = [pair for pair in distributed.all_gather_object((loss, paths) if bad else None) if pair]
        if distributed.is_main_process():
            samples = sorted({path for _, paths in gathered for path in paths})
            losses = [repr(value) for value, _ in gathered]  # JSON has no NaN
            self._append_to_file({"step": step, "losses": losses, "samples": samples})
        return [value for value, _ in gathered]

    def _append_to_file(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry)
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            logger.warning("%s cannot be written: %s; the entry was: %s", self.file, error.strerror, line)

    def _advice(self) -> str:
        skip = "" if self.skip else ", set SOLVER.ON_BAD_LOSS skip"
        return (
            "earlier checkpoints are kept. Lower SOLVER.BASE_LR, set SOLVER.CLIP_GRAD"
            f"{skip}, or use SOLVER.AMP bf16 instead of fp16"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the counts to save in a checkpoint."""
        return {"skipped": self.skipped, "in_row": self.in_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the counts from a checkpoint."""
        self.skipped, self.in_row = state["skipped"], state["in_row"]
