"""The options of a job, from a query or from JSON. They have the names and the defaults of the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vmae_det.config.ranges import Range, number
from vmae_det.rendering.class_writers import TIMELINE_WRITERS
from vmae_det.rendering.result_writers import WRITERS
from vmae_det.utils.errors import did_you_mean
from vmae_det.web.errors import RequestError
from vmae_det.web.serve.model import CLASSIFY, DETECT

WHOLE_VIDEO_FORMATS = ("csv", "jsonl")
RANGES = {"every": "[0.01, 1000000]", "threshold": "[0, 1]", "smooth": "[0, 1000000]"}
DEFAULTS: Mapping[str, Mapping[str, float | None]] = {
    DETECT: {"every": 1.0, "threshold": 0.3, "smooth": 2.0},
    CLASSIFY: {"every": None, "threshold": 0.1, "smooth": 0.0},
}


def parse_options(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `every`, `threshold`, `smooth` and `format`, a list in the order in which files are written.

    Args:
        kind: "detect" or "classify".
        given: numbers, or texts of numbers; `format` is a list, or a text with commas.

    Raises:
        RequestError: a name is unknown, or a value is invalid.
    """
    unknown = set(given) - {*RANGES, "format"}
    if unknown:
        name = sorted(unknown)[0][:50]
        raise RequestError(422, f"unknown option '{name}'{did_you_mean(name, [*RANGES, 'format'])}")
    options = {
        name: _number(name, given[name]) if given.get(name) is not None else default
        for name, default in DEFAULTS[kind].items()
    }
    known: Sequence[str] = list(WRITERS if kind == DETECT else TIMELINE_WRITERS)
    if options["every"] is None:
        known = WHOLE_VIDEO_FORMATS
        for name in ("threshold", "smooth"):
            if given.get(name) is not None:
                raise RequestError(422, f"{name}: requires every")
    return options | {"format": _formats(given.get("format"), known, options["every"] is None)}


def _number(name: str, value: Any) -> float:
    allowed: Range = number(RANGES[name])
    try:
        if isinstance(value, bool) or len(str(value)) > 50:
            raise ValueError
        result = float(value)
        allowed.check(result, "")
    except (TypeError, ValueError):
        raise RequestError(
            422, f"{name}: expected a number in {RANGES[name]}, got {str(value)[:50]!r}"
        ) from None
    return result


def _formats(value: Any, known: Sequence[str], is_whole: bool) -> list[str]:
    if value is None:
        return list(known)
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise RequestError(422, "format: expected names separated by commas, or a list of names")
    names = [name.strip() for name in names]
    for name in names:
        if name not in known:
            if is_whole and name in TIMELINE_WRITERS:
                raise RequestError(422, f"format: {name} requires every")
            raise RequestError(422, f"format: unknown format '{name[:50]}'{did_you_mean(name, known)}")
    return [name for name in known if name in names]
