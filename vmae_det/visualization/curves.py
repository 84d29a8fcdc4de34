"""Plots the metrics of several runs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vmae_det.utils.errors import DataError, UserError, did_you_mean
from vmae_det.utils.input_files import check_regular_file
from vmae_det.visualization.matplotlib_figures import COLORS, escape_text, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG = "metrics.jsonl"
_DASHES = ("-", "--", ":", "-.")  # of runs with the same color
_TIME_SUFFIX = "_seconds"  # metrics with this suffix are only plotted on request
_PANEL_SIZE = (5.0, 3.4)  # inches
_MAX_COLUMNS = 3
# Metrics that monitor a run. They follow the metrics of its quality.
_MONITORING = (
    "gradient_norm",
    "lr",
    "bad_videos",
    "bad_keyframes",
    "skipped_steps",
)
_MAX_MARKERS = 30  # with up to this number of values, each has a marker


@dataclass
class RunLog:
    """The metrics of a run.

    Attributes:
        name: name in the legend.
        values: steps and values of each metric; values that are not finite are NaN.
        skipped: number of lines that are not a JSON object with a step, such as the last line of a killed
            run.
    """

    name: str
    values: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    skipped: int = 0


def read_log(path: Path) -> RunLog:
    """Read a metrics.jsonl, or the one in the folder of a run.

    If a resumed run repeated steps, the later lines are used. Metrics with values that are not numbers are
    skipped.

    Raises:
        DataError: the file does not exist or contains no values.
    """
    file = path / LOG if path.is_dir() else path
    try:
        check_regular_file(file)
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise DataError(f"no such log; expected the output folder of a run, or its {LOG}", file) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file) from None
    log = RunLog(_run_name(file))
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
        raise DataError('contains no values; expected lines such as {"step": 1, "loss": 0.5}', file)
    return log


def read_logs(paths: Sequence[Path]) -> list[RunLog]:
    """Read the logs of several runs. Runs whose folders have the same name are named by their paths."""
    logs = [read_log(path) for path in paths]
    names = [log.name for log in logs]
    for path, log in zip(paths, logs):
        if names.count(log.name) > 1:
            log.name = str(path)
    return logs


def draw_curves(logs: Sequence[RunLog], metrics: Sequence[str] = (), smooth: int = 1) -> Figure:
    """Draw a panel per metric with a line per run.

    Args:
        logs: the runs.
        metrics: names of metrics (default: all except times).
        smooth: number of values to average. If greater than 1, the values themselves are drawn in a light
            color.

    Raises:
        UserError: no run has a requested metric, or matplotlib is not installed.
    """
    known = list(dict.fromkeys(name for log in logs for name in log.values))
    for name in metrics:
        if name not in known:
            raise UserError(f"--metric {name}: not in any of the logs{did_you_mean(name, known)}")
    shown = list(metrics) or [name for name in known if not name.endswith(_TIME_SUFFIX)] or known
    # The loss first, then the evaluation metrics.
    shown = shown if metrics else sorted(shown, key=lambda name: (name != "loss", name in _MONITORING))
    columns = min(len(shown), _MAX_COLUMNS if len(shown) != 4 else 2)
    rows = math.ceil(len(shown) / columns)
    legend_height = 0.3 + 0.25 * math.ceil(len(logs) / 3)
    figure = new_figure(columns * _PANEL_SIZE[0], rows * _PANEL_SIZE[1] + legend_height)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, name in zip(grid, shown):
        style_axes(axes)
        axes.set_title(escape_text(name), fontsize=11)
        axes.set_xlabel("step", fontsize=9)
        for number, log in enumerate(logs):
            if name in log.values:
                _draw_line(axes, *log.values[name], number, smooth)
        axes.set_xlim(*_step_range(logs))
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
    step = _number(step) if step is not None else None
    return row if step is not None and math.isfinite(step) else None


def _number(value: Any) -> float | None:
    """Return a number; NaN for null and values that are not finite; None for other values."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # Not math.isfinite, which raises OverflowError for an integer of more than 308 digits.
    return float(value) if abs(value) <= sys.float_info.max else math.nan


def _run_name(file: Path) -> str:
    """Return the name of the folder of a metrics.jsonl, and the stem of other files."""
    return file.resolve().parent.name if file.name == LOG else file.stem


def _style(number: int) -> dict[str, str]:
    return {
        "color": COLORS[number % len(COLORS)],
        "linestyle": _DASHES[number // len(COLORS) % len(_DASHES)],
    }


def _draw_line(axes: Any, steps: np.ndarray, values: np.ndarray, number: int, smooth: int) -> None:
    """Draw a line. Where values are not finite it has a gap, and a cross at the bottom of the panel."""
    style = _style(number)
    marker = "." if len(steps) <= _MAX_MARKERS else ""
    if smooth > 1:
        axes.plot(steps, values, alpha=0.25, linewidth=1, **style)
        values = _running_mean(values, smooth)
    axes.plot(steps, values, linewidth=1.8, marker=marker, **style)
    not_finite = steps[np.isnan(values)]
    if len(not_finite):
        bottom = axes.get_xaxis_transform()
        cross = {"color": style["color"], "marker": "x", "linestyle": "", "markersize": 6}
        axes.plot(not_finite, np.full(len(not_finite), 0.02), transform=bottom, clip_on=False, **cross)


def _step_range(logs: Sequence[RunLog]) -> tuple[float, float]:
    """Return the first and the last step of all runs, with a margin."""
    steps = np.concatenate([steps for log in logs for steps, _ in log.values.values()])
    margin = 0.02 * float(np.ptp(steps)) or 0.5
    return steps.min() - margin, steps.max() + margin


def _running_mean(values: np.ndarray, count: int) -> np.ndarray:
    """Return the mean of the finite values among the last `count`; NaN where the value itself is NaN."""
    finite = ~np.isnan(values)
    sums, numbers = np.cumsum(np.where(finite, values, 0)), np.cumsum(finite)
    sums[count:], numbers[count:] = sums[count:] - sums[:-count], numbers[count:] - numbers[:-count]
    return np.where(finite, sums / np.maximum(numbers, 1), np.nan)


def _add_legend(figure: Figure, logs: Sequence[RunLog]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linewidth=2, **_style(number)) for number in range(len(logs))]
    labels = [escape_text(log.name) for log in logs]
    if any(np.isnan(values).any() for log in logs for _, values in log.values.values()):
        handles.append(Line2D([], [], color="#3c3c3c", marker="x", linestyle=""))
        labels.append("not finite")
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
