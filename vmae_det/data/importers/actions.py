"""Which of the names on a box are actions.

Tools differ in where an action stands: the class of the box ("wave"), or an attribute of a box of class
"person". One rule for all: what attributes say are actions; a class is an action unless boxes of that class
say actions by attributes somewhere; a class that a given label map holds always is.
"""

from __future__ import annotations

from collections.abc import Iterable

from vmae_det.data.importers.tracks import Point

# Attributes that name the person, and those by which tools describe the box itself.
PERSON_NAMES = frozenset(("person_id", "person id", "person", "track_id", "track id", "instance_id", "id"))
_OF_THE_BOX = frozenset(
    ("occluded", "truncated", "difficult", "outside", "keyframe", "rotation", "iscrowd", "crowd")
)
_UNSET = frozenset(("", "none", "null", "n/a", "-", "__undefined__", "_default", "false"))


def clean_name(text: str) -> str:
    """A name as a label map can hold it: single blanks, no double quotes, no backslashes."""
    text = text.encode("utf-8", "replace").decode("utf-8")  # JSON can hold halves of characters
    return " ".join(text.replace('"', "'").replace("\\", "/").split())


def attribute_actions(name: str, value: str | bool) -> tuple[tuple[str, str], ...]:
    """(attribute, action) pairs of an attribute's value: its name if it is true, a text itself; none for
    numbers, unset values, and attributes that describe box or person."""
    name = clean_name(name)
    if name.lower() in PERSON_NAMES or name.lower() in _OF_THE_BOX:
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
