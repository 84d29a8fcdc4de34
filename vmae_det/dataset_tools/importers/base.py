"""Interface and registry of importers, and the options and report of an import."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from vmae_det.dataset_tools.importers.documents import JsonValue, read_json
from vmae_det.dataset_tools.importers.tracks import AnnotatedVideo
from vmae_det.utils.errors import DataError
from vmae_det.utils.input_files import open_input
from vmae_det.utils.registry import Registry, lookup

IMPORTER_REGISTRY = Registry("IMPORTER")
AUTO = "auto"
_UTF16_XML = ("\ufeff<".encode("utf-16-le"), "\ufeff<".encode("utf-16-be"))


class AnnotationFile:
    """An annotation file to import. JSON is parsed once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def is_xml(self) -> bool:
        """Whether the content looks like XML.

        Raises:
            DataError: the file cannot be opened, or is a zip archive.
        """
        with open_input(self.path) as file:
            head = file.read(64)
        if head.startswith(b"PK"):
            raise DataError(
                "expected an annotation file, got a zip archive; unpack it and import the file inside",
                self.path,
            )
        return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<", *_UTF16_XML))

    @cached_property
    def json(self) -> JsonValue:
        """Root of the JSON document."""
        return read_json(self.path)


class Importer(ABC):
    """Reads one annotation format."""

    @abstractmethod
    def recognizes(self, file: AnnotationFile) -> bool:
        """Return whether a file looks like this format."""

    @abstractmethod
    def read(self, file: AnnotationFile) -> list[AnnotatedVideo]:
        """Return the annotations of each video.

        Raises:
            DataError: the file is invalid; the error names the line or the JSON path.
        """


def format_names() -> list[str]:
    """Return the values of --format other than "auto"."""
    return sorted(name for name, _ in IMPORTER_REGISTRY)


def find_importer(file: AnnotationFile, name: str) -> Importer:
    """Return the importer called `name`, or, for "auto", the one that recognizes the file."""
    if name != AUTO:
        return lookup(IMPORTER_REGISTRY, name, "--format")()
    for known in format_names():
        importer = IMPORTER_REGISTRY.get(known)()
        if importer.recognizes(file):
            return importer
    raise DataError(
        f"unknown annotation format; expected one of {', '.join(format_names())} (VIA 2 and Label Studio's "
        "JSON-MIN are not supported)",
        file.path,
    )


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import.

    Args:
        format: a name in `IMPORTER_REGISTRY`, or "auto".
        videos: folder of the video files.
        every: seconds between keyframes.
        label_map: label map file with names and ids of the actions. None: build it from the actions found.
        video_start: second of the dataset's clock at which every video file starts.
        rate: frames per second of the frame numbers; overrides the rate of the annotations and of the videos.
        first_frame: number of a video's first frame in image names.
        ignored: classes, attributes and actions to ignore.
        video: id of the video, where the annotation files do not name it.
        frame_size: width and height of the frames in pixels, where the annotation files do not contain it.
    """

    format: str = AUTO
    videos: Path | None = None
    every: float = 1.0
    label_map: Path | None = None
    video_start: float = 0.0
    rate: float | None = None
    first_frame: int = 0
    ignored: frozenset[str] = frozenset()
    video: str | None = None
    frame_size: tuple[int, int] | None = None


@dataclass
class ImportReport:
    """Result of an import: what was written, what was skipped (reason to count), and notes to review."""

    videos: int = 0
    keyframes: int = 0
    persons: int = 0
    boxes: int = 0
    labels: int = 0
    rows: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def as_text(self) -> str:
        """Return a summary of a few lines."""
        counts = ("videos", "keyframes", "persons", "boxes", "labels", "rows")
        lines = [", ".join(f"{getattr(self, name)} {name}" for name in counts)]
        lines += [f"skipped: {count} {what}" for what, count in sorted(self.skipped.items()) if count]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])
