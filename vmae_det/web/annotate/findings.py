"""Problems of a document, with the kinds and texts of `vmae-det check-data`."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

from vmae_det.dataset_tools.check.report import KINDS
from vmae_det.video.readers.base import is_time_inside
from vmae_det.web.annotate.document import Document, seconds

_SAME = 0.01  # of the frame: sides of two boxes that differ by less are the same


def find_problems(document: Document, start: float, last: float | None, rate: float) -> list[dict[str, Any]]:
    """Return what is wrong, as {second, person, problem, text}; `person` is None for an entire keyframe.

    Args:
        start: second on the dataset's clock at which the video starts.
        last: second at which its last frame starts, from the first one on; None if it is not readable.
        rate: frames per second.
    """
    people: dict[int, list[tuple[int, tuple[float, ...]]]] = defaultdict(list)
    for (time, person), cell in sorted(document.cells.items(), key=lambda item: item[0]):
        people[time].append((person, cell.box))
    found = []
    for time in sorted(document.looked | people.keys()):
        if last is not None and not is_time_inside(time / 1000 - start, last, rate):
            found.append(_problem(time, None, "keyframe_outside_video", KINDS["keyframe_outside_video"]))
        for (first, box), (second, other) in itertools.combinations(people[time], 2):
            if all(abs(a - b) < _SAME for a, b in zip(box, other)):
                text = f"the same box as person {first}: is this one person?"
                found.append(_problem(time, second, "duplicate_row", text))
    return found


def _problem(time: int, person: int | None, kind: str, text: str) -> dict[str, Any]:
    return {"second": seconds(time), "person": person, "problem": kind, "text": text}
