"""The annotations of one video: who is where at which keyframe, and does what.

Times are integer milliseconds on the dataset's clock here, and seconds in JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from vmae_det.utils.errors import UserError

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in [0, 1] of the frame


@dataclass(frozen=True)
class Cell:
    """A person at a keyframe.

    Args:
        box: where the person is.
        actions: ids, ascending; may be empty.
    """

    box: Box
    actions: tuple[int, ...] = ()


# A time with a person id is a cell. A time with None is whether somebody has looked at that keyframe.
Key = tuple[int, int | None]
Value = Cell | bool | None  # None: there is no such cell


class Change(NamedTuple):
    """A value of a document before and after an edit."""

    key: Key
    before: Value
    after: Value


Patch = tuple[Change, ...]


class EditError(UserError):
    """An edit is invalid."""


class EditConflictError(UserError):
    """An edit is based on another state of the document than the present one."""


@dataclass(frozen=True)
class Document:
    """The annotations of a video.

    Args:
        cells: by time and person.
        looked: times of the keyframes that somebody has looked at, among them all those with an action.
        next_person: an id that no person has had.
    """

    cells: Mapping[tuple[int, int], Cell]
    looked: frozenset[int]
    next_person: int = 0

    def get(self, key: Key) -> Value:
        """Return the value of a key."""
        time, person = key
        return time in self.looked if person is None else self.cells.get((time, person))

    def apply(self, patch: Patch) -> Document:
        """Return the changed document.

        Raises:
            EditConflictError: a value is not the one before the change.
        """
        for key, before, _ in patch:
            if self.get(key) != before:
                time, person = key
                who = "whether it was looked at" if person is None else f"person {person}"
                raise EditConflictError(f"second {seconds(time):g}, {who}: has been changed by someone else")
        cells, looked, following = dict(self.cells), set(self.looked), self.next_person
        for (time, person), _, after in patch:
            if person is None:
                (looked.add if after else looked.discard)(time)
            elif after is None:
                cells.pop((time, person), None)
            else:
                cells[time, person] = after
                following = max(following, person + 1)
        return Document(cells, frozenset(looked), following)

    def active_times(self) -> set[int]:
        """Return the keyframes at which someone has an action."""
        return {time for (time, _), cell in self.cells.items() if cell.actions}


def make_patch(document: Document, values: Mapping[Key, Value]) -> Patch:
    """Return what has to change so that a document has the given values.

    A keyframe with an action becomes, or stays, one that was looked at.
    """
    values = dict(values)
    after = document.apply(tuple(Change(key, document.get(key), value) for key, value in values.items()))
    active = after.active_times()
    for time in {time for time, _ in values}:
        if time in active:
            values[time, None] = True
    changes = (Change(key, document.get(key), value) for key, value in sorted(values.items(), key=_order))
    return tuple(change for change in changes if change.before != change.after)


def _order(item: tuple[Key, Value]) -> tuple[int, int]:
    (time, person), _ = item
    return time, -1 if person is None else person


# ---------------------------------------------------------------- JSON


def seconds(time: int) -> float | int:
    """Return seconds, as an integer if possible."""
    return time // 1000 if time % 1000 == 0 else time / 1000


def milliseconds(value: float) -> int:
    """Return the nearest integer milliseconds."""
    return round(value * 1000)


def cell_to_json(cell: Cell) -> dict[str, Any]:
    """Return a cell without its key."""
    return {"box": list(cell.box), "actions": list(cell.actions)}


def document_to_json(document: Document) -> dict[str, Any]:
    """Return `cells` and `looked_at`, in the order of time and person."""
    return {
        "cells": [
            {"second": seconds(time), "person": person, **cell_to_json(cell)}
            for (time, person), cell in sorted(document.cells.items(), key=lambda item: item[0])
        ],
        "looked_at": [seconds(time) for time in sorted(document.looked)],
    }


def document_from_json(content: Mapping[str, Any], next_person: int) -> Document:
    """Return the document that `document_to_json` described."""
    cells = {
        (milliseconds(entry["second"]), entry["person"]): Cell(tuple(entry["box"]), tuple(entry["actions"]))
        for entry in content["cells"]
    }
    return Document(cells, frozenset(map(milliseconds, content["looked_at"])), next_person)


def new_document(cells: Mapping[tuple[int, int], Cell], looked: Iterable[int]) -> Document:
    """Return a document whose next person follows the highest id."""
    following = max((person for _, person in cells), default=-1) + 1
    active = {time for (time, _), cell in cells.items() if cell.actions}
    return Document(dict(cells), frozenset(looked) | active, following)
