"""What an evaluator is: it collects the predictions of one task and turns them into a few numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vmae_det.utils.registry import Registry

if TYPE_CHECKING:  # half of the start of `vmae-det evaluate`, which needs neither
    from vmae_det.config import CfgNode
    from vmae_det.data.catalog import DatasetSpec

T = TypeVar("T")


class Evaluator(ABC):
    """Collects the predictions of one dataset.

    Each process calls `process` on its batches; then all call `evaluate`, which gathers, and the main one
    `write`. A sample that comes twice counts once: the numbers do not depend on how many processes there are.
    """

    # What `evaluate` gives by name, first the one that training is judged by; none: by none of them.
    metrics: tuple[str, ...] = ()
    lower_is_better = False
    # The columns of scores that stand for the dataset's classes, in their order; None: all columns do.
    columns: np.ndarray | None = None

    def __init__(self, cfg: CfgNode, spec: DatasetSpec) -> None:
        self.cfg = cfg
        self.spec = spec
        self.reset()

    @abstractmethod
    def reset(self) -> None:
        """Forget all predictions."""

    @abstractmethod
    def process(self, batch: dict[str, Any], predictions: dict[str, Any]) -> None:
        """Take the predictions that the model made of a batch."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """The metrics by name, the same in all processes."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Save what `evaluate` found; called in the main process."""


# By the task of the model.
EVALUATOR_REGISTRY = Registry("EVALUATOR")


def gather(value: T) -> list[T]:
    """What all processes collected, by rank."""
    # Here and not above: the metrics work on files where torch is not loaded.
    from vmae_det.utils.distributed import all_gather_object

    return all_gather_object(value)
