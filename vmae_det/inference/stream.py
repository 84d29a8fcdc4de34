"""The inference pipeline of a video: decode, cut keyframe clips, detect persons, score and track them.

The stages run in separate threads. `ActionStream` yields the actions of each keyframe.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch

from vmae_det.config import CfgNode
from vmae_det.inference.detections import KeyframeActions
from vmae_det.inference.keyframe_clips import ClipCutter, ClipWithPersons, KeyframeClip, KeyframePlan
from vmae_det.inference.person_sources import PersonsOfModel, PersonSource
from vmae_det.inference.tracking import ScoreSmoother, Tracker
from vmae_det.utils.channel import Channel, ThreadPipeline, batches
from vmae_det.utils.errors import DataError
from vmae_det.utils.resource_usage import Stopwatch
from vmae_det.video.sources import Frame, VideoSource

logger = logging.getLogger(__name__)

# Longest interval between keyframes, in seconds, over which persons are followed.
MAX_KEYFRAME_GAP = 2.0
_DECODED_FRAMES = 8  # frames buffered between the decoder and the clip cutter


class FrameSink(Protocol):
    """Receives the frames of a stream, to draw on them the results of the keyframes around them."""

    dropped: int

    def frame(self, frame: Frame, keyframe: float) -> None:
        """Receive a frame, in order. May block, but not while a buffered frame needs a keyframe to be cut.

        Args:
            keyframe: time of the last keyframe whose result the frame needs; minus infinity: none.
        """

    def keyframes_cut(self, time: float) -> None:
        """All keyframes up to `time` have been cut: their results arrive without further frames."""

    def stop(self) -> None:
        """The stream was closed early: stop waiting."""


def collate_clips(items: Sequence[ClipWithPersons]) -> dict:
    """Return the batch of an ActionDetector for clips with at least one person each.

    With several short sides, `views` contains the clips at each one after the first.
    """
    batch = collate_videos([item.clip for item in items])
    for number, view in enumerate([batch, *batch.get("views", ())]):
        scales = [torch.tensor(item.clip.views[number].scale * 2) for item in items]
        view["boxes"] = [torch.as_tensor(item.boxes) * scale for item, scale in zip(items, scales)]
    scores = [torch.as_tensor(item.person_scores, dtype=torch.float32) for item in items]
    return batch | {"person_scores": scores}


def collate_videos(clips: Sequence[KeyframeClip]) -> dict:
    """Return the batch of an ActionDetector that finds the persons of clips itself. See `collate_clips`."""
    first, *further = [_collate_view(clips, number) for number in range(len(clips[0].views))]
    return first | ({"views": further} if further else {})


def _collate_view(clips: Sequence[KeyframeClip], number: int) -> dict:
    views = [clip.views[number] for clip in clips]
    return {
        "video": torch.stack([view.video for view in views]),
        "size": [torch.tensor(c.size[::-1]) * torch.tensor(v.scale) for c, v in zip(clips, views)],
    }


def to_keyframes(
    clips: Sequence[KeyframeClip],
    boxes: Sequence[np.ndarray],
    person_scores: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
) -> list[ClipWithPersons]:
    """Return clips with the persons that a model found in them.

    Args:
        boxes: (N, 4) of each clip, xyxy pixels of its first view.
        person_scores, scores: (N,) and (N, classes) of each clip.
    """
    results = []
    for clip, own, *of_persons in zip(clips, boxes, person_scores, scores):
        limit = np.array(clip.size[::-1] * 2, dtype=np.float32)
        results.append(ClipWithPersons(clip, (own / np.float32(clip.scale * 2)).clip(0, limit), *of_persons))
    return results


# Returns the scores (N, classes) of each clip. It is only called for clips without scores.
ScoreClips = Callable[[Sequence[ClipWithPersons]], list[np.ndarray]]
# Heat maps (N, h, w) of each clip, from the clips and their scores.
ExplainClips = Callable[[Sequence[ClipWithPersons], Sequence[np.ndarray]], list[np.ndarray]]


@dataclass
class StreamOptions:
    """Options of one ActionStream.

    Attributes:
        video_start: second on the boxes' clock at which the video starts.
        start, end: first and last second of the video to process.
        overlap: decode, detect persons and score in separate threads.
        stopwatch: measures the stages "decode", "transform", "persons", "batch" and "model".
        smooth: average the scores of a person over this many seconds before a keyframe and half as many
            after it (none after it for a live source). 0, or keyframes that are too far apart to follow
            persons, disable smoothing.
        explain: also compute heat maps of persons whose best score reaches this value; None: no heat maps.
    """

    video_start: float = 0.0
    start: float = 0.0
    end: float = math.inf
    overlap: bool = True
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    smooth: float = 0.0
    explain: float | None = None


class ActionStream(Iterator[KeyframeActions]):
    """Iterates over the actions at a video's keyframes, each as soon as it is available.

    Frames are decoded once and in order. Frames that neither a clip nor the sink needs any more are dropped.
    Call `close` when done, or use the stream as a context manager.

    Args:
        tracker: assigns the track ids (default: `Tracker()`).
        explain_clips: computes the heat maps; None: no heat maps.

    Attributes:
        persons: finds the persons.
        sink: also receives the frames; set it before the first result is requested.
        latency: seconds from capture to result for the latest keyframe of a live source.
        damaged_frames: number of needed frames that could not be decoded.
        truncated: whether the source could not be read to its end.

    Raises:
        DataError: no frame can be decoded.
    """

    def __init__(
        self,
        source: VideoSource,
        plan: KeyframePlan,
        persons: PersonSource,
        score_clips: ScoreClips,
        cfg: CfgNode,
        options: StreamOptions,
        tracker: Tracker | None = None,
        explain_clips: ExplainClips | None = None,
    ) -> None:
        self.source, self.plan = source, plan
        self.sink: FrameSink | None = None
        self.latency: float | None = None
        self.damaged_frames = 0
        self.truncated = self._stopped = False
        self.persons = persons
        self._score_clips, self._explain_clips = score_clips, explain_clips
        self._batch_size = cfg.TEST.BATCH_SIZE
        self._options = options
        self._stopwatch = options.stopwatch
        self._tracker = tracker or Tracker()
        smooths = options.smooth > 0 and plan.spacing <= MAX_KEYFRAME_GAP
        look_ahead = 0.0 if source.live else options.smooth / 2
        self._smoother = ScoreSmoother(options.smooth, look_ahead) if smooths else None
        self._cutter = ClipCutter(source, plan, cfg)
        self._stages = ThreadPipeline()
        self._waiting_clips: Channel[KeyframeClip] | None = None
        self._results: Iterator[KeyframeActions] | None = None
        self._exhausted = False

    @property
    def dropped_frames(self) -> int:
        """Number of frames of a live source that were not processed or not drawn."""
        return self.source.dropped + (self.sink.dropped if self.sink else 0)

    @property
    def dropped_keyframes(self) -> int:
        """Number of keyframes of a live source that were dropped while others were being scored."""
        return self._waiting_clips.dropped if self._waiting_clips is not None and self.source.live else 0

    @property
    def skipped_keyframes(self) -> int:
        """Number of keyframes in a damaged part of the video."""
        return self._cutter.skipped

    def __next__(self) -> KeyframeActions:
        if self._results is None:
            self._results = self._run_threads() if self._options.overlap else self._run_sequentially()
        try:
            result = next(self._results)
        except StopIteration:
            self._exhausted = True
            self._warn_about_damage()
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
        """Decode no more frames; the results of those that were decoded still follow."""
        self._stopped = True
        self.source.close()

    def close(self) -> None:
        """Stop all threads; pending results are discarded."""
        if not self._exhausted and self.sink is not None:
            self.sink.stop()
        self.source.close()
        self._stages.close()

    def _run_sequentially(self) -> Iterator[KeyframeActions]:
        groups = (self._add_persons([clip]) for clip in self._cut_clips(self._decode()))
        yield from self._smooth(result for group in groups for result in self._score(group))

    def _run_threads(self) -> Iterator[KeyframeActions]:
        stages, live = self._stages, self.source.live
        batch_size = 1 if live else self._batch_size
        frames = stages.run(self._decode(), _DECODED_FRAMES)
        self._waiting_clips = stages.run(
            self._cut_clips(_channel_items(frames)), batch_size, drop_oldest=live
        )
        if live or isinstance(self.persons, PersonsOfModel):
            # A live source: no queue between person detection and scoring, so that the next keyframe is the
            # newest one. A model that finds the persons: it must run in one thread.
            groups = (self._add_persons(clips) for clips in batches(self._waiting_clips, batch_size))
        else:
            with_persons = stages.run(
                (
                    item
                    for clips in batches(self._waiting_clips, batch_size)
                    for item in self._add_persons(clips)
                ),
                batch_size,
            )
            groups = batches(with_persons, batch_size)
        scored = stages.run(
            self._smooth(result for group in groups for result in self._score(group)), batch_size
        )
        return _Results(scored)

    def _decode(self) -> Iterator[Frame]:
        """Yield the needed frames in order, up to where the source cannot be read further."""
        first, needed = self._needed_frames()
        last = last_position = -1
        try:
            for frame in self._stopwatch.measure_each(self.source.frames(first, needed), "decode"):
                if self._stopped:
                    return
                position = (
                    frame.index - first if needed is None else int(np.searchsorted(needed, frame.index))
                )
                self.damaged_frames += position - last_position - 1
                last, last_position = frame.index, position
                yield frame
        except DataError as error:
            if last < 0:
                raise
            self.truncated = True
            logger.warning("%s; the rest of the video is skipped", error)
            return
        if self._stopped:
            return
        if last < 0:
            raise DataError("none of its frames can be decoded", self.source.name)
        if self.source.times is not None and not self._is_done(float(self.source.times[last])):
            total = len(self.source.times) - first if needed is None else len(needed)
            self.damaged_frames += total - 1 - last_position

    def _needed_frames(self) -> tuple[int, np.ndarray | None]:
        """Return the index of the first needed frame, and those of all needed frames (None: every frame)."""
        if self.source.times is None:
            return 0, None
        if self.sink is None:
            return self.plan.first_frame, np.flatnonzero(self.plan.needed)
        first_drawn = int(np.searchsorted(self.source.times, self._options.start))
        return min(self.plan.first_frame, first_drawn), None

    def _is_done(self, time: float) -> bool:
        """Return whether no frame after `time` is needed."""
        return self._cutter.is_done and (self.sink is None or time > self._options.end)

    def _cut_clips(self, frames: Iterator[Frame]) -> Iterator[KeyframeClip]:
        sink, start, end = self.sink, self._options.start, self._options.end
        delay = self._smoother.look_ahead if self._smoother else 0.0
        for frame in frames:
            with self._stopwatch.measure("transform"):
                clips = self._cutter.add(frame)
            for clip in clips:
                if sink is not None:
                    sink.keyframes_cut(clip.time - delay)
                yield clip
            if sink is not None and start <= frame.time <= end:
                sink.frame(frame, self._needed_keyframe(frame.time))
            if self._is_done(frame.time):
                self.source.close()
                return
        if self.source.live or not self._stopped:
            yield from self._cutter.finish()

    def _needed_keyframe(self, time: float) -> float:
        """Return the time of the keyframe whose result is needed to draw the frame at `time`."""
        after = self.plan.next_after(time)
        return after if after - time <= MAX_KEYFRAME_GAP else self.plan.last_before(time)

    def _add_persons(self, clips: list[KeyframeClip]) -> list[ClipWithPersons]:
        times = [self._timestamp(clip) for clip in clips]
        with self._stopwatch.measure(self.persons.stage):
            return self.persons.add_to(times, clips)

    def _score(self, clips: list[ClipWithPersons]) -> Iterator[KeyframeActions]:
        explain = self._explain_clips
        are_scored = all(item.scores is not None for item in clips)
        all_scores = [item.scores for item in clips] if are_scored else self._score_clips(clips)
        heat_maps = [None] * len(clips) if explain is None else explain(clips, all_scores)
        for item, scores, maps in zip(clips, all_scores, heat_maps):
            height, width = item.clip.size
            timestamp = self._timestamp(item.clip)
            yield KeyframeActions(
                time=item.clip.time,
                timestamp=timestamp,
                boxes=item.boxes.astype(np.float64) / [width, height, width, height],
                person_scores=np.asarray(item.person_scores, dtype=np.float64),
                scores=scores,
                tracks=self._tracker.update(item.boxes, item.person_scores, timestamp),
                heat_maps=maps,
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

    def _warn_about_damage(self) -> None:
        name = self.source.name
        if self.damaged_frames and not self.source.live:
            logger.warning(
                "%s: %d frames are damaged; each is replaced by the frame before it",
                name,
                self.damaged_frames,
            )
        if self.skipped_keyframes:
            logger.warning(
                "%s: skipped %d keyframes in a damaged part of the video", name, self.skipped_keyframes
            )


class _Results(Iterator[KeyframeActions]):
    """Iterates over a channel. Unlike a generator, it survives an interrupt while it waits."""

    def __init__(self, channel: Channel[KeyframeActions]) -> None:
        self._channel = channel

    def __next__(self) -> KeyframeActions:
        results = self._channel.get()
        if not results:
            raise StopIteration
        return results[0]


def _channel_items(channel: Channel[Frame]) -> Iterator[Frame]:
    while frames := channel.get():
        yield frames[0]
