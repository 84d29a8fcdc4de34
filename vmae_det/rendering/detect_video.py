"""Runs detection, or classification over time, on a video and writes its result files."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from tqdm import tqdm

from vmae_det.engine.hooks import PATIENCE, Interrupted
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import PersonBoxes
from vmae_det.inference.detections import KeyframeActions
from vmae_det.inference.person_sources import PersonSource
from vmae_det.inference.predictor import ActionPredictor
from vmae_det.inference.stream import ActionStream, StreamOptions
from vmae_det.rendering.overlay_video import OverlayStyle, OverlayWriter
from vmae_det.rendering.result_writers import WRITERS, OutputSpec, ResultWriter, output_paths
from vmae_det.utils import distributed
from vmae_det.utils.resource_usage import Stopwatch
from vmae_det.video.sources import VideoSource, open_source

logger = logging.getLogger(__name__)

_LIVE_BAR = "{desc}: {n:.0f} s of video [{elapsed}{postfix}]"
_FILE_BAR = (
    "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of video [{elapsed}<{remaining}{postfix}]"
)


@dataclass(frozen=True)
class DetectionSettings:
    """How to process a video and what to write.

    Attributes:
        formats: names in WRITERS.
        every: seconds between keyframes, if the persons do not set them.
        video_start: time on the clock of the boxes at which the video starts.
        start: start of the part to process, in seconds of the video.
        end: end of the part to process, in seconds of the video.
        smooth: as in StreamOptions.
        style: what to draw.
        overlap: decode, score and draw in parallel.
        stopwatch: measures the parts of the work.
        explain: draw which regions raise the score of a person's best action.
    """

    formats: Sequence[str] = ("csv", "jsonl", "overlay")
    every: float = 1.0
    video_start: float = 0.0
    start: float = 0.0
    end: float = float("inf")
    smooth: float = 0.0
    style: OverlayStyle = field(default_factory=OverlayStyle)
    overlap: bool = True
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    explain: bool = False

    def stream_options(self) -> StreamOptions:
        """Return the options of the stream."""
        return StreamOptions(
            self.video_start,
            self.start,
            self.end,
            self.overlap,
            self.stopwatch,
            self.smooth,
            self.style.threshold if self.explain else None,
        )


class ResultListener(Protocol):
    """Receives the results of a stream, as the writers of files do."""

    def write(self, keyframe: KeyframeActions) -> None:
        """Receive the next result."""


def detect_video(
    predictor: ActionPredictor,
    video: str | Path | VideoSource,
    persons: PersonBoxes | PersonSource | None,
    stem: Path,
    settings: DetectionSettings,
    title: str | None = None,
    *,
    listener: ResultListener | None = None,
) -> list[Path]:
    """Detect the actions in a video and write them in each format. Either all files appear, or none.

    If the video cannot be read to its end, or the process is asked to stop by a signal, the files contain the
    results up to there, and the file `unfinished_mark(stem)` is created.

    Args:
        predictor: scores the actions.
        video: file, folder of frames, URL, camera or open source.
        persons: as in ActionPredictor.
        stem: path of the files without the suffix that each format appends.
        settings: how to process the video and what to write.
        title: title of the progress bar; None hides the bar.
        listener: also receives each result.

    Returns:
        Paths of the files, in the order of the formats.

    Raises:
        UserError: the video cannot be read, or a file cannot be written.
        Interrupted: stopped by a signal. A signal is the usual end of a live stream, so for those it is only
            raised if there are no results.
    """
    source = video if isinstance(video, VideoSource) else open_source(video, predictor.cfg.DATALOADER.READER)
    stream = predictor.stream(source, persons, every=settings.every, options=settings.stream_options())
    return write_stream(stream, predictor.label_map, stem, settings, title, listener=listener)


def write_stream(
    stream: ActionStream,
    label_map: LabelMap,
    stem: Path,
    settings: DetectionSettings,
    title: str | None = None,
    *,
    writers: Mapping[str, type[ResultWriter]] = WRITERS,
    listener: ResultListener | None = None,
) -> list[Path]:
    """Write the results of a stream in each format, as `detect_video` does.

    Args:
        label_map: classes of the scores.
        writers: writers of the formats.
        listener: also receives each result.
    """
    source = stream.source
    paths = output_paths(stem, settings.formats, writers)
    with _InterruptHandler(stream) as interrupts, ExitStack() as stack:
        opened = [
            stack.enter_context(writers[name](_output_spec(path, stream, label_map, settings)))
            for name, path in paths.items()
        ]
        stream.sink = next((writer for writer in opened if isinstance(writer, OverlayWriter)), None)
        stack.enter_context(stream)
        listeners = [*opened, *([listener] if listener else [])]
        last = _write_results(stream, listeners, stack.enter_context(_ProgressBar(stream, settings, title)))
        if interrupts.received and last is None:
            raise Interrupted(interrupts.received, "before the first keyframe; no results were written")
    is_partial = not source.live and (interrupts.received or stream.truncated)
    if is_partial and paths:
        unfinished_mark(stem).touch()
    elif paths:
        unfinished_mark(stem).unlink(missing_ok=True)
    if interrupts.received and not source.live:
        state = f"at second {last:.1f}"
        if paths:
            state += f"; results so far are in {stem.parent}; run the command again to complete them"
        raise Interrupted(interrupts.received, state)
    return list(paths.values())


def unfinished_mark(stem: Path) -> Path:
    """Return the file that exists while the result files only cover a part of the video."""
    return stem.with_name(f".{stem.name}.unfinished")


def is_done(stem: Path, formats: Sequence[str], writers: Mapping[str, type[ResultWriter]] = WRITERS) -> bool:
    """Return whether the results of a whole video exist in all formats (see `write_stream`)."""
    paths = output_paths(stem, formats, writers).values()
    return not unfinished_mark(stem).exists() and all(path.is_file() for path in paths)


def _output_spec(
    path: Path, stream: ActionStream, label_map: LabelMap, settings: DetectionSettings
) -> OutputSpec:
    return OutputSpec(
        path=path,
        video_id=stream.source.video_id,
        source=stream.source,
        label_map=label_map,
        video_start=settings.video_start,
        spacing=stream.plan.spacing,
        style=settings.style,
        overlap=settings.overlap,
        stopwatch=settings.stopwatch,
        origin=stream.persons.origin,
    )


def _write_results(
    stream: ActionStream, listeners: Sequence[ResultListener], progress: _ProgressBar
) -> float | None:
    """Pass each result to the listeners; return the time of the last one. Warn if nobody was found."""
    last, keyframes, people = None, 0, 0
    for result in stream:
        for listener in listeners:
            listener.write(result)
        progress.update(result.time)
        last = result.time
        keyframes += 1
        people += len(result)
    if keyframes and not people:
        remedy = f"; lower {stream.persons.threshold} to find more" if stream.persons.threshold else ""
        logger.warning("%s: nobody found in %d keyframes%s", stream.source.name, keyframes, remedy)
    return last


class _InterruptHandler:
    """Stops the stream on the first SIGINT or SIGTERM, so that the results so far are written.

    A second signal, some seconds later, has its default effect.

    Attributes:
        received: the first signal; 0 before.
    """

    def __init__(self, stream: ActionStream) -> None:
        self.received = 0
        self._stream, self._since = stream, 0.0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> _InterruptHandler:
        if threading.current_thread() is threading.main_thread():  # only the main thread can set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _handle(self, number: int, _: FrameType | None) -> None:
        if not self.received:
            self.received, self._since = number, time.monotonic()
            self._stream.stop()
        elif time.monotonic() - self._since > PATIENCE:
            self.__exit__()
            os.kill(os.getpid(), number)


class _ProgressBar:
    """Progress bar in seconds of video. Shows speed; for live streams, latency and dropped frames."""

    def __init__(self, stream: ActionStream, settings: DetectionSettings, title: str | None) -> None:
        times = stream.source.times
        end = settings.end if times is None else min(settings.end, float(times[-1]))
        total = None if end == float("inf") else round(max(end - settings.start, 0), 1)
        self._stream, self._start, self._began = stream, settings.start, time.monotonic()
        self._bar = tqdm(
            total=total,
            desc=title,
            disable=True if title is None or not distributed.is_main_process() else None,
            bar_format=_LIVE_BAR if total is None else _FILE_BAR,
        )

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None and self._bar.total is not None:
            self._bar.update(self._bar.total - self._bar.n)
        self._bar.close()

    def update(self, video_time: float) -> None:
        """Show that the video is processed up to this time."""
        self._bar.set_postfix_str(self.describe(video_time), refresh=False)
        done = max(video_time - self._start, 0)
        self._bar.update(done - self._bar.n)

    def describe(self, video_time: float) -> str:
        """Return the speed, or the latency and the dropped frames of a live stream."""
        stream = self._stream
        if stream.latency is not None:
            return (
                f"latency {stream.latency:.1f} s, dropped {stream.dropped_frames} frames and "
                f"{stream.dropped_keyframes} keyframes"
            )
        return f"{(video_time - self._start) / (time.monotonic() - self._began):.2f} x real time"
