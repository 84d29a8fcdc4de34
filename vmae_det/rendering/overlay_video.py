"""Writes a video with boxes, actions and an optional timeline drawn on every frame."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.detections import ActionDetections, KeyframeActions
from vmae_det.rendering.box_interpolation import MAX_REACH, BoxInterpolator, PersonAtTime
from vmae_det.rendering.heat_map import blend_heat_maps
from vmae_det.rendering.label_drawing import ActionLabel
from vmae_det.rendering.overlay import LabelState, PersonOverlay, draw_classes, draw_people
from vmae_det.rendering.timeline import PAGE_SECONDS, ActionSpan, Timeline
from vmae_det.utils.errors import DataError
from vmae_det.utils.resource_usage import Stopwatch
from vmae_det.video.readers import open_video
from vmae_det.video.sources import FileSource, Frame, VideoSource
from vmae_det.video.writer import VideoWriter

logger = logging.getLogger(__name__)

_QUEUE_BYTES = 128 * 2**20  # of frames in the queue, not counting those whose keyframe's clip is incomplete
_LIVE_WAIT = 2.0  # longest time in seconds that a frame of a live stream waits for its keyframe
_TIMELINE_ROWS = 4  # maximum number of rows
_LIVE_HOLD = 5.0  # seconds for which the persons of a live stream are shown if the next keyframe is late


@dataclass(frozen=True)
class OverlayStyle:
    """What to draw.

    Attributes:
        top_k: maximum number of actions per person.
        threshold: lowest score of an action.
        timeline: add a strip with the actions over time below the frame.
        typeface: as in `fonts.load_font`.
        whole_frame: the actions are those of the whole frame, not of persons: draw no boxes and no numbers.
    """

    top_k: int = 3
    threshold: float = 0.3
    timeline: bool = False
    typeface: str | None = None
    whole_frame: bool = False


def write_overlay(
    detections: ActionDetections, path: Path, style: OverlayStyle | None = None, progress: bool = False
) -> Path:
    """Write the video of `detections` with boxes and actions on every frame, and with its sound.

    Frames are upright and keep their times. Boxes are interpolated between keyframes; a person has the
    actions of the nearest keyframe.

    Args:
        detections: detections of a video file or a folder of frames.
        path: the mp4 file to write.
        style: what to draw (default: `OverlayStyle()`).
        progress: show a progress bar.

    Returns:
        `path`.

    Raises:
        DataError: the video cannot be read.
        UserError: the file cannot be written, or the typeface does not exist.
    """
    reader = open_video(detections.video)
    source = FileSource(reader)
    times = np.unique(detections.timestamp)
    spacing = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    writer = OverlayWriter(
        path, source, detections.label_map, spacing, style or OverlayStyle(), overlap=False
    )
    disable, drawn = None if progress else True, 0
    with writer, tqdm(total=len(reader), desc="drawing", unit="frame", disable=disable) as bar:
        for keyframe in detections.keyframes():
            writer.write(keyframe)
        for frame in source.frames():
            writer.frame(frame, -math.inf)  # all keyframes are known already
            bar.update(frame.index + 1 - bar.n)
            drawn += 1
    if drawn < len(reader):
        logger.warning(
            "%s: %d frames are damaged; the previous frames are shown instead",
            detections.video,
            len(reader) - drawn,
        )
    return path


class OverlayWriter:
    """Writes an mp4 with boxes and actions on every frame, at the times of the frames and with their sound.

    This is a frame sink: the threads of a stream pass frames, the reader of the stream passes results. A
    frame is drawn as soon as the keyframes around it are known, in a separate thread. Use it as a context
    manager; the file appears when the block ends without an error.

    Args:
        path: the file to write.
        source: the video.
        label_map: classes of the scores.
        spacing: seconds between keyframes.
        style: what to draw.
        overlap: draw in a separate thread.
        stopwatch: measures drawing and encoding.

    Attributes:
        dropped: number of frames of a live stream that were not drawn.
        drawn: time of the last frame that was drawn.
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
        self._people = BoxInterpolator(spacing, _LIVE_HOLD if source.live else 0.0)
        self._memory: dict[int, LabelState] = {}
        self._timeline: Timeline | None = None
        self._bar_reach = min(spacing / 2, MAX_REACH)
        self._writer: VideoWriter | None = None
        self._changed = threading.Condition()
        self._frames: deque[tuple[Frame, float]] = deque()
        self._new_keyframes: list[KeyframeActions] = []  # not on the timeline yet
        # Keyframes up to these times have their clips, and their results.
        self._cut_until = self._known_until = -math.inf
        self._finished = self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True) if overlap else None
        if self._thread is not None:
            self._thread.start()

    def frame(self, frame: Frame, keyframe: float) -> None:
        """As in FrameSink."""
        max_frames = max(_QUEUE_BYTES // frame.image.nbytes, 1)
        with self._changed:
            if self._source.live and len(self._frames) >= max_frames:
                self._frames.popleft()
                self.dropped += 1
            # Do not block while the first frame waits for a keyframe whose clip needs further frames.
            self._changed.wait_for(
                lambda: (
                    self._thread is None
                    or self._stopped
                    or self._error is not None
                    or len(self._frames) < max_frames
                    or self._frames[0][1] > self._cut_until
                )
            )
            if self._error is not None:
                raise self._error
            self._frames.append((frame, keyframe))
            self._changed.notify_all()
        if self._thread is None:
            self._draw_ready_frames()

    def keyframes_cut(self, time: float) -> None:
        """As in FrameSink."""
        with self._changed:
            self._cut_until = time
            self._changed.notify_all()

    def stop(self) -> None:
        """As in FrameSink."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def write(self, keyframe: KeyframeActions) -> None:
        """Add the result of the next keyframe."""
        with self._changed:
            self._people.add(keyframe)
            if self._style.timeline:
                self._new_keyframes.append(keyframe)
            self._known_until = keyframe.time
            self._changed.notify_all()
        if self._thread is None:
            self._draw_ready_frames()

    def __enter__(self) -> OverlayWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._changed:
            self._finished = True
            self._stopped |= kind is not None
            self._changed.notify_all()
        if self._thread is None:
            self._draw_ready_frames()
        else:
            self._thread.join()
        failed = kind is not None or self._error is not None
        if self._writer is not None:
            with self._watch.measure("encode"):
                self._writer.__exit__(RuntimeError if failed else None, None, None)
        if self._error is not None and kind is None:
            raise self._error
        if self._writer is None and not failed:
            raise DataError("no frames between the start and end time", self._source.name)

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(self._has_work, timeout=0.05 if self._source.live else None)
                if self._stopped:
                    return
                self._draw_ready_frames()
                if self._finished and not self._frames:
                    return
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _has_work(self) -> bool:
        return self._stopped or self._finished or self._is_frame_ready()

    def _is_frame_ready(self) -> bool:
        """Whether the keyframes around the next frame are known, or the frame has waited long enough."""
        if not self._frames:
            return False
        frame, keyframe = self._frames[0]
        if self._finished or keyframe <= self._known_until:
            return True
        return self._source.live and self._source.now() - frame.time > _LIVE_WAIT

    def _draw_ready_frames(self) -> None:
        while True:
            with self._changed:
                if self._stopped or not self._is_frame_ready():
                    return
                frame, _ = self._frames.popleft()
                people = self._people.at(frame.time)
                self._changed.notify_all()
            self._draw(frame, people)

    def _draw(self, frame: Frame, people: list[tuple[int, PersonAtTime]]) -> None:
        height, width = frame.image.shape[:2]
        with self._watch.measure("draw"):
            size = np.array([width, height, width, height])
            overlays = [
                PersonOverlay(tuple(person.box * size), self._labels(person.keyframe, person.row), track)
                for track, person in people
            ]
            style = self._style
            limits = {"top_k": style.top_k, "threshold": style.threshold, "typeface": style.typeface}
            if style.whole_frame:
                actions = [action for person in overlays for action in person.actions]
                picture = draw_classes(frame.image, actions, **limits)
            else:
                maps = [p.keyframe.heat_maps[p.row] for _, p in people if p.keyframe.heat_maps is not None]
                image = blend_heat_maps(frame.image, maps) if maps else frame.image
                picture = draw_people(image, overlays, memory=self._memory, **limits)
            if style.timeline:
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
            whole_frame = self._style.whole_frame
            self._timeline = Timeline(
                picture.shape[:2],
                1 if whole_frame else _TIMELINE_ROWS,
                time,
                self._page_seconds(time),
                self._style.typeface,
                numbered=not whole_frame,
            )
        with self._changed:
            keyframes, self._new_keyframes = self._new_keyframes, []
        for keyframe in keyframes:
            self._timeline.add(self._spans(keyframe))
        return np.vstack([picture, self._timeline.draw(time)])

    def _page_seconds(self, start: float) -> float:
        """Return the duration of a page of the timeline; the pages of a video have equal durations."""
        times = self._source.times
        if times is None:
            return PAGE_SECONDS
        seconds = float(times[-1]) + 1 / float(self._source.rate) - start
        return max(seconds / math.ceil(seconds / PAGE_SECONDS), 1.0)

    def _spans(self, keyframe: KeyframeActions) -> list[ActionSpan]:
        start, end = keyframe.time - self._bar_reach, keyframe.time + self._bar_reach
        best = [(int(track), self._labels(keyframe, row)) for row, track in enumerate(keyframe.tracks)]
        return [
            ActionSpan(track, start, end, labels[0])
            for track, labels in best
            if labels and labels[0].score >= self._style.threshold
        ]

    def _labels(self, keyframe: KeyframeActions, row: int) -> list[ActionLabel]:
        """Return the top_k actions only: this runs for every frame, and there are many classes."""
        scores, names = keyframe.scores[row], self._label_map
        best = np.argsort(-scores, kind="stable")[: self._style.top_k]
        return [ActionLabel(names.names[c], float(scores[c]), names.kinds[c] or None) for c in best]
