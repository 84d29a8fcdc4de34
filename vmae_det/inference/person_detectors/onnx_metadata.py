"""The metadata of an ONNX detector, as Ultralytics writes it: task, class names, picture size."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vmae_det.formats.person_boxes import PERSON_NAMES
from vmae_det.utils.errors import WeightsError

_TASKS = ("detect", "segment", "pose")
_LONGEST = 100_000  # characters of a value; a thousand class names take a fifth of it


@dataclass(frozen=True)
class OnnxMetadata:
    """Facts about a detector; each is None, or empty, where the file says nothing.

    Args:
        names: of the classes, by class id.
        task: detect, segment or pose.
        end_to_end: overlapping boxes have been removed in the file.
        size: height and width of the pictures.
        stride: both are multiples of it.
        keypoints: numbers that belong to the keypoints of each box.
    """

    names: dict[int, str] | None = None
    task: str = ""
    end_to_end: bool | None = None
    size: tuple[int, int] | None = None
    stride: int = 1
    keypoints: int | None = None

    @property
    def classes(self) -> int | None:
        """How many class ids there are."""
        return None if self.names is None else max(self.names) + 1


def parse_onnx_metadata(custom: Mapping[str, str], source: str) -> OnnxMetadata:
    """The facts in an ONNX file's custom metadata.

    Raises:
        WeightsError: a value cannot be understood, the task is another one, or no class is a person.
    """

    def parse(key: str, kind: tuple[type, ...], expected: str) -> Any:
        text = custom.get(key, "").strip()
        if not text:
            return None
        try:
            value = ast.literal_eval(text) if len(text) <= _LONGEST else None
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
        if not isinstance(value, kind):
            raise WeightsError(f"{source}: its metadata has {key} = {text[:80]!r}; expected {expected}")
        return value

    task = custom.get("task", "").strip().lower()
    if task and task not in _TASKS:
        raise WeightsError(
            f"{source}: its metadata says task '{task[:40]}'; a person detector is of the task "
            "detect, segment or pose"
        )
    names = parse("names", (dict, list, tuple), "a mapping of class ids to names, or a list of names")
    size = parse("imgsz", (int, list, tuple), "height and width")
    stride = parse("stride", (int,), "a number of pixels")
    shape = parse("kpt_shape", (list, tuple), "how many keypoints, of how many numbers each")
    end_to_end = parse("end2end", (bool,), "True or False")
    sizes = [size, size] if isinstance(size, int) else size
    for key, values, count in (("imgsz", sizes, 2), ("kpt_shape", shape, 2), ("stride", [stride or 1], 1)):
        if values is not None and not (
            len(values) == count and all(isinstance(value, int) and 0 < value <= 1 << 14 for value in values)
        ):
            raise WeightsError(f"{source}: its metadata has {key} = {custom[key][:80]!r}")
    return OnnxMetadata(
        names=None if names is None else _class_names(names, source),
        task=task,
        end_to_end=end_to_end,
        size=tuple(sizes) if sizes else None,
        stride=stride or 1,
        keypoints=shape[0] * shape[1] if shape else None,
    )


def person_classes(names: Mapping[int, str]) -> list[int]:
    """Ids of the classes that are people, by their names."""
    return [key for key, name in names.items() if name.strip().lower() in PERSON_NAMES]


def _class_names(names: dict | list | tuple, source: str) -> dict[int, str]:
    """Names by class id, one of which is a person's."""
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    try:
        result = {int(key): str(name) for key, name in pairs}
    except (TypeError, ValueError):
        result = {}
    if not result or min(result) < 0 or max(result) >= _LONGEST:
        raise WeightsError(
            f"{source}: its metadata has names = {str(names)[:80]!r}; expected a name for each class id"
        )
    if not person_classes(result):
        shown = ", ".join(list(result.values())[:10]) + (", ..." if len(result) > 10 else "")
        raise WeightsError(f"{source}: none of its {len(result)} classes is a person: {shown[:300]}")
    return result
