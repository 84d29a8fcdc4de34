"""Keyframe clips cut from frames that come once, in order; neighbouring clips share what was decoded."""

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

_MOST_PER_FRAME = 10  # keyframes; several may be nearest to one frame


class Grid(Sequence[float]):
    """`start`, `start + every`, ... up to `end`, which may be infinity."""

    def __init__(self, start: float, every: float, end: float = math.inf) -> None:
        self.start, self.every, self.end = start, every, end

    def __len__(self) -> int:
        if math.isinf(self.end):
            return 10**9
        return max(math.floor((self.end - self.start) / self.every + 1e-9) + 1, 0)

    def __getitem__(self, number: int) -> float:
        if number >= len(self):
            raise IndexError(number)
        return self.start + number * self.every


def check_number_of_keyframes(count: float, frames: int, name: str) -> None:
    """DataError where a video is to have far more keyframes than it has frames."""
    if count > _MOST_PER_FRAME * frames:
        raise DataError(
            f"{count:.3g} keyframes are asked for, but it has {frames} frames; make --every larger, or give "
            "boxes at fewer times",
            name,
        )


@dataclass(frozen=True)
class KeyframePlan:
    """Which keyframes a video is to have.

    Attributes:
        times: seconds from the first frame on, ascending; a Grid where the source's length is not known.
        centres: the frame of each, int64; None where that shows only when the frames come.
        wanted: for each frame of the video, whether a clip needs it; None where that is not known.
    """

    times: Sequence[float]
    centres: np.ndarray | None = None
    wanted: np.ndarray | None = None

    @property
    def first(self) -> int:
        """The first frame that a clip needs."""
        return 0 if self.wanted is None else int(self.wanted.argmax())

    @property
    def spacing(self) -> float:
        """Seconds between keyframes, the median of them; 1 where there is but one."""
        if isinstance(self.times, Grid):
            return self.times.every
        return float(np.median(np.diff(self.times))) if len(self.times) > 1 else 1.0

    def last_before(self, time: float) -> float:
        """The last keyframe up to a moment; minus infinity where there is none."""
        place = bisect.bisect_right(self.times, time)
        return float(self.times[place - 1]) if place else -math.inf

    def next_after(self, time: float) -> float:
        """The first keyframe later than a moment; infinity where there is none."""
        place = bisect.bisect_right(self.times, time)
        return float(self.times[place]) if place < len(self.times) else math.inf


def plan_keyframes(
    source: VideoSource,
    cfg: CfgNode,
    given: np.ndarray | None,
    every: float,
    start: float = 0.0,
    end: float = math.inf,
) -> KeyframePlan:
    """The keyframes of a source.

    Args:
        given: seconds from the first frame on at which persons are known; None: `every` seconds.
        start, end: leave out what lies before and after these seconds.

    Raises:
        DataError: a given keyframe lies outside a source whose length is known; no keyframe remains.
    """
    known = source.times is not None
    if given is None:
        end = min(end, source.times[-1] if known else math.inf)
        if known:
            check_number_of_keyframes((end - start) / every, len(source.times), source.name)
        times: Sequence[float] = Grid(start, every, end)
    else:
        if known:
            source.indices_at(given)  # a wrong clock shows at once, whatever part is asked for
        times = given[(given >= start) & (given <= end)]
        if known:
            check_number_of_keyframes(len(times), len(source.times), source.name)
    if not len(times):
        raise DataError(f"no keyframe lies between second {start:g} and {end:g} of the video", source.name)
    if not known:
        return KeyframePlan(times)
    times = np.array(times, dtype=np.float64)
    centres = source.indices_at(times)
    wanted = np.zeros(len(source.times), dtype=bool)
    for centre in centres.tolist():
        wanted[sample_keyframe_clip(cfg.INPUT, centre, len(wanted))] = True
    return KeyframePlan(times, centres, wanted)


@dataclass(frozen=True)
class KeyframeClip:
    """A keyframe with the clip around it.

    Attributes:
        time: seconds from the first frame on, as it was asked for.
        size: height and width of the video's frames.
        image: the keyframe, uint8 RGB (H, W, 3); None when its people are known.
        planes: the clip's frames as the model takes them, uint8 (3, H', W') each.
        scale: (x, y), pixels of the clip per pixel of the frame.
    """

    time: float
    size: tuple[int, int]
    image: np.ndarray | None
    planes: list[torch.Tensor]
    scale: tuple[float, float]

    @property
    def video(self) -> torch.Tensor:
        """uint8 (3, T, H', W')."""
        return torch.stack(self.planes, dim=1)


@dataclass(frozen=True)
class _Open:
    """A keyframe whose clip is not complete, and the numbers of the clip's frames."""

    time: float
    image: np.ndarray
    indices: np.ndarray


