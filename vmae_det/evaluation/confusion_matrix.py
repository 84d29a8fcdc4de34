"""Confusion matrices of classification and of multi-label detection: which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Columns after the classes, in the matrix of detections.
NOT_SCORED, NOT_DETECTED = "not scored", "not detected"


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts by annotated class (row) and predicted class (column).

    Args:
        names: C classes.
        counts: (C, C + len(extra)).
        extra: names of columns after the classes.
    """

    names: Sequence[str]
    counts: np.ndarray
    extra: Sequence[str] = ()

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return [*self.names, *self.extra]

    def confused_pairs(self, limit: int | None = None) -> list[tuple[int, int]]:
        """Return the pairs of annotated and other predicted classes, by descending count above 0."""
        wrong = self.counts[:, : len(self.names)].copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[
            : min(limit or wrong.size, np.count_nonzero(wrong))
        ]
        return [divmod(int(flat), len(self.names)) for flat in order]

    def most_confused(self, limit: int) -> list[int]:
        """Return up to `limit` classes in ascending order: those of the most frequent pairs."""
        chosen: dict[int, None] = {}
        for pair in self.confused_pairs():
            larger = chosen | dict.fromkeys(pair)
            if len(larger) > limit:
                break
            chosen = larger
        return sorted(chosen)

    def select(self, classes: Sequence[int], other: str) -> ConfusionMatrix:
        """Return the matrix of some classes. The column `other` has the sum of all others."""
        total = len(self.names)
        rows = self.counts[list(classes)]
        own = rows[:, list(classes)]
        others = rows[:, :total].sum(axis=1) - own.sum(axis=1)
        counts = np.concatenate([own, others[:, None], rows[:, total:]], axis=1)
        return ConfusionMatrix([self.names[c] for c in classes], counts, (other, *self.extra))

    def to_json(self) -> dict[str, Any]:
        """Return a dict for json.dump."""
        return {"rows": list(self.names), "columns": self.columns, "counts": self.counts.tolist()}


def action_confusions(
    names: Sequence[str],
    annotated: tuple[np.ndarray, np.ndarray],
    scored: tuple[np.ndarray, np.ndarray, np.ndarray],
    is_detected: np.ndarray,
) -> ConfusionMatrix:
    """Return the confusion matrix of persons who perform several actions.

    Each annotated action of a person is one count. Its column is the action with the highest score among this
    action and the actions that the person does not perform. In a tie, the wrong action wins. The person's
    other actions are not wrong and are ignored. With one action per person, this is the usual confusion
    matrix.

    Args:
        names: C actions.
        annotated: person (G,) and action (G,).
        scored: person (N,), action (N,) and score (N,) of the detections on persons. If a person has several
            of an action, the highest score counts.
        is_detected: (P,) whether a box reaches the person.

    Returns:
        A matrix with the columns "not scored" (neither the action nor a wrong one has a score) and "not
        detected".
    """
    person, action = annotated
    classes, persons = len(names), len(is_detected)
    scored_person, scored_action, score = scored
    key = scored_person.astype(np.int64) * classes + scored_action
    order = np.argsort(key, kind="stable")
    best = order[_first_maxima(key[order], score[order])]
    key, score = key[best], score[best]
    truth_key = person.astype(np.int64) * classes + action

    own = np.full(len(truth_key), -np.inf)
    if len(key):
        place = np.minimum(np.searchsorted(key, truth_key), len(key) - 1)
        own = np.where(key[place] == truth_key, score[place], own)

    wrong = np.flatnonzero(~np.isin(key, truth_key))
    wrong = wrong[_first_maxima(key[wrong] // classes, score[wrong])]
    best_wrong, best_score = np.full(persons, classes), np.full(persons, -np.inf)
    best_wrong[key[wrong] // classes] = key[wrong] % classes
    best_score[key[wrong] // classes] = score[wrong]

    predicted = np.where(own > best_score[person], action, best_wrong[person])
    predicted = np.where(is_detected[person], predicted, classes + 1)
    counts = np.zeros((classes, classes + 2), dtype=np.int64)
    np.add.at(counts, (action, predicted), 1)
    return ConfusionMatrix(names, counts, (NOT_SCORED, NOT_DETECTED))


def _first_maxima(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the index of the first highest value of each group. The groups (N,) are sorted."""
    if not len(group):
        return np.zeros(0, dtype=np.int64)
    starts = np.flatnonzero(np.diff(group, prepend=group[0] - 1))
    sizes = np.diff(starts, append=len(group))
    highest = np.flatnonzero(values == np.repeat(np.maximum.reduceat(values, starts), sizes))
    return highest[np.flatnonzero(np.diff(group[highest], prepend=group[0] - 1))]
