"""The videos of many tar shards as one dataset: found once, kept in arrays, read from their places."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from vmae_det.utils.downloads import cache_folder, split_address
from vmae_det.utils.errors import DataError
from vmae_det.utils.file_types import SHARD_SUFFIX, VIDEO_SUFFIXES
from vmae_det.utils.output_files import atomic_write
from vmae_det.utils.paths import is_address, local_path
from vmae_det.video.packed_paths import PackedPaths, PackedStrings
from vmae_det.video.readers.base import VideoLocation
from vmae_det.video.readers.tar_shard import BAD_CLASS, NO_CLASS, key_of, list_shard, scan_shard

logger = logging.getLogger(__name__)

_THREADS = 8  # that read headers: on a network's disk most of the time is waiting
_MAX_SHARDS = 100_000
_RANGE = re.compile(r"\{([0-9]{1,9})\.\.([0-9]{1,9})\}")
_CHOICE = re.compile(r"\{([^{},]+(?:,[^{},]+)+)\}")


def expand(pattern: str) -> Iterator[str]:
    """The paths that `{000..099}` (from, to, with as many digits) and `{a,b}` stand for."""
    match = _RANGE.search(pattern)
    if match:
        first, last = match.groups()
        width = len(first) if first.startswith("0") else 0
        parts: Iterable[str] = (f"{number:0{width}}" for number in range(int(first), int(last) + 1))
    else:
        match = _CHOICE.search(pattern)
        if not match:
            yield pattern
            return
        parts = match[1].split(",")
    for part in parts:
        yield from expand(pattern[: match.start()] + part + pattern[match.end() :])


def _expanded(pattern: str) -> list[str]:
    names = list(itertools.islice(expand(pattern), _MAX_SHARDS + 1))
    if len(names) > _MAX_SHARDS:
        raise DataError(f"stands for more than {_MAX_SHARDS} shards", pattern)
    return names


def find_shards(text: str, base: Path = Path()) -> Shards | None:
    """The shards that `text` names: one, a folder of them, or a pattern; None where it names none.

    A folder is one of shards if it holds tar files, and neither videos nor folders. Addresses are fetched.

    Args:
        text: a path or an address.
        base: the folder that a path is relative to.

    Raises:
        DataError: one of them does not exist, or an address is not one of shards.
        UserError: one of them cannot be fetched.
    """
    if is_address(text):
        names = _expanded(text)
        if not names or not all(split_address(name).path.endswith(SHARD_SUFFIX) for name in names):
            raise DataError(f"expected tar shards ({SHARD_SUFFIX}) at an address of videos", text)
        bar = tqdm(names, desc="shards", unit="shard", disable=None if len(names) > 1 else True, leave=False)
        return Shards(text, [local_path(name) for name in bar])
    path = base / text
    if path.is_dir():
        found = _shards_in(path)
        return Shards(str(path), found) if found else None
    if not text.endswith(SHARD_SUFFIX):
        return None
    files = [path] if path.exists() else [Path(name) for name in _expanded(str(path))]
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        shown = f", such as {missing[0]}" if len(files) > 1 else ""
        raise DataError(f"{len(missing)} of {len(files)} shards do not exist{shown}", path)
    return Shards(str(path), files)


def _shards_in(folder: Path) -> list[Path]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1]
            if suffix.lower() in VIDEO_SUFFIXES or entry.is_dir():
                return []
            if suffix == SHARD_SUFFIX:
                found.append(folder / entry.name)
    return sorted(found)


class Shards:
    """Tar shards that together hold the videos of a dataset.

    Args:
        name: as the user calls them.
        files: of this machine.
    """

    def __init__(self, name: str, files: Sequence[Path]) -> None:
        self.name = name
        self.files = PackedPaths(Path(), files)

    def __str__(self) -> str:
        return self.name

    @functools.cached_property
    def videos(self) -> ShardVideoPaths:
        """All of them, in the order in which they lie in the shards.

        Raises:
            DataError: a shard cannot be read, or holds no videos.
        """
        return ShardVideoPaths(self, _index_of(self))


class _Index(NamedTuple):
    """Of the videos in some shards: number of the shard (n,), start and size in bytes (n,), label (n,) and
    the names of the members (see `PackedStrings`)."""

    shard: np.ndarray
    start: np.ndarray
    size: np.ndarray
    label: np.ndarray
    name_ends: np.ndarray
    name_text: np.ndarray


class ShardVideoPaths(Sequence):
    """Videos in tar shards, in arrays.

    Args:
        shards: that hold them.
        index: of all videos in the shards.
        rows: those of the index that these are; None: all.
    """

    def __init__(self, shards: Shards, index: _Index, rows: np.ndarray | None = None) -> None:
        self.shards = shards
        self._index = index
        self._names = PackedStrings(index.name_ends, index.name_text)
        self._rows = np.arange(len(index.shard)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Path:
        row = self._rows[index]
        return self.shards.files[self._index.shard[row]] / self._names[row]

    def location(self, index: int) -> VideoLocation:
        """What `open_video` takes, which then need not look for the video in its shard."""
        row = self._rows[index]
        file = self.shards.files[self._index.shard[row]]
        start, size = int(self._index.start[row]), int(self._index.size[row])
        return VideoLocation(file / self._names[row], file, start, size)

    def select(self, numbers: Sequence[int]) -> ShardVideoPaths:
        """Some of them, in that order."""
        return ShardVideoPaths(self.shards, self._index, self._rows[np.asarray(numbers, dtype=np.int64)])

    def members(self) -> Iterator[tuple[int, str]]:
        """Number of the shard and name of the member of each."""
        shards = self._index.shard[self._rows].tolist()
        return zip(shards, (self._names[row] for row in self._rows.tolist()))

    def numbers_by_key(self) -> dict[str, int]:
        """Key to the number of the video.

        Raises:
            DataError: two videos have the same key.
        """
        numbers: dict[str, int] = {}
        for number, (_, name) in enumerate(self.members()):
            key = key_of(name)
            if key in numbers:
                first, second = self[numbers[key]], self[number]
                raise DataError(f"two videos have the key '{key}': {first} and {second}", str(self.shards))
            numbers[key] = number
        return numbers

    def numbers_by_name(self) -> dict[str, int]:
        """SHARD.tar/KEY.mp4 to the number of the video, for lists.

        Raises:
            DataError: two shards have the same name.
        """
        names = [file.name for file in self.shards.files]
        if len(set(names)) < len(names):
            double = next(name for name in names if names.count(name) > 1)
            problem = f"two shards are called {double}: a list cannot tell them apart"
            raise DataError(problem, str(self.shards))
        return {f"{names[shard]}/{name}": number for number, (shard, name) in enumerate(self.members())}

    def labels(self) -> np.ndarray:
        """The classes that the KEY.cls hold, int64 (n,).

        Raises:
            DataError: a video has none, or its KEY.cls holds no class number.
        """
        labels = self._index.label[self._rows]
        bad = np.flatnonzero(labels == BAD_CLASS)
        if len(bad):
            list_shard(self.location(int(bad[0])).file)  # whose error names the file and what it holds
        missing = np.flatnonzero(labels == NO_CLASS)
        if len(missing):
            example = key_of(str(self[int(missing[0])]))
            raise DataError(
                f"{len(missing)} of {len(labels)} videos have no class, such as {example}: expected "
                f"{Path(example).name}.cls beside it, or a list of videos (annotations)",
                str(self.shards),
            )
        return labels


def _index_of(shards: Shards) -> _Index:
    """The index, from the cache while the shards stay as they are; one process reads, others wait for it."""
    paths = [os.path.abspath(file) for file in shards.files]
    digest = hashlib.sha256("\n".join(paths).encode("utf-8", "surrogateescape")).hexdigest()
    cached = cache_folder() / "shards" / f"{digest[:32]}.npz"
    try:
        stats = [os.stat(path) for path in paths]
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", error.filename) from None
    state = np.array([(stat.st_size, stat.st_mtime_ns) for stat in stats])
    index = None
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{cached}.lock"):
            index = _load(cached, state)
            if index is None:
                index = _read(shards)
                with atomic_write(cached) as temporary:
                    np.savez(temporary, state=state, **index._asdict())
    except OSError as error:
        logger.warning("the index of %s cannot be kept in %s: %s", shards, cached.parent, error)
    return index or _read(shards)


def _load(path: Path, state: np.ndarray) -> _Index | None:
    """An index that was kept, if it is of shards in that state."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if np.array_equal(arrays["state"], state):
                return _Index(*(arrays[name] for name in _Index._fields))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    return None


def _read(shards: Shards) -> _Index:
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(
            tqdm(
                pool.map(scan_shard, shards.files),
                total=len(shards.files),
                desc="reading the headers of shards",
                unit="shard",
                disable=None,
                leave=False,
            )
        )
    names = PackedStrings.pack(video.name for video in itertools.chain.from_iterable(parts))
    numbers = np.array(
        [(video.start, video.size, video.label) for part in parts for video in part], dtype=np.int64
    )
    shard = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return _Index(shard, *numbers.T, names.ends, names.text)
