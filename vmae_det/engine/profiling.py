"""Profile a few training steps: a trace for Perfetto and a table of the slowest operations."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, schedule

from vmae_det.engine.trainer import HookBase
from vmae_det.utils import distributed
from vmae_det.utils.output_files import atomic_write, write_text

logger = logging.getLogger(__name__)

FOLDER = "profile"
PARTS = ("data", "forward", "backward", "optimizer")  # names of the parts of a step in `Trainer`
# The first steps fill caches and compile. The profiler itself needs some more.
_SKIPPED, _WARM_UP, _STEPS = 3, 2, 4
_OPERATIONS = 12


class Profiling(HookBase):
    """Profile a few steps after the first ones. Each process writes its own trace and table.

    profile/trace_RANK.json.gz opens in Perfetto (ui.perfetto.dev). profile/operations_RANK.txt lists the
    parts of a step and the slowest operations. A short run skips fewer of the first steps, then profiles
    fewer.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) / FOLDER
        self._profile: profile | None = None

    def before_train(self) -> None:
        """Choose the steps to profile."""
        left = self.trainer.total_steps - self.trainer.step
        if not left:
            return
        self._steps = max(min(_STEPS, left - 1), 1)
        warm_up = min(_WARM_UP, left - self._steps)
        skipped = min(_SKIPPED, left - self._steps - warm_up)
        activities = [ProfilerActivity.CPU]
        if self.trainer.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(
            activities=activities,
            schedule=schedule(wait=skipped, warmup=warm_up, active=self._steps, repeat=1),
            on_trace_ready=self._write,
        )
        self._profile.start()

    def after_step(self) -> None:
        """Advance the profiler."""
        if self._profile is not None:
            self._profile.step()

    def close(self) -> None:
        """Stop the profiler if the run ends early."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def _write(self, done: profile) -> None:
        rank = distributed.get_rank()
        trace = self.folder / f"trace_{rank}.json.gz"
        device = "cuda" if self.trainer.device.type == "cuda" else "cpu"
        table = operations_table(done.key_averages(), self._steps, device)
        try:
            with atomic_write(trace) as temporary:
                done.export_chrome_trace(str(temporary))
            write_text(self.folder / f"operations_{rank}.txt", table + "\n")
        except OSError as error:
            logger.warning("%s: the profile cannot be written: %s", self.folder, error.strerror or error)
        logger.info("profile of %d steps, in %s\n%s", self._steps, trace, table)


def operations_table(events: Any, steps: int, device: str) -> str:
    """Return a table of the parts of a step, then of the operations by self time.

    Args:
        events: `key_averages()` of torch's profiler.
        steps: number of profiled steps.
        device: "cpu", or "cuda" for the times of GPU kernels.
    """
    kind = "device" if device == "cuda" else "cpu"
    # With a GPU there is a second event for the same part, with the time of its kernels.
    parts = {event.key: event for event in events if event.key in PARTS and _is_on(event, "cpu")}
    lines = [f"{'part of a step':40}{'ms a step':>12}"]
    for name in PARTS:
        if name in parts:
            lines.append(f"{name:40}{parts[name].cpu_time_total / steps / 1e3:12.2f}")
    self_time = f"self_{kind}_time_total"
    # Times of kernels are counted twice: with the kernel, and with the operation that launched it.
    operations = [
        event
        for event in events
        if event.key not in PARTS
        and not event.key.startswith("ProfilerStep")
        and (device != "cuda" or (_is_on(event, device) and not getattr(event, "is_user_annotation", False)))
    ]
    total = sum(getattr(event, self_time) for event in operations) or 1
    lines.append(f"{'operation, on the ' + device:40}{'ms a step':>12}{'share':>8}{'calls':>8}")
    operations.sort(key=lambda event: -getattr(event, self_time))
    for event in operations[:_OPERATIONS]:
        time = getattr(event, self_time)
        lines.append(
            f"{event.key[:39]:40}{time / steps / 1e3:12.2f}{time / total:8.1%}{event.count / steps:8.1f}"
        )
    return "\n".join(lines)


def _is_on(event: Any, device: str) -> bool:
    """Return whether an event took place on a device, "cpu" or "cuda"."""
    return event.device_type.name.lower() == device
