"""The metadata that Ultralytics writes to ONNX detectors: task, class names, image size."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vmae_det.inference.person_detectors.interface import person_classes
from vmae_det.utils.errors import WeightsError

_TASKS = ("detect", "segment", "pose")
_MAX_LENGTH = 100_000  # characters of a value; a thousand class names take a fifth of it


@dataclass(frozen=True)
class OnnxMetadata:
    """Metadata of a detector; a field is None, or empty, if the file does not have it.

    Args:
        names: class names by class id.
        task: detect, segment or pose.
        end_to_end: whether the graph includes NMS.
        size: height and width of the images.
        stride: height and width are multiples of it.
        keypoints: number of values that the keypoints of a box have.
    """

    names: dict[int, str] | None = None
    task: str = ""
    end_to_end: bool | None = None
    size: tuple[int, int] | None = None
    stride: int = 1
    keypoints: int | None = None

    @property
    def num_classes(self) -> int | None:
        """Number of class ids; None without names."""
        return None if self.names is None else max(self.names) + 1


def parse_onnx_metadata(custom: Mapping[str, str], source: str) -> OnnxMetadata:
    """Parse the custom metadata of an ONNX file.

    Args:
        source: name of the file, for messages.

    Raises:
        WeightsError: a value cannot be parsed, the task is not supported, or no class is a person.
    """

    def parse(key: str, types: tuple[type, ...], expected: str) -> Any:
        text = custom.get(key, "").strip()
        if not text:
            return None
        try:
            value = ast.literal_eval(text) if len(text) <= _MAX_LENGTH else None
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
        if not isinstance(value, types):
            raise WeightsError(f"{source}: metadata: {key} = {text[:80]!r}; expected {expected}")
        return value

    task = custom.get("task", "").strip().lower()
    if task and task not in _TASKS:
        raise WeightsError(
            f"{source}: metadata: task '{task[:40]}'; a person detector has the task detect, segment or pose"
        )
    names = parse("names", (dict, list, tuple), "a mapping of class ids to names, or a list of names")
    size = parse("imgsz", (int, list, tuple), "height and width")
    stride = parse("stride", (int,), "a number of pixels")
    keypoint_shape = parse("kpt_shape", (list, tuple), "the number of keypoints and of values per keypoint")
    end_to_end = parse("end2end", (bool,), "True or False")
    sizes = [size, size] if isinstance(size, int) else size
    lengths = (("imgsz", sizes, 2), ("kpt_shape", keypoint_shape, 2), ("stride", [stride or 1], 1))
    for key, values, length in lengths:
        if values is not None and not (
            len(values) == length and all(isinstance(value, int) and 0 < value <= 1 << 14 for value in values)
        ):
            raise WeightsError(f"{source}: metadata: invalid {key} = {custom[key][:80]!r}")
    return OnnxMetadata(
        names=None if names is None else _check_names(names, source),
        task=task,
        end_to_end=end_to_end,
        size=tuple(sizes) if sizes else None,
        stride=stride or 1,
        keypoints=keypoint_shape[0] * keypoint_shape[1] if keypoint_shape else None,
    )


def _check_names(names: dict | list | tuple, source: str) -> dict[int, str]:
    """Return class names by class id; raise a WeightsError if they are invalid or none is a person."""
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    try:
        result = {int(key): str(name) for key, name in pairs}
    except (TypeError, ValueError):
        result = {}
    if not result or min(result) < 0 or max(result) >= _MAX_LENGTH:
        raise WeightsError(
            f"{source}: metadata: names = {str(names)[:80]!r}; expected a name for each class id"
        )
    if not person_classes(result):
        shown = ", ".join(list(result.values())[:10]) + (", ..." if len(result) > 10 else "")
        raise WeightsError(f"{source}: none of its {len(result)} classes is a person: {shown[:300]}")
    return result
