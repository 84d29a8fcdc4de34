"""The worst errors of a detector or a classifier, by kind and class, as `vmae-det review` shows them.

The kinds of a detector are the causes of `error_analysis` except the cap, and one more:

- outranked: the person is found, but an action that the person does not perform has at least the score of the
  annotated one. These are the cells of the confusion matrix that are not on its diagonal.

False positives are sorted by score, missed persons by size, and outranked actions by the difference of the
two scores. Equal errors are sorted by keyframe and class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vmae_det.evaluation.error_analysis import ErrorAnalysis
from vmae_det.evaluation.evaluators import label_ranks
from vmae_det.formats.box_iou import box_iou

OUTRANKED = "outranked"
KINDS = ("background", "not detected", OUTRANKED, "not scored", "confusion", "loose box", "duplicate")
WRONG_CLASS = "wrong class"  # the only kind of a classifier

Box = tuple[float, ...]  # xyxy in [0, 1] of the frame


@dataclass(frozen=True)
class ListedError:
    """An error. Actions are columns of the label map.

    Attributes:
        kind: one of `KINDS`, or `WRONG_CLASS`.
        column: the class that loses: the detected action of a false positive, else the annotated action.
        score: of this class; None without one.
        video: video id; of a classifier the number of the video in its dataset.
        second: on the dataset's clock; None for a classifier.
        person: id of the annotated person; -1 without a person, or if unknown.
        annotated: actions of this person.
        annotated_box: None if nobody is annotated there.
        detected: actions and scores of the detected box, the best first.
        detected_box: None if nothing is detected there.
        iou: overlap of the two boxes.
    """

    kind: str
    column: int
    score: float | None
    video: str | int
    second: float | None = None
    person: int = -1
    annotated: tuple[int, ...] = ()
    annotated_box: Box | None = None
    detected: tuple[tuple[int, float], ...] = ()
    detected_box: Box | None = None
    iou: float = 0.0


@dataclass(frozen=True)
class WorstErrors:
    """The worst errors of each kind and class, and the number of all.

    Attributes:
        errors: sorted by kind; those of a kind are sorted over all classes, the worst first.
        counts: number of errors of each class (C,), by kind.
    """

    errors: list[ListedError]
    counts: dict[str, np.ndarray]


def worst_errors(analysis: ErrorAnalysis, limit: int) -> WorstErrors:
    """Return the worst errors of a detector, at most `limit` of each kind and class."""
    listing = _Listing(analysis)
    errors, counts = [], {}
    for kind in KINDS:
        candidates = listing.candidates(kind)
        counts[kind] = np.bincount(candidates.column, minlength=len(analysis.label_map))
        order = np.lexsort((candidates.column, candidates.keyframe, -candidates.badness))
        chosen = order[_first_of_each(candidates.column[order], limit)]
        errors += [listing.describe(kind, candidates, index) for index in chosen.tolist()]
    return WorstErrors(errors, counts)


def worst_classes(scores: np.ndarray, labels: np.ndarray, limit: int) -> WorstErrors:
    """Return the misclassified videos with the highest score of a wrong class, at most `limit` of each class.

    A tie counts as wrong, as in `label_ranks`.

    Args:
        scores: (V, C), probabilities.
        labels: (V,), columns of `scores`.
    """
    wrong = np.flatnonzero(label_ranks(scores, labels) > 1)
    rivals = scores[wrong].copy()
    rivals[np.arange(len(wrong)), labels[wrong]] = -np.inf
    order = wrong[np.argsort(-rivals.max(axis=1, initial=-np.inf), kind="stable")]
    errors = []
    for video in order[_first_of_each(labels[order], limit)].tolist():
        label = int(labels[video])
        # In a tie, the wrong class is the predicted one.
        ranked = np.lexsort((np.arange(scores.shape[1]) == label, -scores[video])).tolist()
        detected = tuple((column, float(scores[video, column])) for column in ranked)
        score = float(scores[video, label])
        errors.append(ListedError(WRONG_CLASS, label, score, video, annotated=(label,), detected=detected))
    return WorstErrors(errors, {WRONG_CLASS: np.bincount(labels[wrong], minlength=scores.shape[1])})


class _Candidates(NamedTuple):
    """All errors of a kind.

    Attributes:
        column: (E,) class.
        keyframe: (E,).
        detection: (E,) index of a detection, -1 without one.
        person: (E,) annotated person, -1 without one.
        score: (E,) of the class, -inf without one.
        badness: (E,) the worst error has the highest.
    """

    column: np.ndarray
    keyframe: np.ndarray
    detection: np.ndarray
    person: np.ndarray
    score: np.ndarray
    badness: np.ndarray


class _Listing:
    """Selects the errors of an analysis, and describes them."""

    def __init__(self, analysis: ErrorAnalysis) -> None:
        self.errors = analysis.errors
        self.truth, self.detections = self.errors.matches.ground_truth, self.errors.matches.detections
        self.nearest_box, self.nearest_iou = self.errors.nearest_boxes()
        self.rows_of_person = _Groups(self.errors.person_of_truth)
        self.rows_of_box = _Groups(self.errors.box)

    def candidates(self, kind: str) -> _Candidates:
        """Return all errors of a kind."""
        if kind == OUTRANKED:
            _, own, rival = self.errors.predicted_actions()
            rows = np.flatnonzero(rival >= 0)
            difference = self.detections.score[rival[rows]] - np.where(np.isfinite(own), own, 0)[rows]
            return self._missed(rows, rival[rows], own[rows], difference)
        rows = self.errors.of(kind)
        if kind in ("not scored", "not detected"):
            person = self.errors.person_of_truth[rows]
            x1, y1, x2, y2 = self.truth.source.boxes[self.truth.row[rows]].T
            nearest = np.where(self.nearest_iou[person] > 0, self.nearest_box[person], -1)
            return self._missed(rows, nearest, np.full(len(rows), -np.inf), (x2 - x1) * (y2 - y1))
        if kind == "background":
            person = np.full(len(rows), -1)
        elif kind == "confusion":
            person = self.errors.person[rows]
        else:
            person = self.errors.person_of_truth[self.errors.matches.best_box()[rows]]
        found = self.detections.select(rows)
        return _Candidates(found.column, found.keyframe, rows, person, found.score, badness=found.score)

    def _missed(
        self, rows: np.ndarray, detection: np.ndarray, score: np.ndarray, badness: np.ndarray
    ) -> _Candidates:
        """Return the errors of ground-truth rows."""
        column, keyframe = self.truth.column[rows], self.truth.keyframe[rows]
        return _Candidates(column, keyframe, detection, self.errors.person_of_truth[rows], score, badness)

    def describe(self, kind: str, candidates: _Candidates, index: int) -> ListedError:
        """Return one of the candidates."""
        column, _, detection, person, score, _ = (values[index].item() for values in candidates)
        error = {}
        if detection >= 0:
            source, row = self.detections.source, self.detections.row[detection]
            rows = self.rows_of_box[self.errors.box[detection]]
            rows = rows[np.argsort(-self.detections.score[rows], kind="stable")]
            actions = zip(self.detections.column[rows].tolist(), self.detections.score[rows].tolist())
            error |= {"detected": tuple(actions), "detected_box": source.boxes[row]}
        if person >= 0:
            source, row = self.truth.source, self.truth.row[self.errors.first_of_person[person]]
            actions = self.truth.column[self.rows_of_person[person]]
            error |= {"annotated": tuple(actions.tolist()), "annotated_box": source.boxes[row]}
            error["person"] = int(source.person[row])
        boxes = [error[name] for name in ("annotated_box", "detected_box") if name in error]
        if len(boxes) == 2:
            error["iou"] = box_iou(boxes[0][None], boxes[1][None]).item()
        error |= {name: tuple(box.tolist()) for name, box in error.items() if name.endswith("_box")}
        video, second = str(source.videos[source.video[row]]), float(source.timestamp[row])
        return ListedError(kind, column, score if np.isfinite(score) else None, video, second, **error)


class _Groups:
    """The rows of each group, of the number of its group for each row (N,)."""

    def __init__(self, group: np.ndarray) -> None:
        self._order = np.argsort(group, kind="stable")
        self._starts = np.searchsorted(group[self._order], np.arange(group.max(initial=-1) + 2))

    def __getitem__(self, number: int) -> np.ndarray:
        return self._order[self._starts[number] : self._starts[number + 1]]


def _first_of_each(group: np.ndarray, limit: int) -> np.ndarray:
    """Return the indices of the first `limit` members of each group (N,), ascending."""
    order = np.argsort(group, kind="stable")
    rank = np.arange(len(group)) - np.searchsorted(group[order], group[order])
    return np.sort(order[rank < limit])
