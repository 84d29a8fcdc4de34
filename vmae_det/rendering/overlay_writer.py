"""The overlay of a video, drawn while the video is read and its keyframes are scored."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.detections import KeyframeActions
from vmae_det.rendering.overlay import Habit, PersonOverlay, draw_people
from vmae_det.rendering.people_over_time import PeopleOverTime, Sighting
from vmae_det.rendering.plates import ActionLabel
from vmae_det.rendering.timeline import PAGE, ActionSpan, Timeline
from vmae_det.utils.errors import DataError
from vmae_det.utils.resource_usage import Stopwatch
from vmae_det.video.sources import Frame, VideoSource
from vmae_det.video.writer import VideoWriter

_WAITING_BYTES = 128 * 2**20  # of frames that wait for their keyframe, beyond those that have to
_LIVE_WAIT = 2.0  # seconds that a frame of a live stream waits for its keyframe, at most
_TIMELINE_ROWS = 4  # of people, at most
_LONGEST_BAR = 1.0  # seconds before and after a keyframe that its actions fill on the timeline, at most
_LIVE_HOLD = 5.0  # seconds for which a live stream's people are shown when the next keyframe is late


@dataclass(frozen=True)
class OverlayStyle:
    """What is drawn.

    Attributes:
        top_k: actions of a person, at most.
        threshold: lowest score of an action.
        timeline: whether a strip below the frame shows the people's actions over time.
        typeface: as of `fonts.load_font`.
    """

    top_k: int = 3
    threshold: float = 0.3
    timeline: bool = False
    typeface: str | None = None


class OverlayWriter:
    """Writes an mp4 with boxes and actions on every frame, at the frames' own times, and with their sound.

    It is a frame sink: frames come from the stream's threads, results from whoever reads the stream, and a
    frame is drawn as soon as the keyframes around it are known, by a thread of its own.

    Args:
        path: the file; it is there when the block ends without an error.
        spacing: seconds between keyframes.
        overlap: False draws in the calling thread.

    Attributes:
        dropped: frames of a live stream that were not drawn.
        drawn: time of the last frame that was.
    """

    def __init__(
        self,
        path: Path,
        source: VideoSource,
        label_map: LabelMap,
        spacing: float,
        style: OverlayStyle,
        overlap: bool = True,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self.path, self.dropped, self.drawn = path, 0, 0.0
        self._source, self._label_map, self._style = source, label_map, style
        self._watch = stopwatch or Stopwatch()
        self._people = PeopleOverTime(spacing, _LIVE_HOLD if source.live else 0.0)
        self._memory: dict[int, Habit] = {}
        self._timeline: Timeline | None = None
        self._reach = min(spacing / 2, _LONGEST_BAR)
        self._writer: VideoWriter | None = None
        self._changed = threading.Condition()
        self._frames: deque[tuple[Frame, float]] = deque()
        self._new: list[KeyframeActions] = []  # which the timeline does not have yet
        self._cut = self._known = -math.inf  # keyframes up to these times are cut, and have their results
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True) if overlap else None
        if self._thread is not None:
            self._thread.start()

    def frame(self, frame: Frame, keyframe: float) -> None:
        """As of FrameSink."""
        most = max(_WAITING_BYTES // frame.image.nbytes, 1)
        with self._changed:
            if self._source.live and len(self._frames) >= most:
                self._frames.popleft()
                self.dropped += 1
            # Frames whose keyframe is yet to be cut can only be drawn after more of them have come.
            self._changed.wait_for(
                lambda: (
                    self._thread is None
                    or self._stopped
                    or self._error is not None
                    or len(self._frames) < most
                    or self._frames[0][1] > self._cut
                )
            )
            if self._error is not None:
                raise self._error
            self._frames.append((frame, keyframe))
            self._changed.notify_all()
        if self._thread is None:
            self._draw_ready()

    def keyframes_cut(self, time: float) -> None:
        """As of FrameSink."""
        with self._changed:
            self._cut = time
            self._changed.notify_all()

    def stop(self) -> None:
        """As of FrameSink."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def write(self, keyframe: KeyframeActions) -> None:
        """The result of the next keyframe."""
        with self._changed:
            self._people.add(keyframe)
            if self._style.timeline:
                self._new.append(keyframe)
            self._known = keyframe.time
            self._changed.notify_all()
        if self._thread is None:
            self._draw_ready()

    def __enter__(self) -> OverlayWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._changed:
            self._ended = True
            self._stopped |= kind is not None
            self._changed.notify_all()
        if self._thread is None:
            self._draw_ready()
        else:
            self._thread.join()
        failed = kind is not None or self._error is not None
        if self._writer is not None:
            with self._watch.measure("encode"):
                self._writer.__exit__(RuntimeError if failed else None, None, None)
        if self._error is not None and kind is None:
            raise self._error
        if self._writer is None and not failed:
            raise DataError("none of its frames lies in the part that is to be drawn", self._source.name)

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(self._has_work, timeout=0.05 if self._source.live else None)
                if self._stopped:
                    return
                self._draw_ready()
                if self._ended and not self._frames:
                    return
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _has_work(self) -> bool:
        return self._stopped or self._ended or self._is_ready()

    def _is_ready(self) -> bool:
        """Whether the next frame can be drawn, or has waited long enough."""
        if not self._frames:
            return False
        frame, keyframe = self._frames[0]
        if self._ended or keyframe <= self._known:
            return True
        return self._source.live and self._source.now() - frame.time > _LIVE_WAIT

    def _draw_ready(self) -> None:
        while True:
            with self._changed:
                if self._stopped or not self._is_ready():
                    return
                frame, _ = self._frames.popleft()
                people = self._people.at(frame.time)
                self._changed.notify_all()
            self._draw(frame, people)

    def _draw(self, frame: Frame, people: list[tuple[int, Sighting]]) -> None:
        height, width = frame.image.shape[:2]
        with self._watch.measure("draw"):
            size = np.array([width, height, width, height])
            shown = [
                PersonOverlay(tuple(person.box * size), self._labels(person.keyframe, person.row), track)
                for track, person in people
            ]
            picture = draw_people(
                frame.image,
                shown,
                top_k=self._style.top_k,
                threshold=self._style.threshold,
                memory=self._memory,
                typeface=self._style.typeface,
            )
            if self._style.timeline:
                picture = self._add_timeline(picture, frame.time)
        with self._watch.measure("encode"):
            if self._writer is None:
                size = picture.shape[1], picture.shape[0]
                self._writer = VideoWriter(
                    self.path, *size, self._source.rate, self._source.sound
                ).__enter__()
            self._writer.write(picture, self._source.start + frame.time)
        self.drawn = frame.time

    def _add_timeline(self, picture: np.ndarray, time: float) -> np.ndarray:
        if self._timeline is None:
            self._timeline = Timeline(
                picture.shape[:2], _TIMELINE_ROWS, time, self._page_from(time), self._style.typeface
            )
        with self._changed:
            keyframes, self._new = self._new, []
        for keyframe in keyframes:
            self._timeline.add(self._spans(keyframe))
        return np.vstack([picture, self._timeline.draw(time)])

    def _page_from(self, time: float) -> float:
        """Seconds of a page of the timeline: the video's, to the end of its last frame, in equal parts."""
        times = self._source.times
        if times is None:
            return PAGE
        seconds = float(times[-1]) + 1 / float(self._source.rate) - time
        return max(seconds / math.ceil(seconds / PAGE), 1.0)

    def _spans(self, keyframe: KeyframeActions) -> list[ActionSpan]:
        start, end = keyframe.time - self._reach, keyframe.time + self._reach
        best = [(int(track), self._labels(keyframe, row)) for row, track in enumerate(keyframe.tracks)]
        return [
            ActionSpan(track, start, end, labels[0])
            for track, labels in best
            if labels and labels[0].score >= self._style.threshold
        ]

    def _labels(self, keyframe: KeyframeActions, row: int) -> list[ActionLabel]:
        """The best actions alone: there are many, and this is done for each frame."""
        scores, names = keyframe.scores[row], self._label_map
        best = np.argsort(-scores, kind="stable")[: self._style.top_k]
        return [ActionLabel(names.names[c], float(scores[c]), names.kinds[c] or None) for c in best]
