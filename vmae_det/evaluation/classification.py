"""Accuracy of classified videos: top-1, top-5, per class, and the confusion matrix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from vmae_det.evaluation.evaluators import label_ranks
from vmae_det.formats.class_csv import ClassScores
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.video_list import VideoList
from vmae_det.utils.errors import ConfigError, DataError, did_you_mean
from vmae_det.utils.file_types import VIDEO_SUFFIXES


@dataclass(frozen=True)
class ClassificationResult:
    """Accuracy of V videos with C classes. Videos without scores count as wrong.

    Attributes:
        names: names of the classes.
        labels: (V,), class of each video.
        ranks: (V,), rank of the label among the scores, from 1 on; 0 if the video has no scores.
        confusion: (C, C), number of videos of the class of the row for which the class of the column has the
            best score.
        num_ignored: number of videos that have scores, but no label.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    ranks: np.ndarray
    confusion: np.ndarray
    num_ignored: int = 0

    def top(self, k: int) -> float:
        """Return the percentage of the videos whose label is among the k best classes."""
        return float(100 * self._within(k).mean())

    def _within(self, k: int) -> np.ndarray:
        return (self.ranks >= 1) & (self.ranks <= k)

    @property
    def num_videos(self) -> np.ndarray:
        """Number of videos of each class, (C,)."""
        return np.bincount(self.labels, minlength=len(self.names))

    @property
    def num_missing(self) -> int:
        """Number of videos without scores."""
        return int((self.ranks == 0).sum())

    def accuracy(self, k: int = 1) -> np.ndarray:
        """Return the percentage of the videos of each class (C,) with `top` k; NaN without videos."""
        correct = np.bincount(self.labels[self._within(k)], minlength=len(self.names))
        with np.errstate(invalid="ignore"):
            return 100 * correct / self.num_videos

    @property
    def mean_class_accuracy(self) -> float:
        """Mean of the accuracies of the classes that have videos."""
        return float(np.nanmean(self.accuracy()))

    def confused_with(self, column: int) -> tuple[str, int] | None:
        """Return the class that the videos of a class are most often confused with, and how often."""
        row = self.confusion[column].copy()
        row[column] = 0
        return (self.names[row.argmax()], int(row.max())) if row.any() else None

    def table(self) -> str:
        """Return a table of the classes that have videos, and the totals."""
        width = max(len(name) for name in ("mean over classes", *self.names))
        lines = [f"{'class':{width}}  {'top-1':>6}  {'top-5':>6}  {'videos':>6}  most often taken for"]
        top1, top5, count = self.accuracy(1), self.accuracy(5), self.num_videos
        for column in np.flatnonzero(count):
            other = self.confused_with(column)
            taken = "" if other is None else f"  {other[0]} ({other[1]})"
            accuracies = f"{top1[column]:6.2f}  {top5[column]:6.2f}"
            lines.append(f"{self.names[column]:{width}}  {accuracies}  {count[column]:6d}{taken}")
        absent = int((count == 0).sum())
        if absent:
            lines.append(f"({absent} classes without videos are not part of the means)")
        lines.append(f"{'mean over classes':{width}}  {np.nanmean(top1):6.2f}  {np.nanmean(top5):6.2f}")
        lines.append(f"{'all videos':{width}}  {self.top(1):6.2f}  {self.top(5):6.2f}  {count.sum():6d}")
        if self.num_missing:
            lines.append(f"{self.num_missing} of {len(self.labels)} videos have no scores and count as wrong")
        if self.num_ignored:
            lines.append(f"{self.num_ignored} videos with scores are not in the ground truth and are ignored")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON data. Accuracies are in percent; that of a class without videos is null."""
        top1, top5 = self.accuracy(1), self.accuracy(5)
        return {
            "top1": self.top(1),
            "top5": self.top(5),
            "mean_class_accuracy": self.mean_class_accuracy,
            "per_class": {
                name: {"top1": _number(top1[c]), "top5": _number(top5[c]), "num_videos": int(count)}
                for c, (name, count) in enumerate(zip(self.names, self.num_videos))
            },
            "confusion": self.confusion.tolist(),
            "num_videos": len(self.labels),
            "num_missing": self.num_missing,
            "num_ignored": self.num_ignored,
        }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def evaluate_classes(
    ground_truth: VideoList, predictions: ClassScores, label_map: LabelMap | None = None
) -> ClassificationResult:
    """Compute the accuracy of class scores.

    A video of the ground truth and a video with scores are the same if the path of one, without suffix, ends
    with that of the other.

    Args:
        ground_truth: its labels number the entries of the label map from 0.
        label_map: None if the classes are numbered ("class 0", ...).

    Raises:
        ConfigError: a label is not in the label map, or its name is not among the classes.
        DataError: no video has scores, or it is ambiguous which scores are those of which video.
    """
    names, labels = _match_classes(ground_truth, predictions, label_map)
    videos = [_without_suffix(name) for name in ground_truth.names]
    row = _match_videos(videos, predictions.videos)
    scored = row >= 0
    if not scored.any():
        raise DataError(
            f"no video of the ground truth, such as {videos[0]}, has scores; the scores are of videos such "
            f"as {predictions.videos[0]}"
        )
    columns = [predictions.classes.index(name) for name in names]
    scores = predictions.scores[row[scored]][:, columns]
    ranks = np.zeros(len(videos), dtype=np.int64)
    ranks[scored] = label_ranks(scores, labels[scored])
    confusion = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(confusion, (labels[scored], _best(scores, labels[scored])), 1)
    return ClassificationResult(
        names, labels, ranks, confusion, len(predictions.videos) - len(np.unique(row[scored]))
    )


def _match_classes(
    ground_truth: VideoList, predictions: ClassScores, label_map: LabelMap | None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of all classes, those of the label map first, and the label of each video."""
    known, highest = set(predictions.classes), int(ground_truth.labels.max())
    if label_map is None:
        label_map = LabelMap.numbered(len(known))
        if not known.issubset(label_map.names):
            raise ConfigError(
                "--label-map: required, because the labels of the ground truth are numbers; pass the label "
                "map of the dataset"
            )
    if highest >= len(label_map):
        raise ConfigError(
            f"line {ground_truth.lines[ground_truth.labels.argmax()]} of the ground truth has the label "
            f"{highest}, but there are {len(label_map)} classes, numbered from 0"
        )
    for label in np.unique(ground_truth.labels):
        name = label_map.names[label]
        if name not in known:
            raise ConfigError(
                f"the class '{name}' of the ground truth is not among the {len(known)} classes of the scores"
                f"{did_you_mean(name, predictions.classes)}; classes are matched by name"
            )
    # Names of the label map that the model lacks have no videos.
    ordered = [name for name in label_map.names if name in known]
    names = (*ordered, *(name for name in predictions.classes if name not in set(ordered)))
    position = {name: column for column, name in enumerate(names)}
    return names, np.array([position[label_map.names[label]] for label in ground_truth.labels])


