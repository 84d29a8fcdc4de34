"""Keep the weights of the best evaluation of a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vmae_det.checkpoint import read_checkpoint
from vmae_det.checkpoint.checkpointer import verify_digest
from vmae_det.utils import distributed
from vmae_det.utils.errors import ConfigError, WeightsError, did_you_mean

logger = logging.getLogger(__name__)

BEST_WEIGHTS = "model_best.pt"


class Metric(NamedTuple):
    """A metric to compare evaluations by."""

    name: str
    lower_is_better: bool


def choose_metric(name: str, metrics: list[Metric]) -> Metric | None:
    """Return the metric that TEST.BEST_METRIC names, or the first one if it is empty.

    Raises:
        ConfigError: no metric has that name.
    """
    if not name:
        return metrics[0] if metrics else None
    for metric in metrics:
        if metric.name == name:
            return metric
    known = [metric.name for metric in metrics]
    raise ConfigError(f"TEST.BEST_METRIC: DATASETS.TEST has no metric '{name}'{did_you_mean(name, known)}")


class BestCheckpoint:
    """Keep the weights of the best evaluation in model_best.pt, with metric, value and step.

    The file stores the value to exceed, so that a resumed run continues with it.

    Args:
        metric: None keeps nothing.
        resumed: read the value of an existing file.

    Attributes:
        value: of the best evaluation; NaN without one.
        step: of the best evaluation; 0 without one.
    """

    def __init__(self, folder: Path, metric: Metric | None, resumed: bool = False) -> None:
        self.path = folder / BEST_WEIGHTS
        self.metric = metric
        self.value = math.nan
        self.step = 0
        if metric and resumed and self.path.exists():
            self._read(metric)

    def _read(self, metric: Metric) -> None:
        try:
            verify_digest(self.path)
            content = read_checkpoint(self.path)
        except WeightsError as error:
            logger.warning("the next evaluation counts as the best one: %s", error)
            return
        if content.get("metric") == metric.name:
            self.value, self.step = content["value"], content["step"]
            logger.info("%s: %s %.4f, of step %d", self.path.name, metric.name, self.value, content["step"])

    def update(self, metrics: dict[str, float], step: int, save: Callable[..., None]) -> None:
        """Save the weights of this step if they are the best so far. All processes must call this.

        Args:
            save: writes the weights to a path, with extra values given as keyword arguments.

        Raises:
            WeightsError: the file cannot be written.
        """
        error = None
        if self.metric and distributed.is_main_process():
            value = metrics[self.metric.name]
            if self._is_better(value):
                try:
                    save(self.path, metric=self.metric.name, value=value, step=step)
                except WeightsError as problem:
                    error = problem
                else:
                    self.value, self.step = value, step
                    logger.info("best so far: %s %.4f; weights in %s", self.metric.name, value, self.path)
        distributed.raise_together(error)

    def _is_better(self, value: float) -> bool:
        if math.isnan(self.value):
            return not math.isnan(value)
        return value < self.value if self.metric.lower_is_better else value > self.value
