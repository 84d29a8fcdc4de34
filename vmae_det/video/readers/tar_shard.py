"""Tar shards: one file that holds many videos, each read from its place in it, without unpacking.

The layout is webdataset's: the members KEY.mp4, KEY.json, KEY.cls belong together.
"""

from __future__ import annotations

import functools
import io
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from vmae_det.utils.errors import DataError
from vmae_det.utils.file_types import VIDEO_SUFFIXES
from vmae_det.utils.paths import local_path

NO_CLASS, BAD_CLASS = -1, -2  # labels of videos without a KEY.cls, and with one that holds no class number
_MAX_HEADER = 1 << 20  # bytes; tar's own have 512, long names and attributes some more
_CLASS = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class ShardVideo:
    """A video in a tar shard.

    Attributes:
        key: its name without suffix, folders inside of the shard included.
        path: what `open_video` takes: the shard's path, then the member's name.
        label: the content of KEY.cls, or None.
    """

    key: str
    path: Path
    label: int | None = None


class VideoMember(NamedTuple):
    """Where a video lies in a shard: its name there, start and size in bytes, and its label."""

    name: str
    start: int
    size: int
    label: int


def list_shard(path: str | Path) -> list[ShardVideo]:
    """The videos of a shard, in the order in which they lie in it.

    Raises:
        DataError: it is no tar file, is cut off, is compressed, or holds no videos, or a KEY.cls holds no
            class number.
    """
    path = local_path(path)
    videos = []
    for name, _, _, label in scan_shard(path):
        key = key_of(name)
        if label == BAD_CLASS:
            text = _read_text(path, find_in_shard(path, f"{key}.cls"))
            raise DataError(f"{key}.cls: expected a class number 0, 1, 2, ..., got '{text}'", path)
        videos.append(ShardVideo(key, path / name, None if label == NO_CLASS else label))
    return videos


def scan_shard(path: Path) -> list[VideoMember]:
    """The videos of a shard, in the order in which they lie in it, by the headers and KEY.cls alone.

    Raises:
        DataError: it is no tar file, is cut off, is compressed, or holds no videos.
    """
    members = _scan(path, _size_and_time(path)[0])
    names = [name for name in members if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES]
    if not names:
        raise DataError(f"holds no videos ({len(members)} files)", path)
    with path.open("rb") as file:
        labels = [_read_label(file, members.get(f"{key_of(name)}.cls")) for name in names]
    return [VideoMember(name, *members[name], label) for name, label in zip(names, labels)]


def key_of(name: str) -> str:
    """What the members of a video share: its name without suffix."""
    return str(PurePosixPath(name).with_suffix(""))


def find_in_shard(path: Path, name: str) -> tuple[int, int]:
    """Start and size, in bytes, of a member; DataError if there is none of that name."""
    members = _scan_once(path, *_size_and_time(path))
    if name not in members:
        raise DataError(f"holds no file '{name}' ({len(members)} others)", path)
    return members[name]


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path) from None
    return stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=256)
def _scan_once(path: Path, size: int, mtime_ns: int) -> dict[str, tuple[int, int]]:
    return _scan(path, size)


def _scan(path: Path, size: int) -> dict[str, tuple[int, int]]:
    """Name to start and size of the regular files; reads the headers alone."""
    members = {}
    try:
        with _Headers(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isreg() and not member.issparse():
                    members[member.name.removeprefix("./")] = member.offset_data, member.size
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"cannot be read as an uncompressed tar file: {error}", path) from None
    end = max((start + length for start, length in members.values()), default=0)
    if end > size:
        raise DataError(f"cut off: {size} bytes of at least {end}", path)
    return members


class _Headers(io.FileIO):
    """A tar file of which headers alone are read: no long name and no attributes take megabytes."""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header that claims {size} bytes")
        return super().read(size)


def _read_label(file: BinaryIO, place: tuple[int, int] | None) -> int:
    if place is None:
        return NO_CLASS
    text = _text(file, place)
    return int(text) if _CLASS.fullmatch(text) else BAD_CLASS


def _read_text(path: Path, place: tuple[int, int]) -> str:
    with path.open("rb") as file:
        return _text(file, place)


def _text(file: BinaryIO, place: tuple[int, int]) -> str:
    start, size = place
    file.seek(start)
    return file.read(min(size, 64)).decode("utf-8", "replace").strip()
