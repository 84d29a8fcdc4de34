"""Video readers behind one interface: frames by index, and the index of a moment in time."""

from __future__ import annotations

import functools
import importlib.util
from abc import ABC, abstractmethod
from fractions import Fraction
from pathlib import Path

import numpy as np

from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.utils.registry import Registry, lookup

READER_REGISTRY = Registry("READER")


class VideoReader(ABC):
    """An open video file.

    Attributes:
        path: the file.
        times: when each frame is shown, seconds from the start of the file, float64 (num_frames,), ascending.
        rate: frames per second, on average.
    """

    path: Path
    times: np.ndarray
    rate: Fraction

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.times)

    def index_at(self, seconds: float) -> int:
        """The frame nearest to a moment, in seconds from the start of the file; DataError if it lies
        outside."""
        end = self.times[-1] + 1 / float(self.rate)
        if not -1 / float(self.rate) <= seconds <= end:
            raise DataError(
                f"second {seconds:.2f} lies outside the video, which is {end:.2f} seconds long", self.path
            )
        return int(np.abs(self.times - seconds).argmin())

    @abstractmethod
    def frames(self, indices: np.ndarray) -> np.ndarray:
        """The frames at `indices` (n,), in any order and with repeats, as uint8 RGB (n, H, W, 3)."""


@READER_REGISTRY.register_as("decord")
class DecordReader(VideoReader):
    """Reads through decord: the fastest on the CPU, but no longer built for every platform."""

    def __init__(self, path: Path) -> None:
        try:
            import decord
        except ImportError:
            raise ConfigError(
                "DATALOADER.READER: decord is not installed; pip install decord, or choose pyav"
            ) from None
        decord.logging.set_level(decord.logging.QUIET)
        self.path = path
        _probe(path)
        try:
            self._reader = decord.VideoReader(str(path), num_threads=1)
            self.times = self._reader.get_frame_timestamp(np.arange(len(self._reader)))[:, 0].astype(
                np.float64
            )
            self.rate = Fraction(self._reader.get_avg_fps()).limit_denominator(1001)
        except (decord.DECORDError, RuntimeError, IndexError) as error:
            raise _unreadable(path, error) from None

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """The frames at `indices` (n,) as uint8 RGB (n, H, W, 3)."""
        import decord

        unique, inverse = np.unique(indices, return_inverse=True)
        try:
            frames = self._reader.get_batch(unique).asnumpy()
        except (decord.DECORDError, RuntimeError, IndexError) as error:
            raise _unreadable(self.path, error) from None
        return frames if np.array_equal(unique, indices) else frames[inverse]


@READER_REGISTRY.register_as("pyav")
class PyAVReader(VideoReader):
    """Reads through PyAV, which brings its own FFmpeg and has wheels everywhere."""

    def __init__(self, path: Path) -> None:
        import av

        self.path = path
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
            stamps = sorted(p.pts for p in self._container.demux(self._stream) if p.pts is not None)
            if not stamps:
                raise DataError("holds no video frames", path)
            self._stamps = np.array(stamps)
            self._rewind()
        except (av.FFmpegError, IndexError, ValueError) as error:
            raise _unreadable(path, error) from None
        self.times = (self._stamps - self._stamps[0]) * float(self._stream.time_base)
        self.rate = self._stream.average_rate or Fraction(1)

    def _rewind(self, stamp: int | None = None) -> None:
        start = self._stamps[0] if stamp is None else stamp
        self._container.seek(int(start), stream=self._stream, backward=True)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """The frames at `indices` (n,) as uint8 RGB (n, H, W, 3)."""
        import av

        wanted = np.unique(indices)
        found: dict[int, np.ndarray] = {}
        try:
            self._rewind(self._stamps[wanted[0]])
            for frame in self._container.decode(self._stream):
                index = int(np.searchsorted(self._stamps, frame.pts))
                if index in wanted:
                    found[index] = frame.to_ndarray(format="rgb24")
                if index >= wanted[-1]:
                    break
        except av.FFmpegError as error:
            raise _unreadable(self.path, error) from None
        missing = [int(index) for index in wanted if int(index) not in found]
        if missing:
            raise DataError(f"frame {missing[0]} of {len(self)} cannot be decoded", self.path)
        return np.stack([found[int(index)] for index in indices])


def open_video(path: Path, reader: str = "auto") -> VideoReader:
    """Open a video with the reader of that name; "auto" is decord where it is installed, else PyAV.

    Raises:
        DataError: the file is missing, or not a video.
        ConfigError: there is no such reader.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("no such video file", path)
    if reader == "auto":
        reader = "decord" if importlib.util.find_spec("decord") else "pyav"
    return lookup(READER_REGISTRY, reader, "DATALOADER.READER")(path)


@functools.cache
def _probe(path: Path) -> None:
    """Refuse what is not a video, once for each file: decord would first print lines of its own."""
    import av

    try:
        av.open(str(path)).close()
    except (av.FFmpegError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    size = path.stat().st_size
    reason = " ".join(str(error).split())[:160]
    return DataError(f"cannot be read as a video ({size} bytes): {reason}", path)
