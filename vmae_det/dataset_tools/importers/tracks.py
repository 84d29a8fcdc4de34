"""Common form of all imported annotations: videos with tracks of boxes at numbered frames."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Box = tuple[float, float, float, float]
PERCENT = (100.0, 100.0)  # `frame_size` of boxes in percent of the frame


class TrackPoint(NamedTuple):
    """The box of a track at one annotated frame.

    Args:
        frame: frame number, as the annotation file counts.
        box: xyxy in the units of the video's `frame_size`; None where the person is not visible.
        labels: classes of the box. They are its actions if no attribute names an action.
        attributes: pairs of an attribute's name and the action that it names.
        continues: whether the box is also visible after this frame, up to the next point of the track.
    """

    frame: int
    box: Box | None
    labels: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...] = ()
    continues: bool = False


class ActionSegment(NamedTuple):
    """Frames from `start` to `end`, both included, and the (attribute, action) pairs of everyone in them."""

    start: int
    end: int
    attributes: tuple[tuple[str, str], ...]


@dataclass
class Track:
    """The boxes of one person.

    Args:
        person: id of the person in the video; None if the file does not identify the person.
        points: ordered by frame, one for each frame.
    """

    person: str | None
    points: list[TrackPoint]


@dataclass
class AnnotatedVideo:
    """The annotations of one video in one file.

    Args:
        name: id of the video; None if the file does not name the video.
        frame_size: width and height of the frame in the units of the boxes. None: in pixels, to be read from
            the video.
        frame_rate: frames per second of the frame numbers, if the file contains it.
        frames_are_ticks: frame numbers count 1 / `frame_rate` seconds, whatever frames the video has.
        first_frame: number of the video's first frame; None if the file does not define it.
        last_frame: where a track ends that continues after its last point; None: at that point.
        frame_step: only every `frame_step`-th frame, counted from `step_offset`, can be annotated.
        expected_frames: number of frames that the annotation tool assumes.
        segments: frame ranges with actions of everyone visible in them.
        image_name: name of one of the images that are the video's frames.
        notes: how ambiguous annotations were interpreted.
        skipped: annotations that were not read, as reason to count.
    """

    name: str | None
    tracks: list[Track] = field(default_factory=list)
    frame_size: tuple[float, float] | None = None
    frame_rate: float | None = None
    frames_are_ticks: bool = False
    first_frame: int | None = 0
    last_frame: int | None = None
    frame_step: int = 1
    step_offset: int = 0
    expected_frames: int | None = None
    segments: list[ActionSegment] = field(default_factory=list)
    image_name: str | None = None
    notes: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def merge_points(points: Sequence[TrackPoint], skipped: Counter[str]) -> list[TrackPoint]:
    """Return the points of a track ordered by frame, one for each frame.

    Of several points at a frame, the first visible one is kept. It gets the labels and attributes of those
    whose boxes overlap it, which are the same person. The others are counted in `skipped`.
    """
    by_frame: dict[int, TrackPoint] = {}
    for point in points:
        kept = by_frame.get(point.frame)
        if kept is None or kept.box is None:
            by_frame[point.frame] = point
        elif point.box is not None and not _is_same_person(kept.box, point.box):
            skipped["boxes of a person who has another box in the frame"] += 1
        elif point.box is not None:
            by_frame[point.frame] = kept._replace(
                labels=tuple(dict.fromkeys(kept.labels + point.labels)),
                attributes=tuple(dict.fromkeys(kept.attributes + point.attributes)),
            )
    return [by_frame[frame] for frame in sorted(by_frame)]


def _is_same_person(a: Box, b: Box) -> bool:
    """Return whether two boxes are equal or have an IoU of at least 0.5."""
    if a == b:
        return True
    sides = [(max(a[i], b[i]), min(a[i + 2], b[i + 2])) for i in (0, 1)]
    intersection = math.prod(max(high - low, 0.0) for low, high in sides)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return 2 * intersection >= areas - intersection


def segment_actions(segments: Sequence[ActionSegment], first: int, last: int) -> tuple[tuple[str, str], ...]:
    """Return the (attribute, action) pairs of the segments that overlap the frames `first` to `last`."""
    return tuple(pair for start, end, pairs in segments if start <= last and end >= first for pair in pairs)


def visible_spans(track: Track, last_frame: int | None) -> list[tuple[int, int]]:
    """Return the first and last frame that each visible point covers, until the next point takes over."""
    found = []
    for i, point in enumerate(track.points):
        if point.box is None:
            continue
        end = point.frame
        if point.continues and i + 1 < len(track.points):
            following = track.points[i + 1]
            end = following.frame if following.box is not None else following.frame - 1
        elif point.continues and last_frame is not None:
            end = max(end, last_frame)
        found.append((point.frame, end))
    return found


def interpolate(track: Track, index: int, frame: int) -> TrackPoint:
    """Return the track at a frame of the span that begins at point `index`.

    The box moves linearly between two visible points. It stays where it is if the next point is not visible
    (as in CVAT) or missing.
    """
    point = track.points[index]
    following = track.points[index + 1] if index + 1 < len(track.points) else None
    if frame == point.frame or following is None or following.box is None or point.box is None:
        return point
    if frame == following.frame:
        return following
    weight = (frame - point.frame) / (following.frame - point.frame)
    box = tuple(a + weight * (b - a) for a, b in zip(point.box, following.box))
    return point._replace(box=box)
