"""Problems of a document: errors of `vmae-det check-data`, and hints at what may be wrong.

Training accepts what a hint is about. Lines that training refuses are errors when the dataset is opened.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from vmae_det.dataset_tools.check.report import KINDS
from vmae_det.formats.box_iou import box_iou
from vmae_det.video.readers.base import is_time_inside
from vmae_det.web.annotate.document import Box, Cell, Document, seconds
from vmae_det.web.frames import VideoFacts

_SAME_IOU = 0.9  # two boxes of one keyframe that overlap more are probably of one person
_SMALL = 8  # pixels; on a smaller side, no action is visible
_FAST = 2.0  # longer sides of the box per second: faster people are rare
_MOMENT = 2.0  # seconds; where somebody is after a longer gap says little


class _Problem(NamedTuple):
    time: int
    person: int | None  # None: the keyframe
    kind: str
    text: str


def find_problems(
    document: Document,
    facts: VideoFacts | None,
    start: float,
    actions: Mapping[int, str],
    poses: frozenset[int],
) -> list[dict[str, Any]]:
    """Return what may be wrong, in the order of time, as {second, person, problem, severity, text}.

    `person` is None for an entire keyframe. `severity` is "error" for the kinds of `check-data`, else "hint".

    Args:
        facts: of the video; None if it cannot be read.
        start: second on the dataset's clock at which the video starts.
        actions: names of the label map, by id.
        poses: ids of the actions of which a person has one at a time.
    """
    cells = sorted(document.cells.items(), key=lambda item: item[0])
    found = [*_same_boxes(cells), *_jumps(cells), *_poses(cells, actions, poses)]
    if facts is not None:
        times = sorted(document.looked | {time for (time, _), _ in cells})
        found += [*_outside_video(times, facts, start), *_small_boxes(cells, facts)]
    found.sort(key=lambda problem: (problem.time, -1 if problem.person is None else problem.person))
    return [
        {
            "second": seconds(time),
            "person": person,
            "problem": kind,
            "severity": "error" if kind in KINDS else "hint",
            "text": text,
        }
        for time, person, kind, text in found
    ]


_Cells = list[tuple[tuple[int, int], Cell]]


def _outside_video(times: list[int], facts: VideoFacts, start: float) -> Iterator[_Problem]:
    for time in times:
        if not is_time_inside(time / 1000 - start, facts.last, facts.rate):
            yield _Problem(time, None, "keyframe_outside_video", KINDS["keyframe_outside_video"])


def _same_boxes(cells: _Cells) -> Iterator[_Problem]:
    for time, group in itertools.groupby(cells, key=lambda item: item[0][0]):
        pairs = list(itertools.combinations(group, 2))
        if not pairs:
            continue
        first, second = (np.array([pair[side][1].box for pair in pairs]) for side in (0, 1))
        for k in np.flatnonzero(box_iou(first, second) > _SAME_IOU):
            ((_, one), _), ((_, other), _) = pairs[k]
            text = f"nearly the box of person {one}: is this one person?"
            yield _Problem(time, other, "same_box", text)


def _jumps(cells: _Cells) -> Iterator[_Problem]:
    last: dict[int, tuple[int, Box]] = {}
    for (time, person), cell in cells:
        before, last[person] = last.get(person), (time, cell.box)
        if before is None or time - before[0] > 1000 * _MOMENT:
            continue
        side = max(_longer_side(cell.box), _longer_side(before[1]))
        if _distance(before[1], cell.box) > _FAST * side * max((time - before[0]) / 1000, 1.0):
            text = f"far from its box at {seconds(before[0]):g} s: is this the same person?"
            yield _Problem(time, person, "jump", text)


def _longer_side(box: Box) -> float:
    return max(box[2] - box[0], box[3] - box[1])


def _distance(a: Box, b: Box) -> float:
    """Return the distance of the centers of two boxes."""
    return float(np.hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3])) / 2


def _poses(cells: _Cells, actions: Mapping[int, str], poses: frozenset[int]) -> Iterator[_Problem]:
    """Several poses, or none if most people of the video have one."""
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)  # by the number of poses
    for key, cell in cells:
        if cell.actions:
            own = [actions[action] for action in cell.actions if action in poses]
            found[len(own)].append(key)
            if len(own) > 1:
                yield _Problem(*key, "several_poses", f"{len(own)} poses: {', '.join(own)}")
    if 2 * len(found[0]) < sum(map(len, found.values())):
        for key in found[0]:
            yield _Problem(*key, "no_pose", "an action, but no pose")


def _small_boxes(cells: _Cells, facts: VideoFacts) -> Iterator[_Problem]:
    for key, cell in cells:
        x1, y1, x2, y2 = cell.box
        width, height = (x2 - x1) * facts.width, (y2 - y1) * facts.height
        if min(width, height) < _SMALL:
            text = f"only {width:.0f} x {height:.0f} pixels of the video"
            yield _Problem(*key, "small_box", text)
