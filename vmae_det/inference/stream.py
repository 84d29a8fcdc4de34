"""The pipeline from frames to actions: decoding, clips, people and scores, side by side."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from vmae_det.config import CfgNode
from vmae_det.inference.clips import ClipCutter, KeyframeClip, KeyframePlan
from vmae_det.inference.detections import KeyframeActions
from vmae_det.inference.person_sources import PersonSource
from vmae_det.inference.stopwatch import Stopwatch
from vmae_det.inference.tracking import ScoreSmoother, Tracker
from vmae_det.utils.channel import Channel, Stages, batches
from vmae_det.utils.errors import DataError
from vmae_det.video.sources import Frame, VideoSource

logger = logging.getLogger(__name__)

# Seconds between keyframes up to which a person is followed from one to the next.
MAX_GAP = 2.0
_DECODED = 8  # frames that wait between decoding and cutting


class FrameSink(Protocol):
    """Takes the frames of a stream, to draw on them what the keyframes around them show."""

    dropped: int

    def frame(self, frame: Frame, keyframe: float) -> None:
        """A frame, in order; may wait, but not where a waiting frame's keyframe has not been cut.

        Args:
            keyframe: time of the last keyframe whose result the frame's picture needs; minus infinity: none.
        """

    def cut(self, time: float) -> None:
        """All keyframes up to a time have been cut: their results come without a further frame."""

    def stop(self) -> None:
        """The stream was left: wait for nothing."""


@dataclass(frozen=True)
class Found:
    """A keyframe clip and its people: boxes float32 (N, 4) in pixels of the keyframe, scores (N,)."""

    clip: KeyframeClip
    boxes: np.ndarray
    person_scores: np.ndarray


Score = Callable[[Sequence[Found]], list[np.ndarray]]


@dataclass
class StreamOptions:
    """How a stream is made; each stream takes one of its own.

    Attributes:
        video_start: second of the boxes' clock at which the video starts.
        start, end: seconds of the video that are looked at.
        overlap: decode, find people and score in threads of their own.
        stopwatch: counts the seconds of the parts "decode", "transform", "persons", "batch" and "model".
        smooth: seconds before a keyframe, and half as many after it (of a live source none), over which a
            person's scores are averaged; 0, or keyframes farther apart than people are followed, leaves them
            as they are.
    """

    video_start: float = 0.0
    start: float = 0.0
    end: float = math.inf
    overlap: bool = True
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    smooth: float = 0.0


class ActionStream(Iterator[KeyframeActions]):
    """The actions of a video's keyframes, in order, each as soon as it is known.

    Frames are decoded once and in order; what a clip and the sink do not need any more is forgotten. Leave
    it by `close`, or use it as a context manager.

    Attributes:
        sink: where frames go, too; to be set before the first result is asked for.
        latency: of the latest keyframe of a live source, in seconds.
        missing: frames that are damaged, of those that were needed.
        broken_off: whether the source could not be read to its end.

    Raises:
        DataError: no frame can be decoded.
    """

    def __init__(
        self,
        source: VideoSource,
        plan: KeyframePlan,
        persons: PersonSource,
        score: Score,
        cfg: CfgNode,
        options: StreamOptions,
    ) -> None:
        self.source, self.plan = source, plan
        self.sink: FrameSink | None = None
        self.latency: float | None = None
        self.missing = 0
        self.broken_off = self._stopped = False
        self._persons, self._score_boxes = persons, score
        self._batch = cfg.TEST.BATCH_SIZE
        self._options = options
        self._watch = options.stopwatch
        self._tracker = Tracker()
        smooths = options.smooth > 0 and plan.spacing <= MAX_GAP
        look_ahead = 0.0 if source.live else options.smooth / 2
        self._smoother = ScoreSmoother(options.smooth, look_ahead) if smooths else None
        self._cutter = ClipCutter(source, plan, cfg)
        self._stages = Stages()
        self._waiting: Channel[KeyframeClip] | None = None
        self._results: Iterator[KeyframeActions] | None = None
        self._ended = False

    @property
    def dropped_frames(self) -> int:
        """Frames of a live source that were not looked at, or not drawn."""
        return self.source.dropped + (self.sink.dropped if self.sink else 0)

    @property
    def dropped_keyframes(self) -> int:
        """Keyframes of a live source that came while others were being scored."""
        return self._waiting.dropped if self._waiting is not None and self.source.live else 0

    @property
    def left_out(self) -> int:
        """Keyframes that lie in a damaged part of the video."""
        return self._cutter.left_out

    def __next__(self) -> KeyframeActions:
        if self._results is None:
            self._results = self._in_threads() if self._options.overlap else self._in_turn()
        try:
            result = next(self._results)
        except StopIteration:
            self._ended = True
            self._report()
            raise
        if self.source.live:
            self.latency = self.source.now() - result.time
            result = replace(result, latency=self.latency)
        return result

    def __enter__(self) -> ActionStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def stop(self) -> None:
        """Take no more frames; the results of those that have come in still come."""
        self._stopped = True
        self.source.close()

    def close(self) -> None:
        """End the threads; results that nobody has taken are lost."""
        if not self._ended and self.sink is not None:
            self.sink.stop()
        self.source.close()
        self._stages.close()

    def _in_turn(self) -> Iterator[KeyframeActions]:
        found = (self._find([clip]) for clip in self._cuts(self._frames()))
        yield from self._smooth(result for group in found for result in self._score(group))

    def _in_threads(self) -> Iterator[KeyframeActions]:
        stages, live, most = self._stages, self.source.live, 1 if self.source.live else self._batch
        frames = stages.run(self._frames(), _DECODED)
        self._waiting = waiting = stages.run(self._cuts(_each(frames)), most, lossy=live)
        if live:
            # Nothing waits between these two, so that the newest keyframe is the next one.
            groups = (self._find(clips) for clips in batches(waiting, 1))
        else:
            found = stages.run((item for clips in batches(waiting, most) for item in self._find(clips)), most)
            groups = batches(found, most)
        scored = stages.run(self._smooth(result for group in groups for result in self._score(group)), most)
        return _Results(scored)

    def _frames(self) -> Iterator[Frame]:
        """Those that are needed, in order, up to where the source cannot be read further."""
        first, wanted = self._needed_frames()
        last = last_place = -1
        try:
            for frame in self._watch.of(self.source.frames(first, wanted), "decode"):
                if self._stopped:
                    return
                place = frame.index - first if wanted is None else int(np.searchsorted(wanted, frame.index))
                self.missing += place - last_place - 1
                last, last_place = frame.index, place
                yield frame
        except DataError as error:
            if last < 0:
                raise
            self.broken_off = True
            logger.warning("%s; what comes after is left out", error)
            return
        if self._stopped:
            return
        if last < 0:
            raise DataError("none of its frames can be decoded", self.source.name)
        if self.source.times is not None and not self._is_done(float(self.source.times[last])):
            total = len(self.source.times) - first if wanted is None else len(wanted)
            self.missing += total - 1 - last_place

    def _needed_frames(self) -> tuple[int, np.ndarray | None]:
        """The first frame that is needed, and which of them, where that is not all."""
        if self.source.times is None:
            return 0, None
        if self.sink is None:
            return self.plan.first, np.flatnonzero(self.plan.wanted)
        shown = int(np.searchsorted(self.source.times, self._options.start))
        return min(self.plan.first, shown), None

    def _is_done(self, time: float) -> bool:
        """Whether nothing that comes after a moment is of use."""
        return self._cutter.is_done and (self.sink is None or time > self._options.end)

    def _cuts(self, frames: Iterator[Frame]) -> Iterator[KeyframeClip]:
        sink, start, end = self.sink, self._options.start, self._options.end
        wait = self._smoother.look_ahead if self._smoother else 0.0
        for frame in frames:
            with self._watch.part("transform"):
                clips = self._cutter.add(frame)
            for clip in clips:
                if sink is not None:
                    sink.cut(clip.time - wait)
                yield clip
            if sink is not None and start <= frame.time <= end:
                sink.frame(frame, self._needed(frame.time))
            if self._is_done(frame.time):
                self.source.close()
                return
        if self.source.live or not self._stopped:
            yield from self._cutter.finish()

    def _needed(self, time: float) -> float:
        """The keyframe whose result the picture of a moment needs."""
        after = self.plan.next_after(time)
        return after if after - time <= MAX_GAP else self.plan.last_before(time)

    def _find(self, clips: list[KeyframeClip]) -> list[Found]:
        times = [self._timestamp(clip) for clip in clips]
        with self._watch.part("persons"):
            people = self._persons.at(times, [clip.image for clip in clips])
        return [
            Found(replace(clip, image=None), boxes, scores) for clip, (boxes, scores) in zip(clips, people)
        ]

    def _score(self, found: list[Found]) -> Iterator[KeyframeActions]:
        for item, scores in zip(found, self._score_boxes(found)):
            height, width = item.clip.size
            timestamp = self._timestamp(item.clip)
            yield KeyframeActions(
                time=item.clip.time,
                timestamp=timestamp,
                boxes=item.boxes.astype(np.float64) / [width, height, width, height],
                person_scores=np.asarray(item.person_scores, dtype=np.float64),
                scores=scores,
                tracks=self._tracker.update(item.boxes, item.person_scores, timestamp),
            )

    def _smooth(self, results: Iterable[KeyframeActions]) -> Iterator[KeyframeActions]:
        smoother = self._smoother
        if smoother is None:
            yield from results
            return
        waiting: deque[KeyframeActions] = deque()
        for result in results:
            waiting.append(result)
            for _, _, scores in smoother.add(result.time, result.tracks, result.scores):
                yield replace(waiting.popleft(), scores=scores)
        for _, _, scores in smoother.flush():
            yield replace(waiting.popleft(), scores=scores)

    def _timestamp(self, clip: KeyframeClip) -> float:
        return round(clip.time + self._options.video_start, 6)

    def _report(self) -> None:
        """Say what was damaged."""
        name = self.source.name
        if self.missing and not self.source.live:
            logger.warning(
                "%s: %d of its frames are damaged; those before stand in their place", name, self.missing
            )
        if self.left_out:
            logger.warning("%s: %d keyframes lie in a damaged part and are left out", name, self.left_out)


class _Results(Iterator[KeyframeActions]):
    """Of a channel; an interrupt while it waits does not end it."""

    def __init__(self, channel: Channel[KeyframeActions]) -> None:
        self._channel = channel

    def __next__(self) -> KeyframeActions:
        results = self._channel.take()
        if not results:
            raise StopIteration
        return results[0]


def _each(channel: Channel[Frame]) -> Iterator[Frame]:
    while frames := channel.take():
        yield frames[0]
