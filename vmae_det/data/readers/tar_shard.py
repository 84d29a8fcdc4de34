"""Tar shards: one file that holds many videos, each read from its place in it, without unpacking.

The layout is webdataset's: the members KEY.mp4, KEY.json, KEY.cls belong together.
"""

from __future__ import annotations

import functools
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vmae_det.data.video_lists import VIDEO_SUFFIXES
from vmae_det.utils.errors import DataError
from vmae_det.utils.paths import local_path


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


def list_shard(path: str | Path) -> list[ShardVideo]:
    """The videos of a shard, in the order in which they lie in it.

    Raises:
        DataError: it is no tar file, is cut off, is compressed, or holds no videos.
    """
    path = local_path(path)
    members = _members_of(path)
    videos = [name for name in members if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        raise DataError(f"holds no videos ({len(members)} files)", path)
    keys = [str(PurePosixPath(name).with_suffix("")) for name in videos]
    labels = _read_labels(path, {key: members[f"{key}.cls"] for key in keys if f"{key}.cls" in members})
    return [ShardVideo(key, path / name, labels.get(key)) for key, name in zip(keys, videos)]


def find_in_shard(path: Path, name: str) -> tuple[int, int]:
    """Start and size, in bytes, of a member; DataError if there is none of that name."""
    members = _members_of(path)
    if name not in members:
        raise DataError(f"holds no file '{name}' ({len(members)} others)", path)
    return members[name]


def _members_of(path: Path) -> dict[str, tuple[int, int]]:
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path) from None
    return _read_members(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=256)
def _read_members(path: Path, mtime_ns: int, size: int) -> dict[str, tuple[int, int]]:
    """Name to start and size of the regular files; reads the headers alone."""
    members = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isreg() and not member.issparse():
                    members[member.name.removeprefix("./")] = member.offset_data, member.size
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"cannot be read as an uncompressed tar file: {error}", path) from None
    end = max((start + length for start, length in members.values()), default=0)
    if end > size:
        raise DataError(f"cut off: {size} bytes of at least {end}", path)
    return members


def _read_labels(path: Path, places: dict[str, tuple[int, int]]) -> dict[str, int]:
    labels = {}
    with path.open("rb") as file:
        for key, (start, size) in places.items():
            file.seek(start)
            text = file.read(min(size, 64)).decode("utf-8", "replace").strip()
            if not text.isdecimal():
                raise DataError(f"{key}.cls: expected a class number 0, 1, 2, ..., got '{text}'", path)
            labels[key] = int(text)
    return labels