class ClipCutter:
    """Takes the frames of a video in order and gives the clips of its keyframes as they are complete.

    Each frame is resized once, whatever the number of clips that it is part of, and forgotten when no later
    clip can need it. In the place of a frame that is missing stands the nearest one of the clip that comes
    before it, else the nearest after it; a keyframe of whose clip no frame is there is left out.

    Attributes:
        left_out: number of such keyframes.
    """

    def __init__(self, source: VideoSource, plan: KeyframePlan, cfg: CfgNode) -> None:
        self.left_out = 0
        self._source, self._plan, self._cfg = source, plan, cfg
        self._total = 2**62 if source.times is None else len(source.times)
        self._number = 0  # of the next keyframe
        self._open: deque[_Open] = deque()
        self._planes: dict[int, torch.Tensor] = {}
        self._previous: Frame | None = None
        self._scale = (1.0, 1.0)

    @property
    def is_done(self) -> bool:
        """Whether all keyframes have their clips."""
        return self._number >= len(self._plan.times) and not self._open

    def add(self, frame: Frame) -> list[KeyframeClip]:
        """The clips that a frame completes; DataError if it has another size than the one before."""
        previous = self._previous
        if previous is not None and frame.image.shape != previous.image.shape:
            got, expected = (f"{i.shape[1]} x {i.shape[0]}" for i in (frame.image, previous.image))
            problem = f"frame {frame.index} has {got} pixels, expected {expected} as in those before"
            raise DataError(problem, self._source.name)
        if self._plan.wanted is None or self._plan.wanted[frame.index]:
            self._planes[frame.index] = self._prepare(frame.image)
        self._begin_keyframes(frame)
        self._previous = frame
        clips = self._complete(frame.index)
        self._forget()
        return clips

    def finish(self) -> list[KeyframeClip]:
        """The clips that reach beyond the last frame."""
        last = self._previous
        if last is None:
            return []
        if self._plan.centres is not None:  # frames at the end are damaged
            for number in range(self._number, len(self._plan.times)):
                self._begin(number, int(self._plan.centres[number]), last.image)
        elif not isinstance(self._plan.times, Grid):
            end = last.time + 1 / float(self._source.rate)  # as of VideoReader.index_at
            for number in range(self._number, len(self._plan.times)):
                if self._plan.times[number] <= end:
                    self._begin(number, last.index, last.image)
        if self._source.times is None:
            self._open = deque(replace(o, indices=o.indices.clip(max=last.index)) for o in self._open)
        return self._complete(None)

    def _prepare(self, image: np.ndarray) -> torch.Tensor:
        clip = transforms.make_clip(image[None])
        resized = transforms.full_frame_transform(clip, self._cfg)
        node = self._cfg.INPUT
        side = transforms.resized_size(*clip.size, node.TEST_SHORT_SIDE, transforms.rounding(node))
        self._scale = (side[1] / clip.size[1], side[0] / clip.size[0])
        return transforms.to_video(resized)[:, 0]

    def _begin_keyframes(self, frame: Frame) -> None:
        """Begin the keyframes that the frame is, or has just passed."""
        times, centres = self._plan.times, self._plan.centres
        while self._number < len(times):
            if centres is not None:
                if frame.index < centres[self._number]:
                    return
                self._begin(self._number, int(centres[self._number]), frame.image)
            else:
                time, before = times[self._number], self._previous or frame
                if frame.time < time:
                    return
                nearest = before if abs(before.time - time) <= abs(frame.time - time) else frame
                self._begin(self._number, nearest.index, nearest.image)
            self._number += 1

    def _begin(self, number: int, centre: int, image: np.ndarray) -> None:
        indices = sample_keyframe_clip(self._cfg.INPUT, centre, self._total)
        self._open.append(_Open(float(self._plan.times[number]), image, indices))

    def _complete(self, index: int | None) -> list[KeyframeClip]:
        """The clips whose frames have all come, or all that are open at the end of the video."""
        clips = []
        while self._open and (index is None or self._open[0].indices[-1] <= index):
            keyframe = self._open.popleft()
            planes = self._frames_of(keyframe.indices)
            if planes:
                image = keyframe.image
                clips.append(KeyframeClip(keyframe.time, image.shape[:2], image, planes, self._scale))
            else:
                self.left_out += 1
        return clips

    def _frames_of(self, indices: np.ndarray) -> list[torch.Tensor]:
        present = [int(index) for index in indices if int(index) in self._planes]
        if not present:
            return []
        places = (np.searchsorted(present, indices, side="right") - 1).clip(min=0)
        return [self._planes[present[place]] for place in places]

    def _forget(self) -> None:
        """Drop the frames that lie before all clips that are open or to come."""
        node = self._cfg.INPUT
        reach = node.NUM_FRAMES // 2 * node.SAMPLING_RATE - keyframe_clip_shift(node)
        if self._plan.centres is None:
            lowest = self._previous.index - reach
        elif self._number < len(self._plan.centres):
            lowest = self._plan.centres[self._number] - reach
        else:
            lowest = self._total
        if self._open:
            lowest = min(lowest, self._open[0].indices[0])
        for index in list(itertools.takewhile(lambda index: index < lowest, self._planes)):
            del self._planes[index]
