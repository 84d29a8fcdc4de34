"""The files that the actions of a video are written to, each while they come."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Protocol, TextIO

import numpy as np
import simplejson

from vmae_det.formats.ava_csv import format_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.detections import ActionDetections, KeyframeActions
from vmae_det.rendering.overlay_writer import OverlayStyle, OverlayWriter
from vmae_det.rendering.page import write_page
from vmae_det.utils.errors import ConfigError, did_you_mean
from vmae_det.utils.output_files import atomic_write
from vmae_det.utils.resource_usage import Stopwatch
from vmae_det.video.sources import FileSource, VideoSource

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Output:
    """What a writer is to write.

    Attributes:
        path: the file.
        video_id: the video's name in the file.
        source: the video.
        label_map: the columns of the scores.
        video_start: second of the keyframes' clock at which the video starts.
        spacing: seconds between keyframes.
        style: what is drawn.
        overlap: whether drawing may use a thread of its own.
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


class ResultWriter(Protocol):
    """A context manager that takes keyframes; its file is there, whole, when the block ends without error."""

    suffix: ClassVar[str]  # of the file's name, behind the video's

    def __init__(self, output: Output) -> None: ...

    def __enter__(self) -> ResultWriter: ...

    def __exit__(self, *error: object) -> None: ...

    def write(self, keyframe: KeyframeActions) -> None:
        """The result of the next keyframe."""


class _Lines:
    """A text file to which each keyframe adds what `_text` makes of it."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._stack = ExitStack()
        self._file: TextIO | None = None

    def __enter__(self) -> _Lines:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_write(self._output.path))
            self._file = stack.enter_context(temporary.open("w", encoding="utf-8", newline="\n"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)

    def write(self, keyframe: KeyframeActions) -> None:
        """As of ResultWriter."""
        self._file.write(self._text(keyframe))

    def _text(self, keyframe: KeyframeActions) -> str:
        raise NotImplementedError


def csv_id(video_id: str) -> str:
    """A video's name as AVA's CSV, which has no quotes, can hold it."""
    return "".join(c if c.isprintable() and c not in '",' else "_" for c in video_id).strip() or "_"


class CsvWriter(_Lines):
    """AVA's CSV: a line for each person and action, whatever its score."""

    suffix = ".csv"

    def _text(self, keyframe: KeyframeActions) -> str:
        if not len(keyframe):
            return ""
        return format_action_csv(keyframe.to_rows(csv_id(self._output.video_id), self._output.label_map))


class JsonLinesWriter(_Lines):
    """A line of JSON for each keyframe, one without people too."""

    suffix = ".jsonl"

    def _text(self, keyframe: KeyframeActions) -> str:
        line = {"video": self._output.video_id} | keyframe.to_json(self._output.label_map)
        return simplejson.dumps(line) + "\n"


class OverlayFile(OverlayWriter):
    """The video with its people and what they do."""

    suffix = "_actions.mp4"

    def __init__(self, output: Output) -> None:
        super().__init__(
            output.path,
            output.source,
            output.label_map,
            output.spacing,
            output.style,
            output.overlap,
            output.stopwatch,
        )


class PageFile:
    """The video as a page for the browser; of files alone."""

    suffix = ".html"

    def __init__(self, output: Output) -> None:
        if not isinstance(output.source, FileSource):
            raise ConfigError(f"--format: html takes files, and {output.source.name} is none; leave it out")
        self._output = output
        self._keyframes: list[KeyframeActions] = []

    def __enter__(self) -> PageFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            output, keyframes = self._output, self._keyframes
            video = Path(output.source.name)
            found = ActionDetections.collect(video, output.video_start, keyframes, output.label_map)
            write_page(found, output.path, threshold=output.style.threshold)

    def write(self, keyframe: KeyframeActions) -> None:
        """As of ResultWriter."""
        self._keyframes.append(replace(keyframe, scores=keyframe.scores.astype(np.float32)))


# Formats by the name that --format gives them; a new one is a class as ResultWriter, and a line here. Files
# get their names from the last one to the first. The page comes last of all: it reads the video again, which
# may have gone, and the others are there then.
WRITERS: dict[str, type[ResultWriter]] = {
    "html": PageFile,
    "csv": CsvWriter,
    "jsonl": JsonLinesWriter,
    "overlay": OverlayFile,
}


def choose_formats(names: str) -> list[str]:
    """The formats of a list such as "overlay,csv", in the order of WRITERS; ConfigError for others."""
    formats = [name.strip() for name in names.split(",")]
    for name in formats:
        if name not in WRITERS:
            raise ConfigError(f"--format: got '{name}', which is no format{did_you_mean(name, WRITERS)}")
    return [name for name in WRITERS if name in formats]


def output_paths(stem: Path, formats: list[str]) -> dict[str, Path]:
    """The file of each format, for a video whose files begin with `stem`."""
    return {name: stem.with_name(stem.name + WRITERS[name].suffix) for name in formats}
