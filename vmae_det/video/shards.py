"""Sets of tar shards: which files a pattern refers to, and a cached index of the videos in all of them."""

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

from vmae_det.utils.downloads import cache_folder, parse_url
from vmae_det.utils.errors import DataError
from vmae_det.utils.file_types import SHARD_SUFFIX, VIDEO_SUFFIXES
from vmae_det.utils.output_files import atomic_write
from vmae_det.utils.paths import is_url, local_path
from vmae_det.video.packed_paths import PackedPaths, PackedStrings
from vmae_det.video.readers.base import VideoLocation
from vmae_det.video.readers.tar_shard import INVALID_CLASS, NO_CLASS, key_of, list_shard, scan_shard

logger = logging.getLogger(__name__)

_THREADS = 8  # for reading headers, which is mostly waiting on network file systems
_MAX_SHARDS = 100_000
_RANGE = re.compile(r"\{([0-9]{1,9})\.\.([0-9]{1,9})\}")
_CHOICE = re.compile(r"\{([^{},]+(?:,[^{},]+)+)\}")


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield the paths for a pattern with `{000..099}` (zero-padded range) and `{a,b}` (choice)."""
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
        yield from expand_braces(pattern[: match.start()] + part + pattern[match.end() :])


def _expand_limited(pattern: str) -> list[str]:
    names = list(itertools.islice(expand_braces(pattern), _MAX_SHARDS + 1))
    if len(names) > _MAX_SHARDS:
        raise DataError(f"matches more than {_MAX_SHARDS} shards", pattern)
    return names


def find_shards(text: str, base: Path = Path()) -> Shards | None:
    """Return the shards that `text` refers to: a file, a folder or a pattern. None if it is none of these.

    A folder is one of shards if it contains tar files, no videos and no subfolders. URLs are downloaded.

    Args:
        text: a path or URL, possibly with braces.
        base: the folder that a path is relative to.

    Raises:
        DataError: a shard does not exist, or a URL is not that of a shard.
        UserError: a shard cannot be downloaded.
    """
    if is_url(text):
        urls = _expand_limited(text)
        if not urls or not all(parse_url(url).path.endswith(SHARD_SUFFIX) for url in urls):
            raise DataError(f"expected the URL of tar shards ({SHARD_SUFFIX})", text)
        bar = tqdm(urls, desc="shards", unit="shard", disable=None if len(urls) > 1 else True, leave=False)
        return Shards(text, [local_path(url) for url in bar])
    path = base / text
    if path.is_dir():
        found = _shards_in(path)
        return Shards(str(path), found) if found else None
    if not text.endswith(SHARD_SUFFIX):
        return None
    files = [path] if path.exists() else [Path(name) for name in _expand_limited(str(path))]
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        example = f", such as {missing[0]}" if len(files) > 1 else ""
        raise DataError(f"{len(missing)} of {len(files)} shards do not exist{example}", path)
    return Shards(str(path), files)


def _shards_in(folder: Path) -> list[Path]:
    """Return the tar files of a folder of shards; [] if it is another kind of folder."""
    shards = []
    with os.scandir(folder) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1]
            if suffix.lower() in VIDEO_SUFFIXES or entry.is_dir():
                return []
            if suffix == SHARD_SUFFIX:
                shards.append(folder / entry.name)
    return sorted(shards)


class Shards:
    """The tar shards of a dataset.

    Args:
        name: name to show in messages.
        files: local paths.
    """

    def __init__(self, name: str, files: Sequence[Path]) -> None:
        self.name = name
        self.files = PackedPaths(Path(), files)

    def __str__(self) -> str:
        return self.name

    @functools.cached_property
    def videos(self) -> ShardVideoPaths:
        """All videos, in the order in which the shards contain them.

        Raises:
            DataError: a shard cannot be read, or contains no videos.
        """
        return ShardVideoPaths(self, _get_index(self))


class _ShardIndex(NamedTuple):
    """Index of the videos in a set of shards.

    Attributes:
        shard: position of the shard, (n,).
        start, size: offset and size in the shard in bytes, (n,).
        label: class index, or one of tar_shard's negative codes, (n,).
        name_ends, name_text: names of the members (see `PackedStrings`).
    """

    shard: np.ndarray
    start: np.ndarray
    size: np.ndarray
    label: np.ndarray
    name_ends: np.ndarray
    name_text: np.ndarray


class ShardVideoPaths(Sequence):
    """Paths of videos in tar shards, stored in arrays.

    Args:
        shards: the shards.
        index: index of all videos in the shards.
        rows: rows of the index to include; None for all.
    """

    def __init__(self, shards: Shards, index: _ShardIndex, rows: np.ndarray | None = None) -> None:
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
        """Return the argument for `open_video`, which then does not need to scan the shard."""
        row = self._rows[index]
        file = self.shards.files[self._index.shard[row]]
        start, size = int(self._index.start[row]), int(self._index.size[row])
        return VideoLocation(file / self._names[row], file, start, size)

    def select(self, numbers: Sequence[int]) -> ShardVideoPaths:
        """Return some of the videos, in the given order."""
        return ShardVideoPaths(self.shards, self._index, self._rows[np.asarray(numbers, dtype=np.int64)])

    def members(self) -> Iterator[tuple[int, str]]:
        """Yield the position of the shard and the member name of each video."""
        shards = self._index.shard[self._rows].tolist()
        return zip(shards, (self._names[row] for row in self._rows.tolist()))

    def numbers_by_key(self) -> dict[str, int]:
        """Map the key of each video to its position.

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
        """Map SHARD.tar/KEY.mp4, as used in video lists, to the position of the video.

        Raises:
            DataError: two shards have the same file name.
        """
        names = [file.name for file in self.shards.files]
        if len(set(names)) < len(names):
            duplicate = next(name for name in names if names.count(name) > 1)
            problem = f"two shards are named {duplicate}, which is ambiguous in a video list"
            raise DataError(problem, str(self.shards))
        return {f"{names[shard]}/{name}": number for number, (shard, name) in enumerate(self.members())}

    def labels(self) -> np.ndarray:
        """Return the class indices in the KEY.cls files, int64 (n,).

        Raises:
            DataError: a video has no KEY.cls, or it does not contain a class index.
        """
        labels = self._index.label[self._rows]
        invalid = np.flatnonzero(labels == INVALID_CLASS)
        if len(invalid):
            list_shard(self.location(int(invalid[0])).file)  # raises an error with the member and its content
        missing = np.flatnonzero(labels == NO_CLASS)
        if len(missing):
            example = key_of(str(self[int(missing[0])]))
            raise DataError(
                f"{len(missing)} of {len(labels)} videos have no class, such as {example}: expected "
                f"{Path(example).name}.cls next to it, or a list of videos (annotations)",
                str(self.shards),
            )
        return labels


