"""Plots of a study: the values of all seeds with their mean and standard deviation, a panel per metric."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from vmae_det.studies.results import StudyResults
from vmae_det.studies.study_file import Metric
from vmae_det.studies.tables import metric_title
from vmae_det.visualization.matplotlib_figures import COLORS, GRID, INK, escape_text, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = "Dots are seeds. Marks and bars are their mean and standard deviation."
_LOG_RATIO = 8  # of the largest to the smallest level, from which on the axis is logarithmic
_WIDTH, _LINE_HEIGHT, _ROW_HEIGHT = 5.2, 3.4, 0.34  # inches
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_MAX_COLUMNS = 2


def numeric_factor(results: StudyResults) -> str | None:
    """Return the last factor whose levels are numbers, at least two: the x axis. None if there is none."""
    for factor, levels in reversed(results.study.factors.items()):
        if len(levels) > 1 and all(_number(level) is not None for level in levels):
            return factor
    return None


def plotted_metrics(results: StudyResults) -> list[Metric]:
    """Return the metrics, those in which cells are compared first."""
    return sorted(results.metrics, key=lambda metric: metric not in results.compared_metrics)


def draw_study(results: StudyResults) -> Figure:
    """Draw a panel per metric.

    Raises:
        UserError: matplotlib is not installed.
    """
    metrics = plotted_metrics(results)
    columns = min(len(metrics), _MAX_COLUMNS)
    rows = math.ceil(len(metrics) / columns)
    legend = series_names(results)
    height = rows * _panel_height(results) + 0.3 + 0.22 * math.ceil(len(legend) / 3)
    figure = new_figure(columns * _WIDTH, height)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, metric in zip(grid, metrics):
        draw_panel(axes, results, metric)
    for axes in grid[len(metrics) :]:
        axes.set_visible(False)
    _finish(figure, legend)
    return figure


def draw_metric(results: StudyResults, metric: Metric) -> Figure:
    """Draw the panel of one metric. Raises UserError without matplotlib."""
    legend = series_names(results)
    figure = new_figure(_WIDTH, _panel_height(results) + 0.3 + 0.22 * math.ceil(len(legend) / 2))
    draw_panel(figure.subplots(), results, metric)
    _finish(figure, legend, columns=2)
    return figure


def to_svg(figure: Figure) -> str:
    """Return a figure as an SVG element whose text and grid have the colors of the page's style sheet."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vmae_det"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for color, variable in ((INK, "ink"), ("#000000", "ink"), (GRID, "line")):
        text = text.replace(color, f"var(--{variable})")
    return text


def draw_panel(axes: Any, results: StudyResults, metric: Metric) -> None:
    """Draw a metric: over the levels of a numeric factor, or a row of dots per cell."""
    style_axes(axes)
    axes.set_title(escape_text(metric_title(metric)), fontsize=11, color=INK, loc="left")
    base = results.summary(results.base, metric).mean
    if numeric_factor(results):
        _draw_lines(axes, results, metric)
        if base is not None:
            axes.axhline(base, color=INK, linewidth=0.9, linestyle=":", zorder=1)
    else:
        _draw_rows(axes, results, metric)
        if base is not None:
            axes.axvline(base, color=INK, linewidth=0.9, linestyle=":", zorder=1)


def series_names(results: StudyResults) -> list[str]:
    """Return the names of the lines: the levels of all other factors. Rows of dots need no names."""
    factor = numeric_factor(results)
    if factor is None:
        return []
    names = dict.fromkeys(_series(results, number, factor) for number in range(len(results.grid.cells)))
    return [name for name in names if name]


def _draw_lines(axes: Any, results: StudyResults, metric: Metric) -> None:
    """Draw a line for each combination of the other factors, with the numeric factor as the x axis."""
    factor = numeric_factor(results)
    levels = {level: _number(level) for level in results.study.factors[factor]}
    numbers = sorted(levels.values())
    is_log = numbers[0] > 0 and numbers[-1] / numbers[0] >= _LOG_RATIO
    names = list(dict.fromkeys(_series(results, number, factor) for number in range(len(results.grid.cells))))
    for order, name in enumerate(names):
        points = sorted(
            (levels[cell.levels[factor]], number)
            for number, cell in enumerate(results.grid.cells)
            if _series(results, number, factor) == name and results.values[number, metric]
        )
        span = (math.log(numbers[-1] / numbers[0]) if is_log else numbers[-1] - numbers[0]) or 1.0

        def shifted(x: float, by: float, span: float = span) -> float:
            """Return a position that is moved by a fraction of the width of the axis."""
            return x * math.exp(by * span) if is_log else x + by * span

        shift = (order - (len(names) - 1) / 2) * 0.016  # lines that overlap are moved apart
        xs = [shifted(x, shift) for x, _ in points]
        style = {"color": COLORS[order % len(COLORS)], "marker": _MARKERS[order % len(_MARKERS)]}
        for x, (_, number) in zip(xs, points):
            values = list(results.values[number, metric].values())
            beside = [shifted(x, 0.008)] * len(values)
            axes.plot(beside, values, ".", color=style["color"], alpha=0.45, markersize=5, zorder=2)
            deviation = results.summary(number, metric).deviation
            if deviation:
                axes.errorbar(
                    x, fmean(values), deviation, color=style["color"], capsize=3, linewidth=1.2, zorder=3
                )
        means = [results.summary(number, metric).mean for _, number in points]
        axes.plot(xs, means, linewidth=1.8, markersize=6, zorder=4, **style)
    if is_log:
        axes.set_xscale("log")
    axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
    axes.minorticks_off()
    axes.set_xlabel(escape_text(factor), fontsize=9, color=INK)


def _draw_rows(axes: Any, results: StudyResults, metric: Metric) -> None:
    """Draw a row per cell, from top to bottom. The first factor sets the color if there are several."""
    first, *others = results.study.factors
    order = list(results.study.factors[first])
    cells = results.grid.cells
    for number, cell in enumerate(cells):
        color = COLORS[order.index(cell.levels[first]) % len(COLORS)] if others else COLORS[0]
        values = list(results.values[number, metric].values())
        if not values:
            continue
        summary = results.summary(number, metric)
        axes.plot(values, [number] * len(values), ".", color=color, alpha=0.45, markersize=7, zorder=2)
        axes.errorbar(
            summary.mean,
            number,
            xerr=summary.deviation,
            color=color,
            marker="D",
            markersize=6,
            capsize=3,
            zorder=3,
        )
    axes.set_yticks(range(len(cells)), [escape_text(_short(cell.name)) for cell in cells])
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _finish(figure: Figure, legend: Sequence[str], columns: int = 3) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color=COLORS[number % len(COLORS)], marker=_MARKERS[number % len(_MARKERS)], linewidth=1.8
        )
        for number in range(len(legend))
    ]
    if handles:
        names = [escape_text(name) for name in legend]
        figure.legend(
            handles,
            names,
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=9,
            labelcolor=INK,
        )


def _panel_height(results: StudyResults) -> float:
    return _LINE_HEIGHT if numeric_factor(results) else 0.8 + _ROW_HEIGHT * len(results.grid.cells)


def _series(results: StudyResults, cell: int, factor: str) -> str:
    levels = results.grid.cells[cell].levels
    return ", ".join(level for name, level in levels.items() if name != factor)


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"{name[:33]}…"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
