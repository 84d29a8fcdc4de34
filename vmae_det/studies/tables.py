"""Tables of a study: as text for the terminal, as Markdown, and as CSV and JSON for other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vmae_det.studies.grid import describe
from vmae_det.studies.results import StudyResults
from vmae_det.studies.statistics import Difference, Summary
from vmae_det.studies.study_file import Metric

_UNITS = {"seconds": "s", "memory": "MB", "parameters": "M"}
NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        title: one line.
        head: names of the columns.
        rows: cells.
        labels: number of first columns that are names, which are aligned to the left.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int


def metric_title(metric: Metric) -> str:
    """Return the name of a metric with its unit."""
    unit = _UNITS.get(metric.name)
    return f"{metric} ({unit})" if unit else str(metric)


class Numbers:
    """Formats the values of a metric with the same number of decimals."""

    def __init__(self, results: StudyResults, metric: Metric) -> None:
        cells = range(len(results.grid.cells))
        values = [abs(value) for cell in cells for value in results.values[cell, metric].values()]
        largest = max(values, default=0.0)
        self.decimals = (
            4 if largest < 1 else 3 if largest < 2 else 2 if largest < 10 else 1 if largest < 1000 else 0
        )

    def value(self, value: float | None) -> str:
        """Format a value."""
        return NOTHING if value is None else f"{value:.{self.decimals}f}"

    def signed(self, value: float) -> str:
        """Format a difference."""
        return f"{value:+.{self.decimals}f}".replace("-", "−")

    def summary(self, summary: Summary) -> str:
        """Format mean and standard deviation."""
        if summary.mean is None:
            return NOTHING
        spread = "" if summary.deviation is None else f" ± {self.value(summary.deviation)}"
        return self.value(summary.mean) + spread

    def interval(self, difference: Difference | None) -> str:
        """Format an interval."""
        if difference is None or difference.low is None or difference.high is None:
            return NOTHING
        return f"{self.signed(difference.low)} to {self.signed(difference.high)}"


def p_value(difference: Difference | None) -> str:
    """Format a p value."""
    if difference is None or difference.p is None:
        return NOTHING
    return f"{difference.p:.3f}" if difference.p >= 0.001 else "< 0.001"


def build_tables(results: StudyResults) -> list[Table]:
    """Return the tables of a study: means, matrix of two factors, comparisons with the base."""
    tables = [means_table(results)]
    if len(results.study.factors) == 2 and all(len(levels) > 1 for levels in results.study.factors.values()):
        tables.append(matrix_table(results))
    metrics = [metric for metric in results.compared_metrics if len(results.grid.cells) > 1]
    return [*tables, *(comparison_table(results, metric) for metric in metrics)]


def means_table(results: StudyResults) -> Table:
    """Return mean and standard deviation of every metric of every cell."""
    numbers = {metric: Numbers(results, metric) for metric in results.metrics}
    rows = [
        [
            *cell.levels.values(),
            *(numbers[metric].summary(results.summary(number, metric)) for metric in results.metrics),
            _count(results, number),
        ]
        for number, cell in enumerate(results.grid.cells)
    ]
    factors = list(results.study.factors)
    head = [*factors, *map(metric_title, results.metrics), "seeds"]
    return Table("Mean and standard deviation over seeds", head, rows, len(factors))


def _count(results: StudyResults, cell: int) -> str:
    """Return the number of seeds of a cell: a range if its metrics differ in it."""
    counts = {results.summary(cell, metric).count for metric in results.metrics} - {0}
    if not counts:
        return "0"
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def matrix_table(results: StudyResults) -> Table:
    """Return the means of the main metric with a row and a column for each level of two factors."""
    metric = results.study.main_metric
    numbers = Numbers(results, metric)
    (row_factor, row_levels), (column_factor, column_levels) = results.study.factors.items()
    cells = {tuple(cell.levels.values()): number for number, cell in enumerate(results.grid.cells)}
    rows = [
        [
            row,
            *(
                numbers.summary(results.summary(cells[row, column], metric))
                if (row, column) in cells
                else NOTHING
                for column in column_levels
            ),
        ]
        for row in row_levels
    ]
    title = f"{metric_title(metric)} by {row_factor} and {column_factor}"
    return Table(title, [f"{row_factor} \\ {column_factor}", *column_levels], rows, 1)


def comparison_table(results: StudyResults, metric: Metric) -> Table:
    """Return the differences of all cells to the base in a metric."""
    numbers = Numbers(results, metric)
    rows = []
    for number, cell in enumerate(results.grid.cells):
        mean = numbers.summary(results.summary(number, metric))
        if number == results.base:
            rows.append([*cell.levels.values(), mean, "", "", "", "", "base"])
            continue
        comparison = results.comparison(number, metric)
        difference = comparison.difference
        rows.append(
            [
                *cell.levels.values(),
                mean,
                numbers.signed(difference.mean) if difference else NOTHING,
                numbers.interval(difference),
                p_value(difference),
                str(difference.count) if difference else NOTHING,
                comparison.verdict,
            ]
        )
    factors = list(results.study.factors)
    head = [*factors, "mean", "difference", "95 % interval", "p", "pairs", "verdict"]
    direction = ", lower is better" if results.lower_is_better[metric] else ""
    title = f"{metric_title(metric)}{direction}: difference to {describe(results.study.base)}"
    return Table(title, head, rows, len(factors))


def findings_lines(results: StudyResults) -> list[tuple[str, str, str]]:
    """Return claim, source and verdict of each finding."""
    lines = []
    for finding in results.study.findings:
        checked = results.check(finding)
        numbers = Numbers(results, finding.metric)
        difference = checked.difference
        text = checked.verdict
        if difference:
            interval = (
                f", 95 % interval {numbers.interval(difference)}"
                if difference.low is not None
                else ", no interval"
            )
            pairs = f", mean of {checked.pairs} pairs of cells" if checked.pairs > 1 else ""
            seeds = f"{difference.count} seed{'s' * (difference.count > 1)}"
            mean = f"advantage in {finding.metric} {numbers.signed(difference.mean)}"
            text += f" ({mean}{interval}, p {p_value(difference)}, {seeds}{pairs})"
        lines.append((finding.claim, finding.source, text))
    return lines


# ---------------------------------------------------------------- formats


def to_text(results: StudyResults) -> str:
    """Return all results as text for the terminal."""
    study = results.study
    parts = [f"{study.title}\n{study.question}\n"]
    parts += [f"{table.title}\n\n{_columns(table)}" for table in build_tables(results)]
    if study.findings:
        lines = ["Published findings, and what these runs show\n"]
        for claim, source, verdict in findings_lines(results):
            lines += [f"  {claim}{f' [{source}]' if source else ''}", f"    {verdict}"]
        parts.append("\n".join(lines) + "\n")
    parts.append("\n".join([*results.conclusions(), *results.cautions()]) + "\n")
    return "\n".join(parts)


def _columns(table: Table) -> str:
    rows = [table.head, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.head))]
    lines = []
    for row in rows:
        cells = [
            text.ljust(width) if column < table.labels or column == len(row) - 1 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths))
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines) + "\n"


def to_markdown(results: StudyResults) -> str:
    """Return all results as Markdown."""
    study = results.study
    parts = [f"# {_escape(study.title)}\n\n{_escape(study.question)}\n"]
    parts += [f"## {_escape(table.title)}\n\n{_markdown_table(table)}" for table in build_tables(results)]
    if study.findings:
        rows = [[claim, source, verdict] for claim, source, verdict in findings_lines(results)]
        table = Table("", ["claim", "source", "here"], rows, 3)
        parts.append(f"## Published findings\n\n{_markdown_table(table)}")
    parts.append("\n".join([*results.conclusions(), *results.cautions()]) + "\n")
    return "\n".join(parts)


def _markdown_table(table: Table) -> str:
    rules = ["---" if column < table.labels else "---:" for column in range(len(table.head))]
    rows = [list(map(_escape, table.head)), rules, *(list(map(_escape, row)) for row in table.rows)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _escape(text: str) -> str:
    for character in "\\|*_<":
        text = text.replace(character, f"\\{character}")
    return text


def to_rows(results: StudyResults) -> Iterable[list[Any]]:
    """Return a row per cell, metric and seed, after a row of names."""
    yield [*results.study.factors, "metric", "seed", "value", "run"]
    for number, cell in enumerate(results.grid.cells):
        for metric in results.metrics:
            for seed, value in results.values[number, metric].items():
                yield [*cell.levels.values(), str(metric), seed, value, cell.runs[metric.stage, seed].name]


def to_json(results: StudyResults) -> dict[str, Any]:
    """Return all results as JSON."""
    study = results.study
    return {
        "study": study.name,
        "title": study.title,
        "question": study.question,
        "seeds": list(results.grid.seeds),
        "runs": results.num_runs,
        "finished_runs": results.num_finished,
        "base": dict(study.base),
        "main_metric": str(study.main_metric),
        "cells": [
            {
                "levels": dict(cell.levels),
                "runs": [
                    {"stage": stage, "seed": seed, "folder": run.name}
                    for (stage, seed), run in cell.runs.items()
                ],
                "metrics": {str(metric): _metric_json(results, number, metric) for metric in results.metrics},
            }
            for number, cell in enumerate(results.grid.cells)
        ],
        "findings": [
            {
                "claim": finding.claim,
                "source": finding.source,
                "metric": str(finding.metric),
                "verdict": checked.verdict,
                "difference": _difference_json(checked.difference),
            }
            for finding, checked in _each(results.check, study.findings)
        ],
        "conclusions": results.conclusions(),
        "cautions": results.cautions(),
    }


def _metric_json(results: StudyResults, cell: int, metric: Metric) -> dict[str, Any]:
    summary = results.summary(cell, metric)
    content: dict[str, Any] = {
        "values": {str(seed): value for seed, value in results.values[cell, metric].items()},
        "mean": summary.mean,
        "standard_deviation": summary.deviation,
    }
    if cell != results.base and metric in results.compared_metrics:
        comparison = results.comparison(cell, metric)
        content |= {"verdict": comparison.verdict, "difference": _difference_json(comparison.difference)}
    return content


def _difference_json(difference: Difference | None) -> dict[str, Any] | None:
    return None if difference is None else dict(vars(difference))


def _each(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[tuple[Any, Any]]:
    return ((item, function(item)) for item in items)