def _match_videos(videos: Sequence[str], scored: Sequence[str]) -> np.ndarray:
    """Return the index of the scores of each video; -1: none."""
    by_name: dict[str, list[int]] = defaultdict(list)
    for index, video in enumerate(scored):
        by_name[PurePosixPath(video).name].append(index)
    found, video_of, exact = np.full(len(videos), -1, dtype=np.int64), {}, set(videos)
    for number, video in enumerate(videos):
        same = [index for index in by_name[PurePosixPath(video).name] if _is_same(video, scored[index])]
        # Scores with the exact name of another video are those of that video.
        same = [index for index in same if scored[index] == video or scored[index] not in exact]
        same = [index for index in same if scored[index] == video] or same
        if len(same) > 1:
            raise DataError(
                f"the scores of the video {video} are ambiguous: {scored[same[0]]} or {scored[same[1]]}"
            )
        if same:
            found[number] = same[0]
            other = video_of.setdefault(same[0], video)
            if other != video:
                raise DataError(
                    f"the scores of {scored[same[0]]} match two videos of the ground truth: {other}, {video}"
                )
    return found


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in VIDEO_SUFFIXES else name


def _is_same(video: str, other: str) -> bool:
    longer, shorter = sorted((f"/{video.lstrip('/')}", f"/{other.lstrip('/')}"), key=len, reverse=True)
    return longer.endswith(shorter)


def _best(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the class with the best score of each video (V,); in a tie, another one than the label."""
    ties = scores == scores.max(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    ties[rows, labels] &= ties.sum(axis=1) == 1
    return ties.argmax(axis=1)
