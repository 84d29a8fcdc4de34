"""The logs of several runs as one chart."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vmae_det.utils.errors import DataError, UserError, did_you_mean
from vmae_det.visualization.figures import COLOURS, new_figure, plain, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG = "metrics.jsonl"
_DASHES = ("-", "--", ":", "-.")  # of runs that share a colour
_HIDDEN = "_seconds"  # what ends so is drawn where it is asked for
_PANEL = (5.0, 3.4)  # inches
_MOST_ACROSS = 3
_ASIDE = (
    "gradient_norm",
    "lr",
    "bad_videos",
    "bad_keyframes",
    "skipped_steps",
)  # that tell how a run goes, not how well
_FEW = 30  # values that are drawn with a dot each


@dataclass
class RunLog:
    """The numbers of a run: for each name, steps and values (NaN where they were not finite).

    Args:
        skipped: lines that were no JSON object with a step, such as the last of a run that was killed.
    """

    name: str
    values: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    skipped: int = 0


def read_log(path: Path) -> RunLog:
    """Read a metrics.jsonl, or that of a run's folder.

    Where a resumed run did steps again, the later lines count. Names whose values are no numbers are left
    out.

    Raises:
        DataError: no such file, or one without a single line of numbers.
    """
    file = path / LOG if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise DataError(f"no such log; expected the folder of a run, or its {LOG}", file) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file) from None
    log = RunLog(_name_of(file))
    rows: list[tuple[float, dict[str, Any]]] = []
    for line in lines:
        row = _parse(line)
        if row is None:
            log.skipped += bool(line.strip())
            continue
        while rows and rows[-1][0] >= row["step"]:
            rows.pop()
        rows.append((row["step"], row))
    for key in dict.fromkeys(key for _, row in rows for key in row if key != "step"):
        points = [(step, _number(row[key])) for step, row in rows if key in row]
        if any(value is None for _, value in points):
            continue
        steps, values = np.array(points, dtype=np.float64).T
        log.values[key] = steps, values
    if not log.values:
        raise DataError('holds no line of numbers such as {"step": 1, "loss": 0.5}', file)
    return log


def read_logs(paths: Sequence[Path]) -> list[RunLog]:
    """The logs of several runs; those whose folders have the same name are called by their paths."""
    logs = [read_log(path) for path in paths]
    names = [log.name for log in logs]
    for path, log in zip(paths, logs):
        if names.count(log.name) > 1:
            log.name = str(path)
    return logs


def draw_curves(logs: Sequence[RunLog], metrics: Sequence[str] = (), smooth: int = 1) -> Figure:
    """A panel for each metric, a line for each run.

    Args:
        metrics: names; without any, all but times.
        smooth: values that a mean is taken over; the values themselves are then drawn faintly.

    Raises:
        UserError: no run has a metric that is asked for; matplotlib is missing.
    """
    known = list(dict.fromkeys(name for log in logs for name in log.values))
    for name in metrics:
        if name not in known:
            raise UserError(f"--metric {name}: in none of the logs{did_you_mean(name, known)}")
    shown = list(metrics) or [name for name in known if not name.endswith(_HIDDEN)] or known
    # The loss first, then what was evaluated.
    shown = shown if metrics else sorted(shown, key=lambda name: (name != "loss", name in _ASIDE))
    across = min(len(shown), _MOST_ACROSS if len(shown) != 4 else 2)
    down = math.ceil(len(shown) / across)
    figure = new_figure(across * _PANEL[0], down * _PANEL[1] + 0.3 + 0.25 * math.ceil(len(logs) / 3))
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes, name in zip(grid, shown):
        style_axes(axes)
        axes.set_title(plain(name), fontsize=11)
        axes.set_xlabel("step", fontsize=9)
        for number, log in enumerate(logs):
            if name in log.values:
                _draw_line(axes, *log.values[name], number, smooth)
        axes.set_xlim(*_span(logs))
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    _add_legend(figure, logs)
    return figure


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    good = isinstance(step, (int, float)) and not isinstance(step, bool) and math.isfinite(step)
    return row if good else None


def _number(value: Any) -> float | None:
    """A number, NaN for null and what is not finite, None for anything else."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else math.nan


def _name_of(file: Path) -> str:
    """What a run is called: its folder, or a file's own name where it is not the usual one."""
    return file.resolve().parent.name if file.name == LOG else file.stem


def _style(number: int) -> dict[str, str]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": _DASHES[number // len(COLOURS) % len(_DASHES)],
    }


def _draw_line(axes: Any, steps: np.ndarray, values: np.ndarray, number: int, smooth: int) -> None:
    """A line with gaps, and a cross at the foot, where values are not finite."""
    style = _style(number)
    marker = "." if len(steps) <= _FEW else ""
    if smooth > 1:
        axes.plot(steps, values, alpha=0.25, linewidth=1, **style)
        values = _running_mean(values, smooth)
    axes.plot(steps, values, linewidth=1.8, marker=marker, **style)
    bad = steps[np.isnan(values)]
    if len(bad):
        foot = axes.get_xaxis_transform()
        mark = {"color": style["color"], "marker": "x", "linestyle": "", "markersize": 6}
        axes.plot(bad, np.full(len(bad), 0.02), transform=foot, clip_on=False, **mark)


def _span(logs: Sequence[RunLog]) -> tuple[float, float]:
    """Steps from the first to the last of all runs, with a margin."""
    steps = np.concatenate([steps for log in logs for steps, _ in log.values.values()])
    margin = 0.02 * float(np.ptp(steps)) or 0.5
    return steps.min() - margin, steps.max() + margin


def _running_mean(values: np.ndarray, count: int) -> np.ndarray:
    """Mean of the last `count` values that are finite; where a value is not, neither is the result."""
    good = ~np.isnan(values)
    sums, numbers = np.cumsum(np.where(good, values, 0)), np.cumsum(good)
    sums[count:], numbers[count:] = sums[count:] - sums[:-count], numbers[count:] - numbers[:-count]
    return np.where(good, sums / np.maximum(numbers, 1), np.nan)


def _add_legend(figure: Figure, logs: Sequence[RunLog]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linewidth=2, **_style(number)) for number in range(len(logs))]
    labels = [plain(log.name) for log in logs]
    if any(np.isnan(values).any() for log in logs for _, values in log.values.values()):
        handles.append(Line2D([], [], color="#3c3c3c", marker="x", linestyle=""))
        labels.append("not finite")
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
