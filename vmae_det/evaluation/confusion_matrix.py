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


def count_confusions(names: Sequence[str], action: np.ndarray, predicted: np.ndarray) -> ConfusionMatrix:
    """Return the confusion matrix of annotated actions (G,) and the result (G,) of `predicted_actions`."""
    counts = np.zeros((len(names), len(names) + 2), dtype=np.int64)
    np.add.at(counts, (action, predicted), 1)
    return ConfusionMatrix(names, counts, (NOT_SCORED, NOT_DETECTED))


def predicted_actions(
    classes: int,
    annotated: tuple[np.ndarray, np.ndarray],
    scored: tuple[np.ndarray, np.ndarray, np.ndarray],
    is_detected: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which action each annotated action of a person is taken for.

    That is the action with the highest score among this action and the actions that the person does not
    perform. In a tie, the wrong action wins. The person's other actions are not wrong and are ignored. With
    one action per person, this is the usual prediction.

    Args:
        classes: number of actions.
        annotated: person (G,) and action (G,).
        scored: person (N,), action (N,) and score (N,) of the detections on persons. If a person has several
            of an action, the highest score counts.
        is_detected: (P,) whether a box reaches the person.

    Returns:
        The predicted action (G,): `classes` if neither the action nor a wrong one has a score, `classes` + 1
        if the person is not detected. The score of the annotated action (G,), -inf without one. The row of
        `scored` that outranks it (G,), -1 if none does.
    """
    person, action = annotated
    persons = len(is_detected)
    scored_person, scored_action, score = scored
    key = scored_person.astype(np.int64) * classes + scored_action
    order = np.argsort(key, kind="stable")
    row = order[_first_maxima(key[order], score[order])]
    key, score = key[row], score[row]
    truth_key = person.astype(np.int64) * classes + action

    own = np.full(len(truth_key), -np.inf)
    if len(key):
        place = np.minimum(np.searchsorted(key, truth_key), len(key) - 1)
        own = np.where(key[place] == truth_key, score[place], own)

    wrong = np.flatnonzero(~np.isin(key, truth_key))
    wrong = wrong[_first_maxima(key[wrong] // classes, score[wrong])]
    best_wrong = np.full(persons, -1)  # index in key
    best_wrong[key[wrong] // classes] = wrong
    rival = best_wrong[person]
    rival_score = np.append(score, -np.inf)[rival]
    wins = is_detected[person] & (rival >= 0) & (rival_score >= own)
    predicted = np.select(
        [~is_detected[person], wins, own > -np.inf],
        [classes + 1, np.append(key, 0)[rival] % classes, action],
        classes,
    )
    return predicted, own, np.where(wins, np.append(row, -1)[rival], -1)


def _first_maxima(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the index of the first highest value of each group. The groups (N,) are sorted."""
    if not len(group):
        return np.zeros(0, dtype=np.int64)
    starts = np.flatnonzero(np.diff(group, prepend=group[0] - 1))
    sizes = np.diff(starts, append=len(group))
    highest = np.flatnonzero(values == np.repeat(np.maximum.reduceat(values, starts), sizes))
    return highest[np.flatnonzero(np.diff(group[highest], prepend=group[0] - 1))]