def _get_index(shards: Shards) -> _ShardIndex:
    """Return the index, from the cache if the shards have not changed.

    If several processes need it, one of them reads the shards and the others wait.
    """
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
            index = _load_index(cached, state)
            if index is None:
                index = _build_index(shards)
                with atomic_write(cached) as temporary:
                    np.savez(temporary, state=state, **index._asdict())
    except OSError as error:
        logger.warning("the index of %s cannot be cached in %s: %s", shards, cached.parent, error)
    return index or _build_index(shards)


def _load_index(path: Path, state: np.ndarray) -> _ShardIndex | None:
    """Load a cached index; None if there is none for this state (sizes and times) of the shards."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if np.array_equal(arrays["state"], state):
                return _ShardIndex(*(arrays[name] for name in _ShardIndex._fields))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    return None


def _build_index(shards: Shards) -> _ShardIndex:
    with ThreadPoolExecutor(_THREADS) as pool:
        members = list(
            tqdm(
                pool.map(scan_shard, shards.files),
                total=len(shards.files),
                desc="reading shard headers",
                unit="shard",
                disable=None,
                leave=False,
            )
        )
    names = PackedStrings.pack(video.name for video in itertools.chain.from_iterable(members))
    numbers = np.array(
        [(video.start, video.size, video.label) for videos in members for video in videos], dtype=np.int64
    )
    shard = np.repeat(np.arange(len(members)), [len(videos) for videos in members])
    return _ShardIndex(shard, *numbers.T, names.ends, names.text)
