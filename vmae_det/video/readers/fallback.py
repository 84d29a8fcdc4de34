"""Base of the readers that return the frames of PyAV with another decoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from vmae_det.video.readers.base import VideoLocation, VideoReader, reduced_size
from vmae_det.video.readers.frame_index import FrameIndex, get_frame_index
from vmae_det.video.readers.pyav_reader import PyAVReader


class FallbackReader(VideoReader):
    """Returns the same frames as PyAVReader. Falls back to it where the decoder may differ, or fails.

    Subclasses set `_errors`, the exceptions of their decoder, before they call `__init__`.
    """

    _errors: tuple[type[Exception], ...]

    def __init__(self, location: VideoLocation, short_side: int | None = None) -> None:
        self._index = index = get_frame_index(location)
        self.path, self.times, self.rate, self.start = location.path, index.times, index.rate, index.start
        self.sound = index.sound(location)
        self._location, self._short_side = location, short_side
        self._size = reduced_size(index.width, index.height, short_side)
        self._decoder = self._pyav = None
        if not self._problem(index):
            try:
                self._decoder = self._open()
            except self._errors as error:
                self._warn(error)
        if self._decoder is None:
            self._pyav = PyAVReader(location, short_side)

    def stream(self, first: int = 0, wanted: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield frames in order (see `VideoReader.stream`)."""
        return super().stream(first, wanted) if self._pyav is None else self._pyav.stream(first, wanted)

    def _read(self, wanted: np.ndarray) -> np.ndarray:
        if self._decoder is not None:
            try:
                return self._decode(wanted)
            except self._errors as error:
                self._decoder = None
                self._warn(error)
        self._pyav = self._pyav or PyAVReader(self._location, self._short_side)
        return self._pyav.frames(wanted)

    # ---------------------------------------------------------------- what subclasses override

    @abstractmethod
    def _open(self) -> Any:
        """Return the decoder of the file; None to use PyAV."""

    @abstractmethod
    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        """Return frames as `_read` does, with the decoder."""

    def _problem(self, index: FrameIndex) -> str:
        """Return why the decoder may return other frames than PyAV, or ''."""
        return index.decoder_problem

    def _warn(self, error: Exception) -> None:
        """Report that PyAV reads the file because of an error of the decoder. By default, nothing."""
