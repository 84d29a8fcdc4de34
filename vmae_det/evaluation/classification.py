"""Top-1 and top-5 accuracy of video classification, the scores of a video's views averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.evaluation.evaluator import EVALUATOR_REGISTRY, Evaluator, gather
from vmae_det.utils.errors import DataError
from vmae_det.utils.output_files import atomic_write, write_json


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, ks: tuple[int, ...] = (1, 5)) -> dict[str, float]:
    """Percent of videos whose label is among the k best-scored classes: {"top1": ..., "top5": ...}.

    Equal scores count against the label, so a model that gives all classes the same score is never right.

    Args:
        scores: (V, C).
        labels: (V,) columns.
    """
    own = np.take_along_axis(scores, labels[:, None].astype(np.int64), axis=1)
    # The label itself is one of those that are at least as good.
    rank = (scores >= own).sum(axis=1)
    return {f"top{k}": float(100 * (rank <= k).mean()) for k in ks}


@EVALUATOR_REGISTRY.register_as("classification")
class TopKEvaluator(Evaluator):
    """Accuracy over videos; the scores of a video's views are averaged.

    A batch holds index (B,) of the view, video_index (B,) where that is another, and label (B,); predictions
    hold scores (B, C).
    """

    metrics = ("top1", "top5")

    def reset(self) -> None:
        """Forget all predictions."""
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self._metrics: dict[str, float] = {}
        self._videos: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def process(self, batch: dict[str, Any], predictions: dict[str, Any]) -> None:
        """Keep the scores as float32."""
        index = np.asarray(batch["index"], dtype=np.int64)
        video = np.asarray(batch.get("video_index", index), dtype=np.int64)
        label = np.asarray(batch["label"], dtype=np.int64)
        self._parts.append((index, video, label, predictions["scores"].detach().float().cpu().numpy()))

    def evaluate(self) -> dict[str, float]:
        """top1 and top5, in percent."""
        parts = [part for parts in gather(self._parts) for part in parts]
        if not parts:
            raise DataError("no video was classified; is the dataset empty?", self.spec.name)
        index, video, label, scores = (np.concatenate(column) for column in zip(*parts))
        # By index, so that the order of summation does not depend on the processes.
        _, once = np.unique(index, return_index=True)
        video, label, scores = video[once], label[once], scores[once]
        videos, first, views = np.unique(video, return_index=True, return_counts=True)
        by_video = np.argsort(video, kind="stable")
        starts = np.cumsum(views) - views
        mean = np.add.reduceat(scores[by_video].astype(np.float64), starts, axis=0) / views[:, None]
        self._videos = (videos, label[first], mean)
        self._metrics = top_k_accuracy(mean, label[first])
        return self._metrics

    def write(self, folder: Path) -> None:
        """Save metrics.json and scores.npz (index (V,), label (V,), scores (V, C))."""
        if self._videos is None:
            return
        index, label, scores = self._videos
        write_json(folder / "metrics.json", self._metrics)
        with atomic_write(folder / "scores.npz") as temporary:
            np.savez_compressed(temporary, index=index, label=label, scores=scores.astype(np.float32))
