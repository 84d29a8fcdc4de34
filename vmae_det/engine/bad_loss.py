"""What becomes of a run whose loss is not finite or explodes: it stops, or skips the step."""

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


class _Loss(NamedTuple):
    """The loss of a step on its way to the CPU.

    Args:
        arrived: on a GPU, when it may be read.
        paths: the videos of the samples.
    """

    step: int
    value: torch.Tensor
    arrived: torch.cuda.Event | None
    paths: list[str]


def _arrive(loss: _Loss) -> _Loss:
    """The loss, when it can be read."""
    if loss.arrived is not None:
        loss.arrived.synchronize()
    return loss


class BadLossHandler(HookBase):
    """Looks at the loss of every step, in all processes; each bad batch is named in bad_batches.jsonl.

    To stop, a GPU's loss is looked at one step later, so that no step waits for it; a checkpoint is
    only written after `check`. It belongs in front of all hooks that use the weights.

    Args:
        skip: skip bad steps; else stop at the first.
        max_loss: above it a loss is bad.
        max_skipped: steps in a row that may be skipped.
        folder: of the run.
    """

    def __init__(self, skip: bool, max_loss: float, max_skipped: int, folder: str | Path) -> None:
        self.skip = skip
        self.max_loss = max_loss
        self.max_skipped = max_skipped
        self.file = Path(folder) / BAD_BATCHES
        self.skipped = 0
        self.in_row = 0
        self._pending: deque[_Loss] = deque()
        self._due: list[_Loss] = []

    def may_update(self) -> bool:
        """To skip: whether the step is good in all processes."""
        if not self.skip:
            return True
        step = self.trainer.step + 1
        loss = float(self.trainer.loss)
        norm = self.trainer.gradient_norm
        scaled = self.trainer.scaler.is_enabled()
        if math.isfinite(loss) and norm is not None and not scaled and not math.isfinite(float(norm)):
            loss = math.nan
        values = self._bad_values(step, loss, self.trainer.paths)
        if not values:
            self.in_row = 0
            return True
        self.skipped += 1
        self.in_row += 1
        self.trainer.storage.put_last("skipped_steps", float(self.skipped))
        what = f"the loss or its gradient is {values[0]:g}"
        if self.in_row > self.max_skipped:
            raise TrainingError(
                f"{what} at step {step}, number {self.in_row} of bad steps in a row, more than "
                f"SOLVER.MAX_SKIPPED {self.max_skipped} allows; {self._advice()}"
            )
        if distributed.is_main_process():
            logger.warning("step %d is skipped: %s; its samples are in %s", step, what, self.file)
        return False

    def alarm(self) -> bool:
        """To stop: whether the loss of this step is bad, on a GPU that of the one before."""
        if self.skip:
            return False
        loss, arrived = self.trainer.loss, None
        on_gpu = loss.device.type == "cuda"
        if on_gpu:
            loss = loss.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._pending.append(_Loss(self.trainer.step, loss, arrived, self.trainer.paths))
        self._due = [self._pending.popleft() for _ in range(len(self._pending) - int(on_gpu))]
        return any(self._is_bad(float(loss.value)) for loss in map(_arrive, self._due))

    def alarmed(self) -> None:
        """Some process has a bad loss."""
        self._stop_at_bad(self._due)

    def check(self) -> None:
        """Raise, in all processes, if a loss so far or a weight is bad; waits for the device.

        Raises:
            TrainingError: with what to do.
        """
        self._stop_at_bad([_arrive(loss) for loss in self._pending])
        self._pending.clear()
        norm = float(full_tensor(torch.nn.utils.get_total_norm(list(self.trainer.model.parameters()))))
        if not math.isfinite(norm):  # in all processes: their weights are the same
            raise TrainingError(
                f"the norm of the weights is {norm:g} after step {self.trainer.step}; {self._advice()}"
            )

    def _stop_at_bad(self, losses: Sequence[_Loss]) -> None:
        for step, value, _, paths in losses:
            values = self._bad_values(step, float(value), paths)
            if values:
                raise TrainingError(
                    f"loss is {values[0]:g} at step {step}; its samples are in {self.file}; {self._advice()}"
                )

    def _is_bad(self, loss: float) -> bool:
        return not loss <= self.max_loss

    def _bad_values(self, step: int, loss: float, paths: list[str]) -> list[float]:
        """The bad losses of all processes, which are also written down with their samples."""
        bad = self._is_bad(loss)
        if not distributed.any_process(bad):
            return []
        found = [pair for pair in distributed.all_gather_object((loss, paths) if bad else None) if pair]
        if distributed.is_main_process():
            samples = sorted({path for _, own in found for path in own})
            losses = [repr(value) for value, _ in found]  # JSON knows no NaN
            self._note({"step": step, "losses": losses, "samples": samples})
        return [value for value, _ in found]

    def _note(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry)
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            logger.warning("%s cannot be written: %s; it was to hold: %s", self.file, error.strerror, line)

    def _advice(self) -> str:
        skip = "" if self.skip else ", set SOLVER.ON_BAD_LOSS skip"
        return (
            "the checkpoints from before it are kept. Lower SOLVER.BASE_LR, set SOLVER.CLIP_GRAD"
            f"{skip}, or use SOLVER.AMP bf16 in place of fp16"
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return {"skipped": self.skipped, "in_row": self.in_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the counts of an earlier run."""
        self.skipped, self.in_row = state["skipped"], state["in_row"]
