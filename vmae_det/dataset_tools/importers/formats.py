"""The formats' registry, and which format a file is in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

from vmae_det.dataset_tools.importers.json_tree import Json, read_json
from vmae_det.dataset_tools.importers.tracks import AnnotatedVideo
from vmae_det.utils.errors import DataError
from vmae_det.utils.inputs import open_plain
from vmae_det.utils.registry import Registry, lookup

IMPORTER_REGISTRY = Registry("IMPORTER")
AUTO = "auto"
_UTF16_XML = ("\ufeff<".encode("utf-16-le"), "\ufeff<".encode("utf-16-be"))


class Source:
    """A file of annotations; JSON is parsed once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def is_xml(self) -> bool:
        """Whether it looks like XML; DataError if it cannot be opened, or is packed."""
        with open_plain(self.path) as file:
            head = file.read(64)
        if head.startswith(b"PK"):
            raise DataError("a zip archive; unpack it and give the annotation file inside", self.path)
        return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<", *_UTF16_XML))

    @cached_property
    def json(self) -> Json:
        """The root of the JSON."""
        return read_json(self.path)


class Importer(ABC):
    """Reads one format."""

    @abstractmethod
    def recognises(self, source: Source) -> bool:
        """Whether a file looks like this format."""

    @abstractmethod
    def read(self, source: Source) -> list[AnnotatedVideo]:
        """The annotations of each video; DataError names the place of what is wrong."""


def format_names() -> list[str]:
    """What --format may be, besides auto."""
    return sorted(name for name, _ in IMPORTER_REGISTRY)


def find_importer(source: Source, name: str) -> Importer:
    """The importer of that name, or, for "auto", the one that recognises the file."""
    if name != AUTO:
        return lookup(IMPORTER_REGISTRY, name, "--format")()
    for known in format_names():
        importer = IMPORTER_REGISTRY.get(known)()
        if importer.recognises(source):
            return importer
    raise DataError(
        f"not one of the formats {', '.join(format_names())} (VIA 2 and Label Studio's JSON-MIN are none)",
        source.path,
    )
