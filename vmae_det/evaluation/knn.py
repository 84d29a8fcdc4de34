"""Accuracy of a k-nearest-neighbor classifier on the features of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.evaluation.evaluators import EVALUATOR_REGISTRY, Evaluator, _all_gather, top_k_accuracy
from vmae_det.utils.errors import DataError
from vmae_det.utils.output_files import write_json

TEMPERATURE = 0.07  # as in Wu et al. (2018) and DINO
_BLOCK = 2**24  # similarities to compute at a time


def knn_scores(
    features: np.ndarray,
    bank: np.ndarray | None,
    labels: np.ndarray,
    *,
    k: int,
    num_classes: int,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """Return the class scores of features by their nearest neighbors in a bank, float64 (N, classes).

    Each of the k neighbors with the largest cosine similarity s votes for its class with exp(s / temperature)
    (Wu et al., 2018).

    Args:
        features: (N, C).
        bank: (M, C). None: `features`, where a row is no neighbor of itself.
        labels: classes (M,) of the bank.
        k: neighbors, or all if the bank has fewer.
    """
    features = _normalize(features)
    others = features if bank is None else _normalize(bank)
    k = min(k, len(others) - (bank is None))
    scores = np.zeros((len(features), num_classes))
    rows = max(_BLOCK // len(others), 1)
    for start in range(0, len(features), rows):
        similarity = features[start : start + rows] @ others.T  # (rows, M)
        own = np.arange(len(similarity))
        if bank is None:
            similarity[own, start + own] = -np.inf
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]  # (rows, k)
        nearest_similarity = np.take_along_axis(similarity, nearest, axis=1).astype(np.float64)
        votes = np.exp(nearest_similarity / temperature)
        np.add.at(scores, (start + own[:, None], labels[nearest]), votes)
    return scores


def _normalize(features: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(norm, np.finfo(features.dtype).tiny)


@EVALUATOR_REGISTRY.register_as("contrastive")
class KNNEvaluator(Evaluator):
    """Top-1 and top-5 accuracy of `knn_scores` with TEST.KNN neighbors, from TEST.KNN_BANK if it is set.

    Batches hold index (B,), label (B,), and in_bank (B,), whether a clip is from the bank. Predictions hold
    features (B, C).
    """

    metrics = ("knn_top1", "knn_top5")

    def reset(self) -> None:
        """Discard all features."""
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._metrics: dict[str, float] = {}

    def process(self, batch: dict[str, Any], predictions: dict[str, Any]) -> None:
        """Store the features as float32."""
        columns = (np.asarray(batch[name]) for name in ("index", "label", "in_bank"))
        self._parts.append((*columns, predictions["features"].detach().float().cpu().numpy()))

    def evaluate(self) -> dict[str, float]:
        """Return knn_top1 and knn_top5, in percent."""
        parts = [part for parts in _all_gather(self._parts) for part in parts]
        if not parts:
            raise DataError("no video could be read", self.spec.name)
        index, label, in_bank, features = (np.concatenate(column) for column in zip(*parts))
        _, once = np.unique(index, return_index=True)  # also sorts by index
        in_bank, features = in_bank[once], features[once]
        label = np.unique(label[once], return_inverse=True)[1]  # the classes that occur
        tested = features[~in_bank]
        bank, bank_label = (features[in_bank], label[in_bank]) if self.cfg.TEST.KNN_BANK else (None, label)
        if not len(tested) or len(bank_label) < (2 if bank is None else 1):
            raise DataError("too few videos could be read for the kNN accuracy", self.spec.name)
        scores = knn_scores(tested, bank, bank_label, k=self.cfg.TEST.KNN, num_classes=int(label.max()) + 1)
        accuracy = top_k_accuracy(scores, label[~in_bank])
        self._metrics = {f"knn_{name}": value for name, value in accuracy.items()}
        return self._metrics

    def write(self, folder: Path) -> None:
        """Save metrics.json."""
        if self._metrics:
            write_json(folder / "metrics.json", self._metrics)
