"""Which of the names on a box are actions.

Tools differ in where an action stands: the class of the box ("wave"), or an attribute of a box of class
"person". One rule for all: what attributes say are actions; a class is an action unless boxes of that class
say actions by attributes somewhere; a class that a given label map holds always is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from vmae_det.dataset_tools.importers.tracks import Point

# Attributes that name the person; those that do so if their values look like it; and those by which tools
# describe the box itself.
_IDENTITY = frozenset(
    ("person_id", "person id", "personid", "track_id", "track id", "trackid", "instance_id", "instance id")
)
_PERHAPS_IDENTITY = frozenset(("person", "id", "identity"))
_OF_THE_BOX = frozenset(
    ("occluded", "truncated", "difficult", "outside", "keyframe", "rotation", "iscrowd", "crowd")
)
_UNSET = frozenset(("", "none", "null", "n/a", "-", "__undefined__", "_default", "false"))


def clean_name(text: str) -> str:
    """A name as a label map can hold it: single blanks, no double quotes, no backslashes."""
    text = text.encode("utf-8", "replace").decode("utf-8")  # JSON can hold halves of characters
    return " ".join(text.replace('"', "'").replace("\\", "/").split())


class Identities:
    """Which attributes say who a person is: judged by their names, their types and all of their values.

    An attribute called `person_id` or alike does, unless it can have several values at once or is a checkbox.
    One called `person` or `id` does if besides all of its values look like ids: "2", "p2", "person 2", "A".
    """

    def __init__(self) -> None:
        self._values: dict[str, set[str]] = defaultdict(set)
        self._several: set[str] = set()

    def add(self, name: str, values: Iterable[str], several: bool = False) -> None:
        """Take note of values of an attribute; `several`: it can have more than one at once."""
        name = clean_name(name).lower()
        if name in _IDENTITY or name in _PERHAPS_IDENTITY:
            found = {clean_name(value) for value in values}
            self._values[name] |= {value for value in found if value.lower() not in _UNSET}
            if several or any(value.lower() == "true" for value in found):
                self._several.add(name)

    def __contains__(self, name: str) -> bool:
        name = clean_name(name).lower()
        if name in self._several or not self._values.get(name):
            return False
        return name in _IDENTITY or all(map(_looks_like_id, self._values[name]))

    def remarks(self) -> list[str]:
        """What was read as identity, and what was not although its name suggests it."""
        found = []
        for name, values in sorted(self._values.items()):
            some = ", ".join(sorted(values)[:3]) + (", ..." if len(values) > 3 else "")
            if name in self:
                found.append(f"the attribute '{name}' is read as who a person is ({some})")
            elif values:
                found.append(f"the attribute '{name}' is read as actions ({some}), not as who a person is")
        return found


def _looks_like_id(value: str) -> bool:
    return len(value) <= 2 or any(character.isdigit() for character in value)


def attribute_actions(
    name: str, value: str | bool, identities: Identities | tuple[()] = ()
) -> tuple[tuple[str, str], ...]:
    """(attribute, action) pairs of an attribute's value: its name if it is true, a text itself; none for
    numbers, unset values, and attributes that describe box or person."""
    name = clean_name(name)
    if name in identities or name.lower() in _OF_THE_BOX:
        return ()
    text = clean_name(str(value))
    if text.lower() == "true":
        return ((name, name),) if name else ()
    if text.lower() in _UNSET or is_number(text):
        return ()
    return ((name, text),)


def is_number(text: str) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


class ActionRule:
    """Says the actions of a point.

    Args:
        points: all there are.
        known: names of a given label map.
        ignored: classes, attributes and actions to pass over.
    """

    def __init__(self, points: Iterable[Point], known: frozenset[str], ignored: frozenset[str]) -> None:
        self._ignored = ignored
        with_actions: set[str] = set()
        for point in points:
            if self._said(point):
                with_actions.update(point.labels)
        self._objects = with_actions - known

    def ignores(self, point: Point) -> bool:
        """Whether all classes of a box are to be passed over."""
        return bool(point.labels) and self._ignored.issuperset(point.labels)

    def actions(self, point: Point) -> tuple[str, ...]:
        """The names of a point's actions."""
        classes = [name for name in point.labels if name and name not in self._objects | self._ignored]
        return tuple(dict.fromkeys(classes + self._said(point)))

    def _said(self, point: Point) -> list[str]:
        return [
            action
            for name, action in point.attributes
            if name not in self._ignored and action not in self._ignored
        ]
