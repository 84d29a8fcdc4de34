"""Caches of decoded frames, one in each loader worker."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np

from vmae_det.utils.errors import DataError
from vmae_det.video.readers import VideoReader


class ClipCache:
    """Caches the decoded frames of clips until it is full; further clips are decoded each time.

    Args:
        megabytes: size; 0 disables the cache.
    """

    def __init__(self, megabytes: int) -> None:
        self._free = megabytes * 2**20
        self._clips: dict[Hashable, np.ndarray] = {}

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the cached frames of a clip, or decode them. Do not modify the result."""
        frames = self._clips.get(key)
        if frames is None:
            frames = decode()
            if frames.nbytes <= self._free:
                self._free -= frames.nbytes
                self._clips[key] = frames
        return frames


class VideoCache:
    """Caches the decoded frames of entire videos until it is full; further videos are opened each time.

    Args:
        megabytes: size; 0 disables the cache.
    """

    def __init__(self, megabytes: int) -> None:
        self._free = megabytes * 2**20
        self._videos: dict[Hashable, VideoReader] = {}
        self._not_cached: set[Hashable] = set()  # too large for what is left, or damaged

    def get(self, key: Hashable, open_video: Callable[[], VideoReader]) -> VideoReader:
        """Return a reader of a cached video, or of the file."""
        reader = self._videos.get(key)
        if reader is None:
            reader = open_video()
            if self._free and key not in self._not_cached:
                self._not_cached.add(key)
                with suppress(DataError):  # a damaged frame matters only to the clips that contain it
                    self._decode(key, reader)
        return self._videos.get(key, reader)

    def _decode(self, key: Hashable, reader: VideoReader) -> None:
        """Decode and store a video if it fits."""
        size = reader.frames(np.zeros(1, np.int64)).nbytes * len(reader)
        if size <= self._free:
            frames = reader.frames(np.arange(len(reader)))
            self._free -= size
            self._videos[key] = _DecodedVideo(reader.path, reader.times, reader.rate, frames)


class _DecodedVideo(VideoReader):
    """A reader of frames (n, H, W, 3) in memory."""

    def __init__(self, path: Path, times: np.ndarray, rate: Fraction, frames: np.ndarray) -> None:
        self.path, self.times, self.rate = path, times, rate
        self._frames = frames

    def _read(self, indices: np.ndarray) -> np.ndarray:
        return self._frames[indices]
