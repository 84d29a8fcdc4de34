"""Decides which labels and attributes of a box are actions.

Tools store an action either as the class of the box ("wave") or as an attribute of a box of class "person".
One rule covers both. Values of attributes are actions. A class is an action unless boxes of that class have
actions in attributes somewhere. A class in a given label map is always an action.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from vmae_det.dataset_tools.importers.tracks import TrackPoint
from vmae_det.formats.person_boxes import PERSON_NAMES

# Attributes that identify the person; attributes that do so if their values look like ids; and attributes
# that describe the box itself.
_IDENTITY_NAMES = frozenset(
    ("person_id", "person id", "personid", "track_id", "track id", "trackid", "instance_id", "instance id")
)
_POSSIBLE_IDENTITY_NAMES = frozenset(("person", "id", "identity"))
_BOX_ATTRIBUTES = frozenset(
    ("occluded", "truncated", "difficult", "outside", "keyframe", "rotation", "iscrowd", "crowd")
)
_UNSET = frozenset(("", "none", "null", "n/a", "-", "__undefined__", "_default", "false"))


def clean_name(text: str) -> str:
    """Return a name that a label map can store: single spaces, no double quotes, no backslashes."""
    text = text.encode("utf-8", "replace").decode("utf-8")  # JSON strings can contain lone surrogates
    return " ".join(text.replace('"', "'").replace("\\", "/").split())


class IdentityAttributes:
    """The attributes that identify a person, found by their names, their types and all of their values.

    An attribute with a name such as `person_id` does, unless it can have several values or is a checkbox. An
    attribute called `person` or `id` does if all of its values also look like ids: "2", "p2", "person 2",
    "A".
    """

    def __init__(self) -> None:
        self._values: dict[str, set[str]] = defaultdict(set)
        self._multi_valued: set[str] = set()

    def add(self, name: str, values: Iterable[str], multi_valued: bool = False) -> None:
        """Record values of an attribute; `multi_valued`: it can have several values, or is a checkbox."""
        name = clean_name(name).lower()
        if name in _IDENTITY_NAMES or name in _POSSIBLE_IDENTITY_NAMES:
            found = {clean_name(value) for value in values}
            self._values[name] |= {value for value in found if value.lower() not in _UNSET}
            if multi_valued or any(value.lower() == "true" for value in found):
                self._multi_valued.add(name)

    def __contains__(self, name: str) -> bool:
        name = clean_name(name).lower()
        if name in self._multi_valued or not self._values.get(name):
            return False
        return name in _IDENTITY_NAMES or all(map(_looks_like_id, self._values[name]))

    def notes(self) -> list[str]:
        """Return how each attribute with the name of an identity was interpreted."""
        found = []
        for name, values in sorted(self._values.items()):
            examples = ", ".join(sorted(values)[:3]) + (", ..." if len(values) > 3 else "")
            if name in self:
                found.append(f"attribute '{name}' is interpreted as the person's identity ({examples})")
            elif values:
                found.append(
                    f"attribute '{name}' is interpreted as actions ({examples}), not as the person's identity"
                )
        return found


def _looks_like_id(value: str) -> bool:
    return len(value) <= 2 or any(character.isdigit() for character in value)


def attribute_actions(
    name: str, value: str | bool, identities: IdentityAttributes | tuple[()] = ()
) -> tuple[tuple[str, str], ...]:
    """Return the (attribute, action) pairs of an attribute's value.

    The action is the attribute's name if the value is true, and the value itself if it is a string. Numbers,
    unset values, and attributes that describe the box or the person are not actions.
    """
    name = clean_name(name)
    if name in identities or name.lower() in _BOX_ATTRIBUTES:
        return ()
    text = clean_name(str(value))
    if text.lower() == "true":
        return ((name, name),) if name else ()
    if text.lower() in _UNSET or _is_number(text):
        return ()
    return ((name, text),)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class ActionResolver:
    """Returns the actions of a point, by the rule of this module.

    Args:
        points: all points of the import.
        known: action names of a given label map.
        ignored: classes, attributes and actions to ignore.
    """

    def __init__(self, points: Iterable[TrackPoint], known: frozenset[str], ignored: frozenset[str]) -> None:
        self._ignored = ignored
        with_actions: set[str] = set()
        for point in points:
            if self._attribute_actions(point):
                with_actions.update(point.labels)
        self._object_classes = with_actions - known

    def is_ignored(self, point: TrackPoint) -> bool:
        """Return whether all classes of a box are ignored.

        A box of an ignored class such as "person" that has no other action is a person without an action.
        """
        if not point.labels or not self._ignored.issuperset(point.labels):
            return False
        is_person = PERSON_NAMES.issuperset(label.lower() for label in point.labels)
        return not is_person or bool(self._attribute_actions(point))

    def actions(self, point: TrackPoint) -> tuple[str, ...]:
        """Return the names of a point's actions."""
        excluded = self._object_classes | self._ignored
        classes = [name for name in point.labels if name and name not in excluded]
        return tuple(dict.fromkeys(classes + self._attribute_actions(point)))

    def _attribute_actions(self, point: TrackPoint) -> list[str]:
        return [
            action
            for name, action in point.attributes
            if name not in self._ignored and action not in self._ignored
        ]
