"""Choose the keyframes of a video from its frame numbers, and sample tracks at them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vmae_det.dataset_tools.importers.tracks import (
    AnnotatedVideo,
    Track,
    TrackPoint,
    interpolate,
    visible_spans,
)
from vmae_det.utils.errors import DataError

_MAX_KEYFRAMES = 100_000  # per video: 27 hours at one keyframe per second


@dataclass(frozen=True)
class FrameClock:
    """Converts frame numbers to seconds from the start of the video file.

    Args:
        first: number of the first frame.
        times: seconds of each frame of the video. None: frames are 1 / `rate` apart.
        rate: frames per second, if there are no times.
        end: length of the video in seconds; infinite if unknown.
        step, step_offset: only every `step`-th frame, counted from `step_offset`, can be annotated.
        numbers: numbers of the frames in `times`, if they are not consecutive; ascending.
    """

    first: int
    times: np.ndarray | None
    rate: float
    end: float = math.inf
    step: int = 1
    step_offset: int = 0
    numbers: np.ndarray | None = None

    def has(self, frame: int) -> bool:
        """Return whether the video has a frame with this number."""
        if self.numbers is None:
            return self.first <= frame <= self.last
        index = int(np.searchsorted(self.numbers, frame))
        return index < len(self.numbers) and bool(self.numbers[index] == frame)

    @property
    def last(self) -> float:
        """Number of the last frame."""
        if self.numbers is not None:
            return int(self.numbers[-1])
        if self.times is not None:
            return self.first + len(self.times) - 1
        return self.first + self.end * self.rate

    def seconds(self, frame: int) -> float:
        """Return the time of a frame between `first` and `last`."""
        if self.numbers is not None:
            return float(self.times[np.searchsorted(self.numbers, frame)])
        if self.times is not None:
            return float(self.times[frame - self.first])
        return (frame - self.first) / self.rate

    def nearest(self, seconds: float) -> int:
        """Return the frame nearest to a time, among the frames that can be annotated."""
        if self.times is not None:
            right = min(int(np.searchsorted(self.times, seconds)), len(self.times) - 1)
            left = max(right - 1, 0)
            closer = left if seconds - self.times[left] <= self.times[right] - seconds else right
            frame = self.first + closer if self.numbers is None else int(self.numbers[closer])
        else:
            frame = self.first + round(seconds * self.rate)
        return self.step_offset + round((frame - self.step_offset) / self.step) * self.step


@dataclass(frozen=True)
class Keyframe:
    """A keyframe: seconds from the start of the video file, and the frame whose boxes it gets."""

    seconds: float
    frame: int


def choose_keyframes(
    video: AnnotatedVideo, clock: FrameClock, every: float, video_start: float
) -> list[Keyframe]:
    """Return the keyframes of a video.

    If frames are annotated more often than every `every` seconds, keyframes are the times k * `every` of the
    dataset's clock, each with the nearest annotated frame within half a step. Otherwise each annotated frame
    is a keyframe.

    Args:
        video_start: second of the dataset's clock at which the file starts.

    Raises:
        DataError: there would be more than 100,000 keyframes.
    """
    intervals = annotated_intervals(video, clock)
    if _is_sparse(intervals, clock, every):
        frames = [
            frame for low, high in intervals for frame in range(low, high + 1, clock.step) if clock.has(frame)
        ]
        return [Keyframe(clock.seconds(frame), frame) for frame in frames]
    chosen: dict[int, Keyframe] = {}
    for low, high in intervals:
        first = math.ceil((clock.seconds(low) + video_start) / every - 0.5 - 1e-9)
        last = math.floor((clock.seconds(high) + video_start) / every + 0.5 + 1e-9)
        if last - first + len(chosen) > _MAX_KEYFRAMES:
            raise DataError(f"video '{video.name}' would have more than {_MAX_KEYFRAMES} keyframes")
        for k in range(first, last + 1):
            seconds = k * every - video_start
            frame = min(max(clock.nearest(seconds), low), high)
            known = chosen.get(k)
            if seconds < 0 or seconds > clock.end:
                continue
            if known is None or _distance(clock, frame, seconds) < _distance(clock, known.frame, seconds):
                chosen[k] = Keyframe(seconds, frame)
    return [chosen[k] for k in sorted(chosen)]


def annotated_intervals(video: AnnotatedVideo, clock: FrameClock) -> list[tuple[int, int]]:
    """Return first and last frame of each interval with a visible box; intervals are disjoint and ordered."""
    last = math.floor(min(clock.last, 2**40))
    found: list[tuple[int, int]] = []
    spans = (span for track in video.tracks for span in visible_spans(track, video.last_frame))
    for start, end in sorted(spans):
        start, end = max(start, clock.first), min(end, last)
        if start > end or (start == end and not clock.has(start)):
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def sample_track(
    track: Track, last_frame: int | None, keyframes: list[Keyframe]
) -> list[tuple[Keyframe, TrackPoint]]:
    """Return the track's point at each of `keyframes` (ordered by frame) at which it is visible."""
    frames = np.array([keyframe.frame for keyframe in keyframes])
    visible = [i for i, point in enumerate(track.points) if point.box is not None]
    found: dict[int, TrackPoint] = {}
    for i, (start, end) in zip(visible, visible_spans(track, last_frame)):
        low, high = np.searchsorted(frames, start), np.searchsorted(frames, end, side="right")
        for k in range(int(low), int(high)):
            found[k] = interpolate(track, i, keyframes[k].frame)
    return [(keyframes[k], found[k]) for k in sorted(found)]


def _distance(clock: FrameClock, frame: int, seconds: float) -> float:
    return abs(clock.seconds(frame) - seconds)


def _is_sparse(intervals: list[tuple[int, int]], clock: FrameClock, every: float) -> bool:
    """Return whether at least half of the steps between annotated frames take `every` seconds or more."""
    least = every * (1 - 1e-3)
    steps, long_steps = 0, 0
    for i, (low, high) in enumerate(intervals):
        inside = (high - low) // clock.step
        steps += inside
        if inside and (clock.seconds(high) - clock.seconds(low)) / inside >= least:
            long_steps += inside
        if i + 1 < len(intervals):
            steps += 1
            long_steps += clock.seconds(intervals[i + 1][0]) - clock.seconds(high) >= least
    return 2 * long_steps >= steps and steps <= _MAX_KEYFRAMES
