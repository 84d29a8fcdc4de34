"""`open_video`, and the interface that every reader implements: frames by index, and frame times."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vmae_det.utils.errors import DataError
from vmae_det.utils.file_types import IMAGE_SUFFIXES
from vmae_det.utils.paths import local_path
from vmae_det.utils.registry import Registry, lookup
from vmae_det.video.readers.tar_shard import find_in_shard
from vmae_det.video.sampling import nearest_frames

logger = logging.getLogger(__name__)

READER_REGISTRY = Registry("READER")
FRAME_NUMBER = re.compile(r"%0?(\d*)d")  # the number in a printf pattern
_ROUNDING = 1e-6  # seconds; rounding error of a sum of two times
_warned: set[tuple[str, str]] = set()


class TimeOutsideVideoError(DataError):
    """A requested time is outside a video that can be read."""


@dataclass(frozen=True)
class VideoLocation:
    """Location of the bytes of a video.

    Attributes:
        path: the name to show in messages. For a video in a tar shard it is `shard.tar/KEY.mp4`.
        file: the file or folder that contains the bytes.
        start, size: offset and length in `file`, in bytes. None means the entire file.
        rate: frames per second of an image folder that has no rate.txt.
        pattern: a printf pattern such as img_%05d.jpg that selects the frames in the folder `file`.
    """

    path: Path
    file: Path
    start: int | None = None
    size: int | None = None
    rate: Fraction | None = None
    pattern: str | None = None

    @property
    def url(self) -> str:
        """URL for FFmpeg. The explicit protocol keeps a colon in a file name from being parsed as one."""
        if self.start is None:
            return f"file:{self.file}"
        return f"subfile,,start,{self.start},end,{self.start + self.size},,:{self.file}"


class VideoReader(ABC):
    """An open video.

    Attributes:
        path: the video.
        times: presentation time of each frame in seconds from the first frame, float64 (num_frames,),
            ascending.
        rate: average frames per second.
        start: presentation time of the first frame, in seconds on the clock shared with `sound`.
        sound: file with the audio of these frames. None if there is no audio on the same clock.
        uses_cuda: whether frames are decoded on a GPU. Loader workers are then spawned, because a forked
            process cannot use CUDA.
    """

    path: Path
    times: np.ndarray
    rate: Fraction
    start: float = 0.0
    sound: Path | None = None
    uses_cuda: ClassVar[bool] = False

    @classmethod  # noqa: B027 (not abstract: most readers need nothing)
    def check_available(cls) -> None:
        """Check that this reader can be used here; ConfigError if a package or a device is missing."""

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.times)

    def index_at(self, seconds: float) -> int:
        """Return the index of the frame nearest to a time.

        Args:
            seconds: time from the first frame.

        Raises:
            TimeOutsideVideoError: the time is outside the video (see `is_time_inside`).
        """
        last = float(self.times[-1])
        if not is_time_inside(seconds, last, float(self.rate)):
            raise TimeOutsideVideoError(
                f"second {seconds:.3f} is outside the video, whose last frame starts at second {last:.3f}",
                self.path,
            )
        return int(nearest_frames(self.times, seconds))

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """Return the frames at `indices` (n,) as uint8 RGB (n, H, W, 3).

        Indices may be unordered and repeated.

        Raises:
            DataError: an index is out of range, or a frame cannot be decoded.
        """
        unique, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if not len(unique):
            raise ValueError("indices is empty")
        if unique[0] < 0 or unique[-1] >= len(self):
            invalid = unique[0] if unique[0] < 0 else unique[-1]
            raise DataError(f"frame {invalid} is out of range for a video of {len(self)} frames", self.path)
        frames = self._read(unique)
        return frames if np.array_equal(inverse, np.arange(len(unique))) else frames[inverse]

    def stream(self, first: int = 0, wanted: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield frames in order, one at a time: (index, uint8 RGB (H, W, 3)).

        Frames that may be damaged are skipped. Do not request other frames until the iterator is exhausted.

        Args:
            first: index of the first frame to yield.
            wanted: ascending indices (n,). Yield only these frames, which avoids decoding some of the others.

        Raises:
            DataError: the rest of the video cannot be read.
        """
        for index in range(first, len(self)) if wanted is None else wanted.tolist():
            try:
                frame = self.frames(np.array([index]))[0]
            except DataError:
                continue
            yield index, frame

    @abstractmethod
    def _read(self, wanted: np.ndarray) -> np.ndarray:
        """Return the frames at `wanted` (n,), which is ascending and unique, as uint8 RGB (n, H, W, 3)."""


