"""Reads through decord, where it can be trusted with a file; it is not built for every platform."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from vmae_det.utils.errors import ConfigError
from vmae_det.video.readers.base import READER_REGISTRY, VideoLocation, VideoReader, reduced_size
from vmae_det.video.readers.frame_index import get_frame_index
from vmae_det.video.readers.pyav_reader import PyAVReader

# Fewer frames than this share of a video decord may replace by their neighbours: none.
_NO_REPLACEMENTS = 1e-9


@READER_REGISTRY.register_as("decord")
class DecordReader(VideoReader):
    """Frames are those of the packets' index; where decord may give others, or fails, PyAV reads."""

    def __init__(self, source: VideoLocation, short_side: int | None = None) -> None:
        try:
            import decord
        except ImportError:
            raise ConfigError(
                "DATALOADER.READER: decord is not installed; pip install decord, or choose pyav"
            ) from None
        decord.logging.set_level(decord.logging.QUIET)
        # decord asks this before it prints a warning about frames that it replaced.
        os.environ.setdefault("DECORD_DUPLICATE_WARNING_THRESHOLD", "1.0")
        index = get_frame_index(source)
        self.path, self.times, self.rate, self.start = source.path, index.times, index.rate, index.start
        self.sound = index.sound(source)
        self._source, self._short_side = source, short_side
        self._errors = (decord.DECORDError, RuntimeError, IndexError, AssertionError)
        self._reader = self._pyav = None
        if not index.doubt:
            width, height = reduced_size(index.width, index.height, short_side)
            try:
                reader = decord.VideoReader(
                    source.address, width=width, height=height, num_threads=1, fault_tol=_NO_REPLACEMENTS
                )
                self._reader = reader if len(reader) == len(index.stamps) else None
            except self._errors:
                pass
        if self._reader is None:
            self._pyav = PyAVReader(source, short_side)

    @property
    def is_decord(self) -> bool:
        """Whether decord reads this file, and not PyAV in its place."""
        return self._reader is not None

    def stream(self, first: int = 0, wanted: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Frames in order, as of VideoReader."""
        return super().stream(first, wanted) if self._pyav is None else self._pyav.stream(first, wanted)

    def _read(self, wanted: np.ndarray) -> np.ndarray:
        if self._reader is not None:
            try:
                return self._reader.get_batch(wanted).asnumpy()
            except self._errors:
                self._reader = None
        self._pyav = self._pyav or PyAVReader(self._source, self._short_side)
        return self._pyav.frames(wanted)
