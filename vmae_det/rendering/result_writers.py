"""Writers of the result files of a video: CSV, JSON lines, overlay and HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Protocol, TextIO

import numpy as np
import simplejson

from vmae_det.formats.ava_csv import format_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.detections import ActionDetections, KeyframeActions
from vmae_det.rendering.overlay_video import OverlayStyle, OverlayWriter
from vmae_det.rendering.page import write_page
from vmae_det.utils.errors import ConfigError, did_you_mean
from vmae_det.utils.output_files import atomic_write
from vmae_det.utils.resource_usage import Stopwatch
from vmae_det.video.sources import FileSource, VideoSource


@dataclass(frozen=True)
class OutputSpec:
    """Specification of the output of a result writer.

    Attributes:
        path: the file.
        video_id: name of the video in the file.
        source: the video.
        label_map: classes of the scores.
        video_start: time on the clock of the keyframes at which the video starts.
        spacing: seconds between keyframes.
        style: what to draw.
        overlap: allow drawing in a separate thread.
        stopwatch: measures the parts of the work.
        origin: where the person boxes are from; "" if that is not known.
    """

    path: Path
    video_id: str
    source: VideoSource
    label_map: LabelMap
    video_start: float
    spacing: float
    style: OverlayStyle = field(default_factory=OverlayStyle)
    overlap: bool = True
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    origin: str = ""


class ResultWriter(Protocol):
    """Context manager that receives keyframes. Its file appears when the block ends without an error."""

    suffix: ClassVar[str]  # appended to the name of the video

    def __init__(self, output: OutputSpec) -> None: ...

    def __enter__(self) -> ResultWriter: ...

    def __exit__(self, *error: object) -> None: ...

    def write(self, keyframe: KeyframeActions) -> None:
        """Write the result of the next keyframe."""


class TextWriter:
    """Text file to which `_format` adds the text of each keyframe."""

    def __init__(self, output: OutputSpec) -> None:
        self._output = output
        self._stack = ExitStack()
        self._file: TextIO | None = None

    def __enter__(self) -> TextWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_write(self._output.path))
            self._file = stack.enter_context(temporary.open("w", encoding="utf-8", newline="\n"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)

    def write(self, keyframe: KeyframeActions) -> None:
        """As in ResultWriter."""
        self._file.write(self._format(keyframe))

    def _format(self, keyframe: KeyframeActions) -> str:
        raise NotImplementedError


def csv_id(video_id: str) -> str:
    """Return a video name without the characters that AVA's unquoted CSV cannot contain."""
    return "".join(c if c.isprintable() and c not in '",' else "_" for c in video_id).strip() or "_"


class CsvWriter(TextWriter):
    """AVA CSV with a row per person and action, for all scores."""

    suffix = ".csv"

    def _format(self, keyframe: KeyframeActions) -> str:
        if not len(keyframe):
            return ""
        return format_action_csv(keyframe.to_rows(csv_id(self._output.video_id), self._output.label_map))


class JsonLinesWriter(TextWriter):
    """JSON lines with an object per keyframe, including keyframes without persons."""

    suffix = ".jsonl"

    def _format(self, keyframe: KeyframeActions) -> str:
        line = {"video": self._output.video_id} | keyframe.to_json(self._output.label_map)
        return simplejson.dumps(line) + "\n"


class OverlayResultWriter(OverlayWriter):
    """The video with boxes and actions drawn on it."""

    suffix = "_actions.mp4"

    def __init__(self, output: OutputSpec) -> None:
        super().__init__(
            output.path,
            output.source,
            output.label_map,
            output.spacing,
            output.style,
            output.overlap,
            output.stopwatch,
        )


class PageResultWriter:
    """HTML page that plays the video with its detections. Only for video files, not for streams."""

    suffix = ".html"

    def __init__(self, output: OutputSpec) -> None:
        if not isinstance(output.source, FileSource):
            raise ConfigError(
                f"--format: html requires a video file, got the stream {output.source.name}; remove html"
            )
        self._output = output
        self._keyframes: list[KeyframeActions] = []

    def __enter__(self) -> PageResultWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            output = self._output
            video = Path(output.source.name)
            detections = ActionDetections.collect(
                video, output.video_start, self._keyframes, output.label_map
            )
            style = output.style
            write_page(
                detections,
                output.path,
                threshold=style.threshold,
                whole_frame=style.whole_frame,
                origin=output.origin,
            )

    def write(self, keyframe: KeyframeActions) -> None:
        """As in ResultWriter."""
        self._keyframes.append(replace(keyframe, scores=keyframe.scores.astype(np.float32)))


# Formats by their name in --format. To add one, write a class that implements ResultWriter and add a line
# here. Files are completed from the last format to the first. The page is completed last: it reads the video
# again, which may have been removed, and the other files are then complete.
WRITERS: dict[str, type[ResultWriter]] = {
    "html": PageResultWriter,
    "csv": CsvWriter,
    "jsonl": JsonLinesWriter,
    "overlay": OverlayResultWriter,
}


def choose_formats(names: str) -> list[str]:
    """Parse a list such as "overlay,csv"; return the formats in the order of WRITERS.

    Raises:
        ConfigError: a format is unknown.
    """
    formats = [name.strip() for name in names.split(",")]
    for name in formats:
        if name not in WRITERS:
            raise ConfigError(f"--format: unknown format '{name}'{did_you_mean(name, WRITERS)}")
    return [name for name in WRITERS if name in formats]


def output_paths(
    stem: Path, formats: Sequence[str], writers: Mapping[str, type[ResultWriter]] = WRITERS
) -> dict[str, Path]:
    """Return the file of each format; the names of all files of a video start with `stem`."""
    return {name: stem.with_name(stem.name + writers[name].suffix) for name in formats}
