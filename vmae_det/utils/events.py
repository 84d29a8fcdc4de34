"""Numbers that a run produces, and where they are written: terminal and JSON lines."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import simplejson
import torch
from tqdm import tqdm

from vmae_det.utils import distributed
from vmae_det.utils.output_files import write_text

logger = logging.getLogger(__name__)


class EventStorage:
    """Collects numbers between two writings. Tensors stay on their device until they are taken."""

    def __init__(self) -> None:
        self._values: dict[str, list[torch.Tensor | float]] = {}

    def put(self, name: str, value: torch.Tensor | float) -> None:
        """Add a value under a name."""
        self._values.setdefault(name, []).append(value.detach() if torch.is_tensor(value) else value)

    def put_latest(self, name: str, value: float) -> None:
        """Have this value, the same in all processes, in place of those so far."""
        self._values[name] = [value]

    def take(self) -> dict[str, float]:
        """The mean of each name's values since the last call, over all processes, which must all call."""
        names = sorted(self._values)
        means = torch.tensor(
            [float(sum(values) / len(values)) for values in (self._values[name] for name in names)],
            dtype=torch.float64,
        )
        self._values.clear()
        means = distributed.all_reduce_sum(means) / distributed.get_world_size()
        return dict(zip(names, means.tolist()))


class Writer:
    """Takes the numbers of a step to some place. Only the main process has writers."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write the numbers of a step (counted from 1)."""

    def progress(self, step: int) -> None:
        """A step is done; called for every one."""

    def close(self) -> None:
        """The run is over."""


class TerminalWriter(Writer):
    """A line of the log per writing, and a progress bar with the time that remains."""

    def __init__(self, start: int, total: int, description: str) -> None:
        self.total = total
        # disable=None: no bar where the output is not a terminal
        self.bar = tqdm(total=total, initial=start, desc=description, unit="step", disable=None, leave=False)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log a line."""
        remaining = timedelta(seconds=round(values.get("eta_seconds", 0.0)))
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "eta_seconds")
        logger.info("step %d/%d  eta %s  %s", step, self.total, remaining, numbers)

    def progress(self, step: int) -> None:
        """Move the bar."""
        self.bar.update(step - self.bar.n)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()


class JSONWriter(Writer):
    """A JSON object per line. Numbers that are not finite become null.

    Args:
        start: steps that a resumed run has behind it; lines of later ones, which are done again, go.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= start]
            write_text(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Add a line."""
        self._file.write(simplejson.dumps({"step": step, **values}, ignore_nan=True) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _step_of(line: str) -> float:
    try:
        return simplejson.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):  # half a line, of a run that was killed
        return float("inf")
