"""Results of a study: values by cell, metric and seed, comparisons with the base, and checked findings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from vmae_det.studies.grid import Grid, describe
from vmae_det.studies.run_store import RunStore
from vmae_det.studies.statistics import Difference, Summary, mean_difference, paired_difference, summarize
from vmae_det.studies.study_file import MEASURES, Finding, Levels, Metric, matches

BETTER, WORSE, UNCLEAR = "better", "worse", "cannot be told apart"
SAME_RUNS, SKIPPED, MISSING = "the same runs", "stage skipped", "no results yet"
APPEARS, OPPOSITE = "appears", "the opposite appears"


@dataclass(frozen=True)
class Comparison:
    """The difference of a cell to the base in a metric.

    Args:
        difference: None if one of both has no results.
        verdict: BETTER, WORSE, UNCLEAR, SAME_RUNS, SKIPPED or MISSING.
    """

    difference: Difference | None
    verdict: str


@dataclass(frozen=True)
class CheckedFinding:
    """A finding with what the data say.

    Args:
        difference: of the better minus the worse cells, in the direction of the metric: above 0 agrees.
        verdict: in words.
        pairs: number of pairs of cells that are averaged.
    """

    finding: Finding
    difference: Difference | None
    verdict: str
    pairs: int


class StudyResults:
    """The results of the finished runs of a study.

    Args:
        grid: the study with its cells.
        store: the folder of the runs.
    """

    def __init__(self, grid: Grid, store: RunStore) -> None:
        self.grid = grid
        self.study = grid.study
        self.metrics = grid.study.metrics
        self.lower_is_better = {metric: grid.lower_is_better(metric) for metric in self.metrics}
        runs = grid.runs()
        by_run = {run: results for run in runs if (results := store.results(run)) is not None}
        self.num_runs, self.num_finished = len(runs), len(by_run)
        self.values: dict[tuple[int, Metric], dict[int, float]] = {}  # by number of the cell; then by seed
        for number, cell in enumerate(grid.cells):
            for metric in self.metrics:
                found = {
                    seed: by_run.get(cell.runs.get((metric.stage, seed)), {}).get(metric.name)
                    for seed in grid.seeds
                }
                self.values[number, metric] = {
                    seed: float(value)
                    for seed, value in found.items()
                    if value is not None and math.isfinite(value)
                }
        self.base = grid.cells.index(grid.base)

    def summary(self, cell: int, metric: Metric) -> Summary:
        """Return mean and spread of a cell."""
        return summarize(list(self.values[cell, metric].values()))

    def comparison(self, cell: int, metric: Metric) -> Comparison:
        """Return the comparison of a cell with the base."""
        if self.are_same(cell, self.base, metric):
            return Comparison(None, SAME_RUNS)
        if not all(self._has_stage(number, metric.stage) for number in (cell, self.base)):
            return Comparison(None, SKIPPED)
        difference = paired_difference(self.values[cell, metric], self.values[self.base, metric])
        if difference is None:
            return Comparison(None, MISSING)
        sign = -difference.sign if self.lower_is_better[metric] else difference.sign
        return Comparison(difference, (UNCLEAR, BETTER, WORSE)[sign])

    def are_same(self, first: int, second: int, metric: Metric) -> bool:
        """Return whether two cells have the same runs of a stage, so that they cannot differ."""
        runs = [self.grid.cells[cell].runs for cell in (first, second)]
        keys = [(metric.stage, seed) for seed in self.grid.seeds]
        return all(key in runs[0] and runs[0][key] is runs[1].get(key) for key in keys)

    def _has_stage(self, cell: int, stage: str) -> bool:
        return any(stage == name for name, _ in self.grid.cells[cell].runs)

    @property
    def compared_metrics(self) -> list[Metric]:
        """The metrics in which cells are compared: those of results.json; without any, the measures."""
        return [metric for metric in self.metrics if metric.name not in MEASURES] or list(self.metrics)

    def check(self, finding: Finding) -> CheckedFinding:
        """Return what the data say about a finding.

        The cells of `better` and `worse` are compared in pairs that agree in all other factors; the
        differences are averaged for each seed.
        """
        pairs = [
            (first, second)
            for first in self._cells(finding.better)
            for second in self._cells(finding.worse)
            if all(
                self.grid.cells[first].levels[factor] == self.grid.cells[second].levels[factor]
                for factor in self.study.factors
                if factor not in finding.better
            )
        ]
        if pairs and all(self.are_same(*pair, finding.metric) for pair in pairs):
            return CheckedFinding(finding, None, f"cannot be checked: both are {SAME_RUNS}", len(pairs))
        sign = -1 if self.lower_is_better[finding.metric] else 1
        differences = []
        for seed in self.grid.seeds:
            values = [[self.values[cell, finding.metric].get(seed) for cell in pair] for pair in pairs]
            if values and all(value is not None for pair in values for value in pair):
                differences.append(sign * fmean(first - second for first, second in values))
        difference = mean_difference(differences)
        if difference is None:
            return CheckedFinding(finding, None, MISSING, len(pairs))
        verdict = (UNCLEAR, APPEARS, OPPOSITE)[difference.sign]
        return CheckedFinding(finding, difference, verdict, len(pairs))

    def _cells(self, selection: Levels) -> list[int]:
        return [number for number, cell in enumerate(self.grid.cells) if matches(cell.levels, selection)]

    # ------------------------------------------------------------ in words

    def conclusions(self) -> list[str]:
        """Return the sentences that the data allow."""
        sentences = []
        if self.num_finished < self.num_runs:
            sentences.append(f"{self.num_finished} of {self.num_runs} runs are finished.")
        metric, base = self.study.main_metric, describe(self.study.base)
        others = [number for number in range(len(self.grid.cells)) if number != self.base]
        verdicts = Counter(self.comparison(number, metric).verdict for number in others)
        phrases = {BETTER: "better than", WORSE: "worse than", UNCLEAR: "not distinguishable from"}
        compared = sum(verdicts[verdict] for verdict in phrases)
        if compared:
            parts = [
                f"{verdicts[verdict]} {'is' if verdicts[verdict] == 1 else 'are'} {phrase} it"
                for verdict, phrase in phrases.items()
                if verdicts[verdict]
            ]
            cells = f"{compared} cell{'s' * (compared > 1)}"
            sentences.append(f"In {metric}, of {cells} compared with {base}, {_join(parts)}.")
        best = self._best(metric)
        if best is not None and compared:
            name = describe(self.grid.cells[best].levels)
            ending = {BETTER: ", which is better than the base", UNCLEAR: f", which {UNCLEAR} from the base"}
            verdict = "" if best == self.base else self.comparison(best, metric).verdict
            sentences.append(f"The best mean is that of {name}{ending.get(verdict, '')}.")
        checked = Counter(self.check(finding).verdict for finding in self.study.findings)
        if checked:
            appear, opposite, total = checked[APPEARS], checked[OPPOSITE], checked.total()
            sentences.append(
                f"Of {total} published finding{'s' * (total > 1)}, {appear} appear{'s' * (appear == 1)} "
                f"here, {opposite} appear{'s' * (opposite == 1)} with the opposite sign, and "
                f"{total - appear - opposite} cannot be decided."
            )
        return sentences

    def cautions(self) -> list[str]:
        """Return what a reader must know about the intervals."""
        seeds = len(self.grid.seeds)
        if seeds == 1:
            return ["One seed: there is no spread and no interval, so no cells can be told apart."]
        intervals = [
            self.comparison(cell, metric).difference
            for metric in self.compared_metrics
            for cell in range(len(self.grid.cells))
            if cell != self.base
        ] + [self.check(finding).difference for finding in self.study.findings]
        number = sum(difference is not None and difference.low is not None for difference in intervals)
        if not number:
            return []
        return [
            "Intervals are 95 % t intervals of the mean difference between runs with the same seed "
            f"({seeds} seeds). They are not adjusted for the number of comparisons, {number}: if nothing had "
            f"an effect, about {0.05 * number:.1f} of them would exclude 0 by chance."
        ]

    def _best(self, metric: Metric) -> int | None:
        means = {
            number: mean
            for number in range(len(self.grid.cells))
            if (mean := self.summary(number, metric).mean) is not None
        }
        if len(set(means.values())) < 2:
            return None
        return (min if self.lower_is_better[metric] else max)(means, key=means.__getitem__)


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
