"""Edits of a document: the patches that a page sends, checked.

The page computes what an edit changes, and shows it at once. It sends the values before and after, so that
nothing is overwritten that the annotator did not see. Undo and redo are patches, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vmae_det.formats.box_csv import BoxRule, box_problem
from vmae_det.formats.person_boxes import MAX_PERSONS
from vmae_det.web.annotate.document import (
    Cell,
    Change,
    Document,
    EditConflictError,
    EditError,
    Key,
    Patch,
    Value,
    make_patch,
    milliseconds,
    seconds,
)

MAX_CHANGES = 100_000  # of an edit
MAX_PERSON = 2**31 - 1  # as in the CSV
_RULE = BoxRule(tolerance=0.0, allow_empty=False)


@dataclass(frozen=True)
class Rules:
    """What edits of a video may contain.

    Args:
        keyframes: times of all keyframes, ascending.
        actions: names of the label map, by id.
        poses: ids of the actions of which a person has at most one.
        original: cells of the files. Undo may restore them, although no other edit could create some of them.
    """

    keyframes: Sequence[int]
    actions: Mapping[int, str]
    poses: frozenset[int] = frozenset()
    original: Mapping[tuple[int, int], Cell] = field(default_factory=dict)

    @cached_property
    def keyframe_set(self) -> frozenset[int]:
        """The keyframes."""
        return frozenset(self.keyframes)


def patch_of(document: Document, rules: Rules, content: Any, new_people: Any = ()) -> Patch:
    """Return what the JSON of a patch changes in a document; nothing if it has been applied already.

    A keyframe at which someone has an action stays one that was looked at.

    Args:
        content: list of {second, person, before, after}, without `person` where it says what was looked at.
        new_people: ids of people that the patch creates.

    Raises:
        EditError: the patch is invalid.
        EditConflictError: a value is not the one before the change, or a new person exists.
    """
    patch = read_patch(rules, content)
    if all(document.get(key) == after for key, _, after in patch):
        return ()
    document.apply(patch)
    created = {_read_person(person) for person in _list(new_people, "new_people")}
    taken = created & {person for _, person in document.cells}
    if taken:
        raise EditConflictError(f"person {min(taken)} has been added by someone else")
    patch = make_patch(document, {key: after for key, _, after in patch})
    _check_counts(document.apply(patch), {time for (time, _), _, _ in patch})
    return patch


def read_patch(rules: Rules, content: Any) -> Patch:
    """Return the patch that JSON describes; raise EditError if it is invalid."""
    if len(_list(content, "patch")) > MAX_CHANGES:
        raise EditError(
            f"patch: expected at most {MAX_CHANGES} changes, got {len(content)}; use a shorter range"
        )
    changes: dict[Key, Change] = {}
    for entry in content:
        if not isinstance(entry, dict) or not {"second", "before", "after"} <= entry.keys():
            raise EditError(f"patch: expected changes with second, before and after, got {entry!r:.100}")
        key = _read_time(rules, entry["second"]), _read_person(entry["person"]) if "person" in entry else None
        if key in changes:
            raise EditError(f"patch: changes second {entry['second']:g}, person {key[1]} twice")
        before, after = (_read_value(rules, key, entry[part]) for part in ("before", "after"))
        if isinstance(after, Cell) and after != rules.original.get(key):
            _check_cell(rules, after)
        changes[key] = Change(key, before, after)
    return tuple(changes.values())


def _read_time(rules: Rules, value: Any) -> int:
    if not _is_number(value) or not abs(value) <= 1e9:
        raise EditError(f"second: expected seconds, got {value!r:.50}")
    time = milliseconds(value)
    if time not in rules.keyframe_set:
        raise EditError(f"second {value:g} is no keyframe of this video")
    return time


def _read_person(value: Any) -> int:
    if not _is_integer(value) or not 0 <= value <= MAX_PERSON:
        raise EditError(f"person: expected an id from 0 to {MAX_PERSON}, got {value!r:.50}")
    return value


def _read_value(rules: Rules, key: Key, value: Any) -> Value:
    if key[1] is None:
        if not isinstance(value, bool):
            raise EditError(f"looked at: expected true or false, got {value!r:.50}")
        return value
    if value is None:
        return None
    if not isinstance(value, dict) or value.keys() != {"box", "actions"}:
        raise EditError(
            f"person {key[1]}: expected an object with box and actions, or null, got {value!r:.100}"
        )
    box = _list(value["box"], "box")
    if len(box) != 4 or not all(map(_is_number, box)):
        raise EditError(f"box: expected four numbers x1, y1, x2, y2, got {box!r:.100}")
    # As in the files. Rounding fails for infinity and NaN, which JSON in Python allows.
    if not all(abs(side) < 1e6 for side in box):
        raise EditError(f"box: expected four numbers x1, y1, x2, y2, got {box!r:.100}")
    actions = _list(value["actions"], "actions")
    for action in actions:
        if not _is_integer(action) or action not in rules.actions:
            raise EditError(f"actions: the label map has no action {action!r:.50}")
    return Cell(tuple(round(float(side), 6) for side in box), tuple(sorted(set(actions))))


def _check_cell(rules: Rules, cell: Cell) -> None:
    if problem := box_problem(cell.box, _RULE):
        raise EditError(f"box: {problem.partition(';')[0]}")
    poses = [rules.actions[action] for action in cell.actions if action in rules.poses]
    if len(poses) > 1:
        raise EditError(f"actions: a person has one pose at a time, got {' and '.join(poses)}")


def _check_counts(document: Document, times: set[int]) -> None:
    counts = Counter(time for time, _ in document.cells if time in times)
    for time, count in counts.most_common(1):
        if count > MAX_PERSONS:
            raise EditError(f"second {seconds(time):g}: at most {MAX_PERSONS} people fit into a keyframe")


def _list(value: Any, name: str) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise EditError(f"{name}: expected a list, got {value!r:.50}")
    return value


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
