"""From numbered frames to seconds, and which frames become keyframes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vmae_det.dataset_tools.importers.tracks import AnnotatedVideo, Point, Track, point_at, spans
from vmae_det.utils.errors import DataError

_MAX_KEYFRAMES = 100_000  # of one video: 27 hours at one a second


@dataclass(frozen=True)
class Clock:
    """When each frame is shown, in seconds from the start of the video file.

    Args:
        first: number of the first frame.
        times: of each frame of the video; None: frames follow each other by `rate`.
        rate: frames per second, where there are no times.
        end: length of the video in seconds; infinite where unknown.
        step, step_from: only each such frame, counted from `step_from`, can be annotated.
        numbers: of the frames at `times`, where they do not follow each other by one; ascending.
    """

    first: int
    times: np.ndarray | None
    rate: float
    end: float = math.inf
    step: int = 1
    step_from: int = 0
    numbers: np.ndarray | None = None

    def has(self, frame: int) -> bool:
        """Whether the video has a frame of this number."""
        if self.numbers is None:
            return self.first <= frame <= self.last
        place = int(np.searchsorted(self.numbers, frame))
        return place < len(self.numbers) and bool(self.numbers[place] == frame)

    @property
    def last(self) -> float:
        """Number of the last frame."""
        if self.numbers is not None:
            return int(self.numbers[-1])
        if self.times is not None:
            return self.first + len(self.times) - 1
        return self.first + self.end * self.rate

    def seconds(self, frame: int) -> float:
        """The moment of a frame from `first` to `last`."""
        if self.numbers is not None:
            return float(self.times[np.searchsorted(self.numbers, frame)])
        if self.times is not None:
            return float(self.times[frame - self.first])
        return (frame - self.first) / self.rate

    def nearest(self, seconds: float) -> int:
        """The frame nearest to a moment that can be annotated."""
        if self.times is not None:
            right = min(int(np.searchsorted(self.times, seconds)), len(self.times) - 1)
            left = max(right - 1, 0)
            closer = left if seconds - self.times[left] <= self.times[right] - seconds else right
            frame = self.first + closer if self.numbers is None else int(self.numbers[closer])
        else:
            frame = self.first + round(seconds * self.rate)
        return self.step_from + round((frame - self.step_from) / self.step) * self.step


@dataclass(frozen=True)
class Keyframe:
    """A moment of the dataset, seconds from the start of the file, and the frame whose boxes it has."""

    seconds: float
    frame: int


def annotated_intervals(video: AnnotatedVideo, clock: Clock) -> list[tuple[int, int]]:
    """First and last frame of each stretch in which some box is to be seen, disjoint and ordered."""
    last = math.floor(min(clock.last, 2**40))
    found: list[tuple[int, int]] = []
    for start, end in sorted(span for track in video.tracks for span in spans(track, video.last_frame)):
        start, end = max(start, clock.first), min(end, last)
        if start > end or (start == end and not clock.has(start)):
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def choose_keyframes(video: AnnotatedVideo, clock: Clock, every: float, offset: float) -> list[Keyframe]:
    """The keyframes of a video.

    Where frames are annotated more often than `every` seconds: the moments k * every of the dataset's clock,
    each with the nearest annotated frame if it is within half a step. Where they are rarer: each
    annotated frame.

    Args:
        offset: second of the dataset's clock at which the file starts.

    Raises:
        DataError: there would be more than 100,000.
    """
    intervals = annotated_intervals(video, clock)
    if _are_rare(intervals, clock, every):
        frames = [
            frame for low, high in intervals for frame in range(low, high + 1, clock.step) if clock.has(frame)
        ]
        return [Keyframe(clock.seconds(frame), frame) for frame in frames]
    chosen: dict[int, Keyframe] = {}
    for low, high in intervals:
        first = math.ceil((clock.seconds(low) + offset) / every - 0.5 - 1e-9)
        last = math.floor((clock.seconds(high) + offset) / every + 0.5 + 1e-9)
        if last - first + len(chosen) > _MAX_KEYFRAMES:
            raise DataError(f"video '{video.name}' would have more than {_MAX_KEYFRAMES} keyframes")
        for k in range(first, last + 1):
            seconds = k * every - offset
            frame = min(max(clock.nearest(seconds), low), high)
            known = chosen.get(k)
            if seconds < 0 or seconds > clock.end:
                continue
            if known is None or _distance(clock, frame, seconds) < _distance(clock, known.frame, seconds):
                chosen[k] = Keyframe(seconds, frame)
    return [chosen[k] for k in sorted(chosen)]


def boxes_at(track: Track, last_frame: int | None, keyframes: list[Keyframe]) -> list[tuple[Keyframe, Point]]:
    """The track at those of the keyframes (ordered by frame) at which it is to be seen."""
    frames = np.array([keyframe.frame for keyframe in keyframes])
    visible = [i for i, point in enumerate(track.points) if point.box is not None]
    found: dict[int, Point] = {}
    for i, (start, end) in zip(visible, spans(track, last_frame)):
        low, high = np.searchsorted(frames, start), np.searchsorted(frames, end, side="right")
        for k in range(int(low), int(high)):
            found[k] = point_at(track, i, keyframes[k].frame)
    return [(keyframes[k], found[k]) for k in sorted(found)]


def _distance(clock: Clock, frame: int, seconds: float) -> float:
    return abs(clock.seconds(frame) - seconds)


def _are_rare(intervals: list[tuple[int, int]], clock: Clock, every: float) -> bool:
    """Whether at least half of the steps from an annotated frame to the next take `every` seconds or more."""
    least = every * (1 - 1e-3)
    steps, long = 0, 0
    for i, (low, high) in enumerate(intervals):
        inside = (high - low) // clock.step
        steps += inside
        if inside and (clock.seconds(high) - clock.seconds(low)) / inside >= least:
            long += inside
        if i + 1 < len(intervals):
            steps += 1
            long += clock.seconds(intervals[i + 1][0]) - clock.seconds(high) >= least
    return 2 * long >= steps and steps <= _MAX_KEYFRAMES
