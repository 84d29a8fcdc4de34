"""What every reader is: frames by index, and when each of them is shown."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.utils.errors import DataError
from vmae_det.utils.file_types import IMAGE_SUFFIXES
from vmae_det.utils.paths import local_path
from vmae_det.utils.registry import Registry, lookup
from vmae_det.video.readers.tar_shard import find_in_shard

READER_REGISTRY = Registry("READER")
FRAME_NUMBER = re.compile(r"%0?(\d*)d")
_ROUNDING = 1e-6  # seconds; the sum of two times may miss the third by some bits


class TimeOutsideVideoError(DataError):
    """A moment lies outside a video, which itself can be read."""


@dataclass(frozen=True)
class VideoLocation:
    """Where the bytes of a video lie.

    Attributes:
        path: what the user calls it, for messages; a video in a tar shard is `shard.tar/KEY.mp4`.
        file: the file or folder that holds the bytes.
        start, size: its place in `file`, in bytes; None: the whole file.
        rate: frames per second of an image folder that does not say its own.
        pattern: a printf pattern such as img_%05d.jpg, that names the frames in the folder `file`.
    """

    path: Path
    file: Path
    start: int | None = None
    size: int | None = None
    rate: Fraction | None = None
    pattern: str | None = None

    @property
    def address(self) -> str:
        """As FFmpeg's protocols spell it; their prefixes keep a colon in a name from being one of them."""
        if self.start is None:
            return f"file:{self.file}"
        return f"subfile,,start,{self.start},end,{self.start + self.size},,:{self.file}"


class VideoReader(ABC):
    """An open video.

    Attributes:
        path: the video.
        times: when each frame is shown, seconds from the first frame on, float64 (num_frames,), ascending.
        rate: frames per second, on average.
        start: when the first frame is shown, seconds on the clock that it shares with `sound`.
        sound: the file whose sound belongs to the frames; None where there is none on their clock.
    """

    path: Path
    times: np.ndarray
    rate: Fraction
    start: float = 0.0
    sound: Path | None = None

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.times)

    def index_at(self, seconds: float) -> int:
        """The frame nearest to a time in seconds from the first frame; TimeOutsideVideoError if outside."""
        last, rate = float(self.times[-1]), float(self.rate)
        if not is_time_inside(seconds, last, rate):
            raise TimeOutsideVideoError(
                f"second {seconds:.3f} lies outside the video, whose last frame begins at second {last:.3f}",
                self.path,
            )
        return int(np.abs(self.times - seconds).argmin())

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """The frames at `indices` (n,), in any order and with repeats, as uint8 RGB (n, H, W, 3).

        Raises:
            DataError: an index lies outside the video, or a frame cannot be decoded.
        """
        wanted, places = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if not len(wanted):
            raise ValueError("no frames are asked for")
        if wanted[0] < 0 or wanted[-1] >= len(self):
            outside = wanted[0] if wanted[0] < 0 else wanted[-1]
            raise DataError(f"frame {outside} is asked of a video of {len(self)} frames", self.path)
        frames = self._read(wanted)
        return frames if np.array_equal(places, np.arange(len(wanted))) else frames[places]

    def stream(self, first: int = 0, wanted: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """The frames from `first` on in order, one at a time: (index, uint8 RGB (H, W, 3)).

        Frames that damage may have reached are left out. No other frames may be asked for before it ends.

        Args:
            wanted: indices (n,), ascending; gives these alone, which spares the decoding of some others.

        Raises:
            DataError: the video cannot be read any further.
        """
        for index in range(first, len(self)) if wanted is None else wanted.tolist():
            try:
                frame = self.frames(np.array([index]))[0]
            except DataError:
                continue
            yield index, frame

    @abstractmethod
    def _read(self, wanted: np.ndarray) -> np.ndarray:
        """The frames at `wanted` (n,), which ascend, as uint8 RGB (n, H, W, 3)."""


def is_time_inside(seconds: Any, last: Any, rate: Any) -> Any:
    """Whether a moment lies in a video: from a frame's length before the first frame to one after the last
    frame begins. Of numbers, or of arrays or columns of them.

    Args:
        seconds: from the first frame on.
        last: when the last frame begins, in the same seconds.
        rate: frames per second.
    """
    slack = 1 / rate + _ROUNDING
    return (seconds >= -slack) & (seconds <= last + slack)


def reduced_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Width and height with the short side at `short_side`, the aspect kept; never larger than they are."""
    if short_side is None or min(width, height) <= short_side:
        return width, height
    scale = short_side / min(width, height)
    return round(width * scale), round(height * scale)


def missing(path: Path) -> DataError:
    """The error of a file that is not there."""
    return DataError("no such video file", path)


def read_error(path: Path, cause: str | Exception) -> DataError:
    """The error of a file that is no video, a broken one, or one that went away since it was found."""
    if isinstance(cause, FileNotFoundError):
        return missing(path)
    words = str(getattr(cause, "strerror", None) or cause)
    return DataError(f"cannot be read as a video: {' '.join(words.split())[:160]}", path)


def open_video(
    path: str | Path | VideoLocation,
    reader: str = "auto",
    *,
    short_side: int | None = None,
    rate: Fraction | float | None = None,
) -> VideoReader:
    """Open a video with the reader of that name.

    Args:
        path: a video file, an address that iopath knows, `shard.tar/KEY.mp4` for a video in a tar shard, or a
            folder of frames or a printf pattern of them such as `frames/img_%05d.jpg`, which the reader
            "images" reads whatever `reader` says; or what `locate_video` gave.
        reader: "auto" is PyAV.
        short_side: pixels; larger frames come reduced to it, their aspect kept, and smaller ones as they are.
        rate: frames per second of a folder of frames that has no rate.txt.

    Raises:
        DataError: there is no such video, or it cannot be read.
        ConfigError: there is no such reader.
    """
    opened = lookup(READER_REGISTRY, "pyav" if reader == "auto" else reader, "DATALOADER.READER")
    known_rate = None if rate is None else Fraction(rate).limit_denominator(1001)
    try:
        source = path if isinstance(path, VideoLocation) else locate_video(path, known_rate)
        if source.file.is_dir():
            opened = READER_REGISTRY.get("images")
        return opened(source, short_side)
    except OSError as error:
        raise read_error(getattr(path, "path", path), error) from None


def locate_video(path: str | Path, rate: Fraction | None = None) -> VideoLocation:
    """Where the bytes of a video lie; DataError if there is no such video."""
    path = local_path(path)
    if path.exists():
        return VideoLocation(path, path, rate=rate)
    if is_pattern(path.name) and path.parent.is_dir():
        return VideoLocation(path, path.parent, rate=rate, pattern=path.name)
    shard = next((parent for parent in path.parents if parent.suffix == ".tar" and parent.is_file()), None)
    if shard is None:
        raise missing(path)
    start, size = find_in_shard(shard, path.relative_to(shard).as_posix())
    return VideoLocation(path, shard, start, size)


logger = logging.getLogger(__name__)

_warned: set[tuple[str, str]] = set()


def warn_once(path: Path | str, text: str) -> None:
    """Log a warning about a file, once in a process."""
    if (str(path), text) not in _warned:
        _warned.add((str(path), text))
        logger.warning("%s: %s", path, text)


def is_pattern(name: str) -> bool:
    """Whether a file's name is a printf pattern of images."""
    return bool(FRAME_NUMBER.search(name)) and Path(name).suffix.lower() in IMAGE_SUFFIXES
