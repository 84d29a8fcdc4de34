"""Metrics of a run, and writers for the terminal and for JSON lines."""

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
    """Collect metrics between two writes. Tensors stay on their device until then."""

    def __init__(self) -> None:
        self._values: dict[str, list[torch.Tensor | float]] = {}

    def put(self, name: str, value: torch.Tensor | float) -> None:
        """Add a value under a name."""
        self._values.setdefault(name, []).append(value.detach() if torch.is_tensor(value) else value)

    def put_latest(self, name: str, value: float) -> None:
        """Replace the values under a name. The value must be the same on all processes."""
        self._values[name] = [value]

    def take(self) -> dict[str, float]:
        """Return the mean of each metric since the last call, over all processes. All must call this."""
        names = sorted(self._values)
        means = torch.tensor(
            [float(sum(values) / len(values)) for values in (self._values[name] for name in names)],
            dtype=torch.float64,
        )
        self._values.clear()
        means = distributed.all_reduce_sum(means) / distributed.get_world_size()
        return dict(zip(names, means.tolist()))


class Writer:
    """Base class of writers of metrics. Only the main process has writers."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write the metrics of a step (counted from 1)."""

    def progress(self, step: int) -> None:
        """Called after every step."""

    def close(self) -> None:
        """Called when the run ends."""


class TerminalWriter(Writer):
    """Log a line per write, and show a progress bar."""

    def __init__(self, start: int, total: int, description: str) -> None:
        self.total = total
        # disable=None: no bar if the output is not a terminal
        self.bar = tqdm(total=total, initial=start, desc=description, unit="step", disable=None, leave=False)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log a line."""
        remaining = timedelta(seconds=round(values.get("eta_seconds", 0.0)))
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "eta_seconds")
        logger.info("step %d/%d  eta %s  %s", step, self.total, remaining, numbers)

    def progress(self, step: int) -> None:
        """Update the progress bar."""
        self.bar.update(step - self.bar.n)

    def close(self) -> None:
        """Remove the progress bar."""
        self.bar.close()


class JSONWriter(Writer):
    """Write a JSON object per line. Numbers that are not finite become null.

    Args:
        start: steps done before a resumed run. Lines of later steps, which are repeated, are removed.
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
    except (ValueError, KeyError, TypeError, RecursionError):  # an incomplete line of a run that was killed
        return float("inf")