def open_video(
    path: str | Path | VideoLocation,
    reader: str = "auto",
    *,
    short_side: int | None = None,
    rate: Fraction | float | None = None,
) -> VideoReader:
    """Open a video.

    Args:
        path: a video file, a URL that iopath supports, `shard.tar/KEY.mp4` for a video in a tar shard, a
            folder of frames, a printf pattern such as `frames/img_%05d.jpg`, or the result of `locate_video`.
            Folders of frames are always read by the reader "images".
        reader: name in READER_REGISTRY. "auto" is PyAV.
        short_side: pixels. Larger frames are reduced to this short side with their aspect ratio kept. Smaller
            frames are returned unchanged.
        rate: frames per second of a folder of frames that has no rate.txt.

    Raises:
        DataError: the video does not exist or cannot be read.
        ConfigError: the reader does not exist.
    """
    reader_class = get_reader_class(reader)
    image_rate = None if rate is None else Fraction(rate).limit_denominator(1001)
    try:
        location = path if isinstance(path, VideoLocation) else locate_video(path, image_rate)
        if location.file.is_dir():
            reader_class = READER_REGISTRY.get("images")
        return reader_class(location, short_side)
    except OSError as error:
        raise read_error(getattr(path, "path", path), error) from None


def get_reader_class(name: str) -> type[VideoReader]:
    """Return the reader called `name` (DATALOADER.READER); ConfigError if it does not exist."""
    return lookup(READER_REGISTRY, "pyav" if name == "auto" else name, "DATALOADER.READER")


def locate_video(path: str | Path, rate: Fraction | None = None) -> VideoLocation:
    """Return the location of a video; DataError if it does not exist."""
    path = local_path(path)
    if path.exists():
        return VideoLocation(path, path, rate=rate)
    if is_frame_pattern(path.name) and path.parent.is_dir():
        return VideoLocation(path, path.parent, rate=rate, pattern=path.name)
    shard = next((parent for parent in path.parents if parent.suffix == ".tar" and parent.is_file()), None)
    if shard is None:
        raise _not_found(path)
    start, size = find_in_shard(shard, path.relative_to(shard).as_posix())
    return VideoLocation(path, shard, start, size)


def is_frame_pattern(name: str) -> bool:
    """Return whether a file name is a printf pattern of images."""
    return bool(FRAME_NUMBER.search(name)) and Path(name).suffix.lower() in IMAGE_SUFFIXES


def is_time_inside(seconds: Any, last: Any, rate: Any) -> Any:
    """Return whether a time is inside a video, with a tolerance of one frame period at either end.

    Accepts numbers, arrays or table columns.

    Args:
        seconds: time from the first frame.
        last: time of the last frame, on the same clock.
        rate: frames per second.
    """
    tolerance = 1 / rate + _ROUNDING
    return (seconds >= -tolerance) & (seconds <= last + tolerance)


def reduced_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Return width and height reduced to a short side, with the aspect ratio kept. Never enlarges."""
    if short_side is None or min(width, height) <= short_side:
        return width, height
    scale = short_side / min(width, height)
    return round(width * scale), round(height * scale)


def read_error(path: Path, cause: str | Exception) -> DataError:
    """Return the error for a file that is not a video, is damaged, or was deleted after it was found."""
    if isinstance(cause, FileNotFoundError):
        return _not_found(path)
    reason = str(getattr(cause, "strerror", None) or cause)
    return DataError(f"cannot be read as a video: {' '.join(reason.split())[:160]}", path)


def _not_found(path: Path) -> DataError:
    return DataError("no such video file", path)


def warn_once(path: Path | str, text: str) -> None:
    """Log a warning about a file, at most once per process."""
    if (str(path), text) not in _warned:
        _warned.add((str(path), text))
        logger.warning("%s: %s", path, text)
