"""Cuts the clip around each keyframe from a single pass over the frames of a video.

`plan_keyframes` chooses the keyframes, `ClipCutter` cuts their clips. Overlapping clips share decoded frames.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vmae_det.config import CfgNode
from vmae_det.data import transforms
from vmae_det.utils.errors import DataError
from vmae_det.video.sampling import keyframe_clip_shift, sample_keyframe_clip
from vmae_det.video.sources import Frame, VideoSource

_MAX_KEYFRAMES_PER_FRAME = 10  # several keyframes may have the same nearest frame


class RegularTimes(Sequence[float]):
    """The times `start`, `start + interval`, ... up to `end`, which may be infinity."""

    def __init__(self, start: float, interval: float, end: float = math.inf) -> None:
        self.start, self.interval, self.end = start, interval, end

    def __len__(self) -> int:
        if math.isinf(self.end):
            return 10**9
        return max(math.floor((self.end - self.start) / self.interval + 1e-9) + 1, 0)

    def __getitem__(self, number: int) -> float:
        if number >= len(self):
            raise IndexError(number)
        return self.start + number * self.interval


def check_keyframe_count(count: float, frames: int, name: str) -> None:
    """Raise a DataError if far more keyframes are requested than the video has frames."""
    if count > _MAX_KEYFRAMES_PER_FRAME * frames:
        raise DataError(
            f"{count:.3g} keyframes are requested, but the video has only {frames} frames; increase --every, "
            "or pass boxes at fewer times",
            name,
        )


@dataclass(frozen=True)
class KeyframePlan:
    """The keyframes of a video.

    Attributes:
        times: seconds from the first frame, ascending; RegularTimes if the length of the source is unknown.
        centers: index of the frame of each keyframe, int64; None if the length of the source is unknown.
        needed: for each frame of the video, whether a clip needs it; None if the length is unknown.
    """

    times: Sequence[float]
    centers: np.ndarray | None = None
    needed: np.ndarray | None = None

    @property
    def first_frame(self) -> int:
        """Index of the first frame that a clip needs."""
        return 0 if self.needed is None else int(self.needed.argmax())

    @property
    def spacing(self) -> float:
        """Median interval between keyframes in seconds; 1 for a single keyframe."""
        if isinstance(self.times, RegularTimes):
            return self.times.interval
        return float(np.median(np.diff(self.times))) if len(self.times) > 1 else 1.0

    def last_before(self, time: float) -> float:
        """Return the time of the last keyframe at or before `time`, or minus infinity."""
        index = bisect.bisect_right(self.times, time)
        return float(self.times[index - 1]) if index else -math.inf

    def next_after(self, time: float) -> float:
        """Return the time of the first keyframe after `time`, or infinity."""
        index = bisect.bisect_right(self.times, time)
        return float(self.times[index]) if index < len(self.times) else math.inf


def plan_keyframes(
    source: VideoSource,
    cfg: CfgNode,
    given: np.ndarray | None,
    every: float,
    start: float = 0.0,
    end: float = math.inf,
) -> KeyframePlan:
    """Choose the keyframes of a source.

    Args:
        given: times of the person boxes, in seconds from the first frame; None: one keyframe every `every`
            seconds.
        start, end: skip keyframes before and after these seconds.

    Raises:
        DataError: a given time is outside a source of known length, or no keyframe remains.
    """
    known_length = source.times is not None
    if given is None:
        if known_length:
            last = float(source.times[-1])
            if start > last:
                problem = f"no keyframe from second {start:g} on: its last frame is at second {last:.2f}"
                raise DataError(problem, source.name)
            end = min(end, last)
            check_keyframe_count((end - start) / every, len(source.times), source.name)
        times: Sequence[float] = RegularTimes(start, every, end)
    else:
        if known_length:
            source.indices_at(given)  # detects a wrong clock immediately, whatever `start` and `end` select
        times = given[(given >= start) & (given <= end)]
        if known_length:
            check_keyframe_count(len(times), len(source.times), source.name)
    if not len(times):
        raise DataError(f"no keyframe between second {start:g} and {end:g} of the video", source.name)
    if not known_length:
        return KeyframePlan(times)
    times = np.array(times, dtype=np.float64)
    centers = source.indices_at(times)
    needed = np.zeros(len(source.times), dtype=bool)
    for center in centers.tolist():
        needed[sample_keyframe_clip(cfg.INPUT, center, len(needed))] = True
    return KeyframePlan(times, centers, needed)


@dataclass(frozen=True)
class ClipView:
    """A clip at one of the short sides of testing.

    Attributes:
        frames: the clip's frames, resized for the model, uint8 (3, H', W') each.
        scale: (x, y), pixels of the clip per pixel of the frame.
    """

    frames: list[torch.Tensor]
    scale: tuple[float, float]

    @property
    def video(self) -> torch.Tensor:
        """The clip, uint8 (3, T, H', W')."""
        return torch.stack(self.frames, dim=1)


@dataclass(frozen=True)
class KeyframeClip:
    """A keyframe with the clip around it.

    Attributes:
        time: requested time of the keyframe, in seconds from the first frame.
        size: height and width of the video's frames.
        image: the keyframe, uint8 RGB (H, W, 3); None once its persons are known.
        views: the clip at each short side (see `transforms.detection_short_sides`).
    """

    time: float
    size: tuple[int, int]
    image: np.ndarray | None
    views: tuple[ClipView, ...]

    @property
    def video(self) -> torch.Tensor:
        """The clip at the first short side, uint8 (3, T, H', W')."""
        return self.views[0].video

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y), pixels of `video` per pixel of the frame."""
        return self.views[0].scale


