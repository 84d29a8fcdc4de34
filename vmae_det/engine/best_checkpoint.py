"""The best weights of a run, by a metric of its evaluations."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vmae_det.checkpoint import read_checkpoint
from vmae_det.checkpoint.digest import check_digest
from vmae_det.utils import distributed
from vmae_det.utils.errors import ConfigError, WeightsError, did_you_mean

logger = logging.getLogger(__name__)

BEST_WEIGHTS = "model_best.pt"


class Metric(NamedTuple):
    """What evaluations are compared by."""

    name: str
    lower_is_better: bool


def choose_metric(wanted: str, known: list[Metric]) -> Metric | None:
    """The metric that TEST.BEST_METRIC names, the first of those known where it is empty.

    Raises:
        ConfigError: there is none of that name.
    """
    if not wanted:
        return known[0] if known else None
    for metric in known:
        if metric.name == wanted:
            return metric
    names = [metric.name for metric in known]
    raise ConfigError(f"TEST.BEST_METRIC: DATASETS.TEST gives no '{wanted}'{did_you_mean(wanted, names)}")


class BestCheckpoint:
    """Keeps the weights of the best evaluation of a run in model_best.pt, with metric, value and step.

    The file itself says what is to be surpassed, so that a resumed run goes on with it.

    Args:
        resumed: whether a file of an earlier start counts.
    """

    def __init__(self, folder: Path, metric: Metric | None, resumed: bool = False) -> None:
        self.path = folder / BEST_WEIGHTS
        self.metric = metric
        self.value = math.nan
        if metric and resumed and self.path.exists():
            self._read(metric)

    def _read(self, metric: Metric) -> None:
        try:
            check_digest(self.path)
            content = read_checkpoint(self.path)
        except WeightsError as error:
            logger.warning("the next evaluation counts as the best one: %s", error)
            return
        if content.get("metric") == metric.name:
            self.value = content["value"]
            logger.info("%s: %s %.4f, of step %d", self.path.name, metric.name, self.value, content["step"])

    def offer(self, metrics: dict[str, float], step: int, save: Callable[..., None]) -> None:
        """Keep the weights of this step if they are better; all processes call this.

        Args:
            save: writes the weights to a path with the values by name that are to go with them.

        Raises:
            WeightsError: the file cannot be written.
        """
        failed = None
        if self.metric and distributed.is_main_process():
            value = metrics[self.metric.name]
            if self._is_better(value):
                try:
                    save(self.path, metric=self.metric.name, value=value, step=step)
                except WeightsError as error:
                    failed = error
                else:
                    self.value = value
                    logger.info("best so far: %s %.4f; weights in %s", self.metric.name, value, self.path)
        distributed.raise_together(failed)

    def _is_better(self, value: float) -> bool:
        if math.isnan(self.value):
            return not math.isnan(value)
        return value < self.value if self.metric.lower_is_better else value > self.value
