"""Tar shards: single files that contain many videos, each of which is read in place without unpacking.

The layout is webdataset's: the members KEY.mp4, KEY.json and KEY.cls belong together.
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

NO_CLASS, INVALID_CLASS = -1, -2  # labels of videos without a KEY.cls, and with an invalid one
_MAX_HEADER = 1 << 20  # bytes; ordinary headers have 512, long names and attributes need some more
_CLASS = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class ShardVideo:
    """A video in a tar shard.

    Attributes:
        key: member name without suffix, including folders inside the shard.
        path: argument for `open_video`: the path of the shard followed by the member name.
        label: class index from KEY.cls, or None.
    """

    key: str
    path: Path
    label: int | None = None


class VideoMember(NamedTuple):
    """A video member of a shard: its name, its offset and size in bytes, and its label."""

    name: str
    start: int
    size: int
    label: int


def list_shard(path: str | Path) -> list[ShardVideo]:
    """List the videos of a shard in the order in which they are stored.

    Raises:
        DataError: the file is not a tar file, is truncated or compressed, contains no videos, or a KEY.cls
            does not contain a class index.
    """
    path = local_path(path)
    videos = []
    for name, _, _, label in scan_shard(path):
        key = key_of(name)
        if label == INVALID_CLASS:
            with path.open("rb") as file:
                text = _read_text(file, find_in_shard(path, f"{key}.cls"))
            raise DataError(f"{key}.cls: expected a class index 0, 1, 2, ..., got '{text}'", path)
        videos.append(ShardVideo(key, path / name, None if label == NO_CLASS else label))
    return videos


def scan_shard(path: Path) -> list[VideoMember]:
    """Find the videos of a shard in the order in which they are stored. Reads only headers and KEY.cls.

    Raises:
        DataError: the file is not a tar file, is truncated or compressed, or contains no videos.
    """
    members = _scan(path, _size_and_time(path)[0])
    names = [name for name in members if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES]
    if not names:
        raise DataError(f"contains no videos ({len(members)} files)", path)
    with path.open("rb") as file:
        labels = [_read_label(file, members.get(f"{key_of(name)}.cls")) for name in names]
    return [VideoMember(name, *members[name], label) for name, label in zip(names, labels)]


def key_of(name: str) -> str:
    """Return the key of a member: its name without suffix."""
    return str(PurePosixPath(name).with_suffix(""))


def find_in_shard(path: Path, name: str) -> tuple[int, int]:
    """Return the offset and size of a member in bytes; DataError if it does not exist."""
    members = _scan_once(path, *_size_and_time(path))
    if name not in members:
        raise DataError(f"contains no file '{name}' ({len(members)} others)", path)
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
    """Map the names of the regular files to (offset, size). Reads only headers."""
    members = {}
    try:
        with _HeaderFile(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isreg() and not member.issparse():
                    members[member.name.removeprefix("./")] = member.offset_data, member.size
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"cannot be read as an uncompressed tar file: {error}", path) from None
    end = max((start + length for start, length in members.values()), default=0)
    if end > size:
        raise DataError(f"truncated: {size} bytes, expected at least {end}", path)
    return members


class _HeaderFile(io.FileIO):
    """A tar file of which only headers are read. Refuses headers of implausible size."""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header declares {size} bytes")
        return super().read(size)


def _read_label(file: BinaryIO, member: tuple[int, int] | None) -> int:
    if member is None:
        return NO_CLASS
    text = _read_text(file, member)
    return int(text) if _CLASS.fullmatch(text) else INVALID_CLASS


def _read_text(file: BinaryIO, member: tuple[int, int]) -> str:
    start, size = member
    file.seek(start)
    return file.read(min(size, 64)).decode("utf-8", "replace").strip()
