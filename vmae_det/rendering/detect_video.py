"""From a video to the files that say what its people do."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from vmae_det.engine.hooks import PATIENCE, Interrupted
from vmae_det.formats.person_boxes import PersonBoxes
from vmae_det.inference.person_sources import PersonSource
from vmae_det.inference.predictor import ActionPredictor
from vmae_det.inference.stream import ActionStream, StreamOptions
from vmae_det.rendering.overlay_writer import OverlayStyle, OverlayWriter
from vmae_det.rendering.result_writers import WRITERS, Output, ResultWriter, output_paths
from vmae_det.utils import distributed
from vmae_det.utils.resource_usage import Stopwatch
from vmae_det.video.sources import VideoSource, open_source

_OPEN_BAR = "{desc}: {n:.0f} s of video [{elapsed}{postfix}]"
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of video [{elapsed}<{remaining}{postfix}]"


@dataclass(frozen=True)
class Settings:
    """What is made of each video.

    Attributes:
        formats: names of WRITERS.
        every: seconds between keyframes, where the persons dictate none.
        video_start: second of the boxes' clock at which the video starts.
        start, end: seconds of the video that are looked at.
        smooth: as of StreamOptions.
        overlap: decode, score and draw side by side.
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


def detect_video(
    predictor: ActionPredictor,
    video: str | Path | VideoSource,
    persons: PersonBoxes | PersonSource | None,
    stem: Path,
    settings: Settings,
    title: str | None = None,
) -> list[Path]:
    """Write what the people of a video do, in each of the formats; gives the files, all or none of them.

    Where the video cannot be read to its end, or a signal asks to leave, the files hold what comes before,
    and `unfinished_mark` is there.

    Args:
        persons: as of ActionPredictor.
        stem: where the files go, to which each format adds its suffix.
        title: of the progress bar; None shows none.

    Raises:
        UserError: the video cannot be read, or a file not be written.
        Interrupted: after a signal; of a live source, where this is the usual end, only without any result.
    """
    source = video if isinstance(video, VideoSource) else open_source(video, predictor.cfg.DATALOADER.READER)
    options = StreamOptions(
        settings.video_start,
        settings.start,
        settings.end,
        settings.overlap,
        settings.stopwatch,
        settings.smooth,
    )
    stream = predictor.stream(source, persons, every=settings.every, options=options)
    paths = output_paths(stem, settings.formats)
    with _Interrupts(stream) as interrupts, ExitStack() as stack:
        writers = [
            stack.enter_context(WRITERS[name](_output(path, stream, predictor, settings)))
            for name, path in paths.items()
        ]
        stream.sink = next((writer for writer in writers if isinstance(writer, OverlayWriter)), None)
        stack.enter_context(stream)
        last = _write_all(stream, writers, stack.enter_context(_Progress(stream, options, title)))
        if interrupts.received and last is None:
            raise Interrupted(interrupts.received, "before the first keyframe; nothing is written")
    is_cut = not source.live and (interrupts.received or stream.truncated)
    if is_cut:
        unfinished_mark(stem).touch()
    else:
        unfinished_mark(stem).unlink(missing_ok=True)
    if interrupts.received and not source.live:
        done = f"at second {last:.1f}; what is done is in {stem.parent}: run it again for the rest"
        raise Interrupted(interrupts.received, done)
    return list(paths.values())


def unfinished_mark(stem: Path) -> Path:
    """The file that is there where a video's files hold a part of it only."""
    return stem.with_name(f".{stem.name}.unfinished")


def _output(path: Path, stream: ActionStream, predictor: ActionPredictor, settings: Settings) -> Output:
    return Output(
        path=path,
        video_id=stream.source.video_id,
        source=stream.source,
        label_map=predictor.label_map,
        video_start=settings.video_start,
        spacing=stream.plan.spacing,
        style=settings.style,
        overlap=settings.overlap,
        stopwatch=settings.stopwatch,
    )


def _write_all(stream: ActionStream, writers: Sequence[ResultWriter], progress: _Progress) -> float | None:
    """Hand each result to the writers; gives the time of the last one."""
    last = None
    for result in stream:
        for writer in writers:
            writer.write(result)
        progress.update(result.time)
        last = result.time
    return last


class _Interrupts:
    """While the block lasts, a first signal to leave stops the stream; what is done is then written.

    A second one, some seconds later, ends the process as if there were no block.

    Attributes:
        received: the first signal; 0 before.
    """

    def __init__(self, stream: ActionStream) -> None:
        self.received = 0
        self._stream, self._since = stream, 0.0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> _Interrupts:
        if threading.current_thread() is threading.main_thread():  # Python gives signals to this one alone
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _note(self, number: int, _: FrameType | None) -> None:
        if not self.received:
            self.received, self._since = number, time.monotonic()
            self._stream.stop()
        elif time.monotonic() - self._since > PATIENCE:
            self.__exit__()
            os.kill(os.getpid(), number)


class _Progress:
    """A bar in seconds of video, with the speed relative to real time, and what a live stream lost."""

    def __init__(self, stream: ActionStream, options: StreamOptions, title: str | None) -> None:
        times = stream.source.times
        end = options.end if times is None else min(options.end, float(times[-1]))
        total = None if end == float("inf") else round(max(end - options.start, 0), 1)
        self._stream, self._start, self._began = stream, options.start, time.monotonic()
        self._bar = tqdm(
            total=total,
            desc=title,
            disable=True if title is None or not distributed.is_main_process() else None,
            bar_format=_OPEN_BAR if total is None else _BAR,
        )

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None and self._bar.total is not None:
            self._bar.update(self._bar.total - self._bar.n)
        self._bar.close()

    def update(self, time_of_video: float) -> None:
        """All up to a moment of the video is scored."""
        self._bar.set_postfix_str(self.describe(time_of_video), refresh=False)
        done = max(time_of_video - self._start, 0)
        self._bar.update(done - self._bar.n)

    def describe(self, time_of_video: float) -> str:
        """Speed, and of a live stream latency and losses."""
        stream = self._stream
        if stream.latency is not None:
            return (
                f"{stream.latency:.1f} s behind, dropped {stream.dropped_frames} frames and "
                f"{stream.dropped_keyframes} keyframes"
            )
        return f"{(time_of_video - self._start) / (time.monotonic() - self._began):.2f} x real time"
