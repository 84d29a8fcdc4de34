"""What every format is read into: videos with tracks of boxes at numbered frames."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Box = tuple[float, float, float, float]
PERCENT = (100.0, 100.0)  # the `extent` of boxes in percent of the frame


class Point(NamedTuple):
    """A box at a frame of a track.

    Args:
        frame: number of the frame, as the file counts.
        box: xyxy in the units of the video's `extent`; None where the person is not to be seen.
        labels: classes of the box; they are its actions where no attribute says what is done.
        attributes: (name of the attribute, action that it says).
        goes_on: the box is there after this frame, too, up to the next point of the track.
    """

    frame: int
    box: Box | None
    labels: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...] = ()
    goes_on: bool = False


class Range(NamedTuple):
    """A stretch of time, from frame `start` to frame `end`, and the (attribute, action) pairs of it."""

    start: int
    end: int
    attributes: tuple[tuple[str, str], ...]


@dataclass
class Track:
    """A box through time.

    Args:
        person: id of the person in the video; None where the file does not tell who it is.
        points: ordered by frame, one for each frame.
    """

    person: str | None
    points: list[Point]


@dataclass
class AnnotatedVideo:
    """One video's annotations, out of one file.

    Args:
        name: the video's id; None where the file does not say of which video it is.
        extent: x and y of the frame's bottom right corner, in the units of the boxes; None: the size in
            pixels, to be had from the video.
        rate: frames per second of the numbering, if the file says so.
        own_ticks: the numbers count 1 / rate seconds, whatever frames the video has.
        first_frame: number of the video's first frame; None: the file leaves that open.
        last_frame: where a track ends that goes on after its last point; None: at that point.
        frame_step: only each such frame, counted from `step_from`, can have been annotated.
        expected_frames: how many frames the tool believes the video to have.
        ranges: stretches of time with actions of everyone who is to be seen then.
        picture: name of one of the images that are its frames.
        remarks: what was read as what.
        left_out: what was not read, with its count.
    """

    name: str | None
    tracks: list[Track] = field(default_factory=list)
    extent: tuple[float, float] | None = None
    rate: float | None = None
    own_ticks: bool = False
    first_frame: int | None = 0
    last_frame: int | None = None
    frame_step: int = 1
    step_from: int = 0
    expected_frames: int | None = None
    ranges: list[Range] = field(default_factory=list)
    picture: str | None = None
    remarks: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def ordered_points(points: Sequence[Point], left_out: Counter[str]) -> list[Point]:
    """The points by frame; of several at one frame the first visible one, with the actions of those that are
    boxes of the same person. The others are counted in `left_out`."""
    by_frame: dict[int, Point] = {}
    for point in points:
        known = by_frame.get(point.frame)
        if known is None or known.box is None:
            by_frame[point.frame] = point
        elif point.box is not None and not _is_same(known.box, point.box):
            left_out["boxes of a person who has another box in the frame"] += 1
        elif point.box is not None:
            by_frame[point.frame] = known._replace(
                labels=tuple(dict.fromkeys(known.labels + point.labels)),
                attributes=tuple(dict.fromkeys(known.attributes + point.attributes)),
            )
    return [by_frame[frame] for frame in sorted(by_frame)]


def _is_same(a: Box, b: Box) -> bool:
    """Whether two boxes can be of one person: half of both together is in both."""
    if a == b:
        return True
    sides = [(max(a[i], b[i]), min(a[i + 2], b[i + 2])) for i in (0, 1)]
    common = math.prod(max(high - low, 0.0) for low, high in sides)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return 2 * common >= areas - common


def said_between(ranges: Sequence[Range], first: int, last: int) -> tuple[tuple[str, str], ...]:
    """The pairs of the ranges that meet the frames from `first` to `last`."""
    return tuple(pair for start, end, pairs in ranges if start <= last and end >= first for pair in pairs)


def spans(track: Track, last_frame: int | None) -> list[tuple[int, int]]:
    """First and last frame of each stretch that begins at a point and in which the box is to be seen."""
    found = []
    for i, point in enumerate(track.points):
        if point.box is None:
            continue
        end = point.frame
        if point.goes_on and i + 1 < len(track.points):
            follower = track.points[i + 1]
            end = follower.frame if follower.box is not None else follower.frame - 1
        elif point.goes_on and last_frame is not None:
            end = max(end, last_frame)
        found.append((point.frame, end))
    return found


def point_at(track: Track, index: int, frame: int) -> Point:
    """The track at a frame of the span that begins at point `index`: linear between two visible points, held
    where the next one is not visible (as CVAT does) or missing."""
    point = track.points[index]
    follower = track.points[index + 1] if index + 1 < len(track.points) else None
    if frame == point.frame or follower is None or follower.box is None or point.box is None:
        return point
    if frame == follower.frame:
        return follower
    share = (frame - point.frame) / (follower.frame - point.frame)
    box = tuple(a + share * (b - a) for a, b in zip(point.box, follower.box))
    return point._replace(box=box)