@dataclass(frozen=True)
class ClipWithPersons:
    """A keyframe clip and the N persons in its keyframe.

    Attributes:
        boxes: float32 (N, 4), xyxy pixels of the keyframe.
        person_scores: (N,).
        scores: (N, classes) if the model scored the persons when it found them; otherwise None.
    """

    clip: KeyframeClip
    boxes: np.ndarray
    person_scores: np.ndarray
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class _PendingClip:
    """A keyframe whose clip is not complete yet, with the indices of the clip's frames."""

    time: float
    image: np.ndarray
    indices: np.ndarray


class ClipCutter:
    """Takes the frames of a video in order and returns each keyframe's clip once it is complete.

    Each frame is resized once for each short side, however many clips contain it, and is dropped when no
    later clip can need it. A missing frame is replaced by the nearest earlier frame of the clip, or by the
    nearest later one if there is none. A keyframe is skipped if all frames of its clip are missing.

    Attributes:
        skipped: number of skipped keyframes.
    """

    def __init__(self, source: VideoSource, plan: KeyframePlan, cfg: CfgNode) -> None:
        self.skipped = 0
        self._source, self._plan, self._cfg = source, plan, cfg
        self._total = 2**62 if source.times is None else len(source.times)
        self._next = 0  # number of the next keyframe
        self._pending: deque[_PendingClip] = deque()
        self._sides = transforms.detection_short_sides(cfg)
        self._frames: dict[int, list[torch.Tensor]] = {}  # by index, resized to each short side
        self._previous: Frame | None = None
        self._scales = [(1.0, 1.0)] * len(self._sides)

    @property
    def is_done(self) -> bool:
        """Whether the clips of all keyframes have been returned."""
        return self._next >= len(self._plan.times) and not self._pending

    def add(self, frame: Frame) -> list[KeyframeClip]:
        """Add a frame and return the clips that it completes.

        Raises:
            DataError: the frame's size differs from that of the previous frame.
        """
        previous = self._previous
        if previous is not None and frame.image.shape != previous.image.shape:
            got, expected = (f"{i.shape[1]} x {i.shape[0]}" for i in (frame.image, previous.image))
            problem = f"frame {frame.index} has {got} pixels, expected {expected} as in the frames before it"
            raise DataError(problem, self._source.name)
        if self._plan.needed is None or self._plan.needed[frame.index]:
            self._frames[frame.index] = self._prepare(frame.image)
        self._start_clips(frame)
        self._previous = frame
        clips = self._pop_complete(frame.index)
        self._drop_frames()
        return clips

    def finish(self) -> list[KeyframeClip]:
        """Return the clips that extend beyond the last frame."""
        last = self._previous
        if last is None:
            return []
        if self._plan.centers is not None:  # the frames at the end are damaged
            for number in range(self._next, len(self._plan.times)):
                self._start_clip(number, int(self._plan.centers[number]), last.image)
        elif not isinstance(self._plan.times, RegularTimes):
            end = last.time + 1 / float(self._source.rate)  # same limit as VideoReader.index_at
            for number in range(self._next, len(self._plan.times)):
                if self._plan.times[number] <= end:
                    self._start_clip(number, last.index, last.image)
        if self._source.times is None:
            self._pending = deque(
                replace(clip, indices=clip.indices.clip(max=last.index)) for clip in self._pending
            )
        return self._pop_complete(None)

    def _prepare(self, image: np.ndarray) -> list[torch.Tensor]:
        clip, rounding = transforms.make_clip(image[None]), transforms.pixel_rounding(self._cfg.INPUT)
        frames, self._scales = [], []
        for side in self._sides:
            frames.append(transforms.to_video(transforms.full_frame_transform(clip, self._cfg, side))[:, 0])
            height, width = transforms.resized_size(*clip.size, side, rounding)
            self._scales.append((width / clip.size[1], height / clip.size[0]))
        return frames

    def _start_clips(self, frame: Frame) -> None:
        """Start the clips of the keyframes that are at this frame, or between it and the previous one."""
        times, centers = self._plan.times, self._plan.centers
        while self._next < len(times):
            if centers is not None:
                if frame.index < centers[self._next]:
                    return
                self._start_clip(self._next, int(centers[self._next]), frame.image)
            else:
                time, before = times[self._next], self._previous or frame
                if frame.time < time:
                    return
                nearest = before if abs(before.time - time) <= abs(frame.time - time) else frame
                self._start_clip(self._next, nearest.index, nearest.image)
            self._next += 1

    def _start_clip(self, number: int, center: int, image: np.ndarray) -> None:
        indices = sample_keyframe_clip(self._cfg.INPUT, center, self._total)
        self._pending.append(_PendingClip(float(self._plan.times[number]), image, indices))

    def _pop_complete(self, index: int | None) -> list[KeyframeClip]:
        """Return the clips that end at or before frame `index`; None: all pending clips."""
        clips = []
        while self._pending and (index is None or self._pending[0].indices[-1] <= index):
            pending = self._pending.popleft()
            frames = self._frames_at(pending.indices)
            if frames:
                image = pending.image
                views = tuple(ClipView(list(own), scale) for own, scale in zip(zip(*frames), self._scales))
                clips.append(KeyframeClip(pending.time, image.shape[:2], image, views))
            else:
                self.skipped += 1
        return clips

    def _frames_at(self, indices: np.ndarray) -> list[list[torch.Tensor]]:
        present = [int(index) for index in indices if int(index) in self._frames]
        if not present:
            return []
        nearest = (np.searchsorted(present, indices, side="right") - 1).clip(min=0)
        return [self._frames[present[position]] for position in nearest]

    def _drop_frames(self) -> None:
        """Drop the frames before all pending and future clips."""
        node = self._cfg.INPUT
        reach = node.NUM_FRAMES // 2 * node.SAMPLING_RATE - keyframe_clip_shift(node)
        if self._plan.centers is None:
            lowest = self._previous.index - reach
        elif self._next < len(self._plan.centers):
            lowest = self._plan.centers[self._next] - reach
        else:
            lowest = self._total
        if self._pending:
            lowest = min(lowest, self._pending[0].indices[0])
        for index in list(itertools.takewhile(lambda index: index < lowest, self._frames)):
            del self._frames[index]
