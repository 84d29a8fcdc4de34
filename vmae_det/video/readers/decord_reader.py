"""Reader based on decord, for the files that it reads correctly. decord is not built for every platform."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from vmae_det.utils.errors import ConfigError
from vmae_det.video.readers.base import READER_REGISTRY, VideoLocation, VideoReader, reduced_size
from vmae_det.video.readers.frame_index import get_frame_index
from vmae_det.video.readers.pyav_reader import PyAVReader

# Share of undecodable frames that decord may replace by their neighbors: none.
_FAULT_TOLERANCE = 1e-9


@READER_REGISTRY.register_as("decord")
class DecordReader(VideoReader):
    """Returns the same frames as PyAVReader. Falls back to it where decord may differ, or fails."""

    def __init__(self, location: VideoLocation, short_side: int | None = None) -> None:
        decord = _import_decord()
        decord.logging.set_level(decord.logging.QUIET)
        # decord reads this variable before it prints a warning about replaced frames.
        os.environ.setdefault("DECORD_DUPLICATE_WARNING_THRESHOLD", "1.0")
        index = get_frame_index(location)
        self.path, self.times, self.rate, self.start = location.path, index.times, index.rate, index.start
        self.sound = index.sound(location)
        self._location, self._short_side = location, short_side
        self._errors = (decord.DECORDError, RuntimeError, IndexError, AssertionError)
        self._decord = self._pyav = None
        if not index.decoder_problem:
            width, height = reduced_size(index.width, index.height, short_side)
            try:
                reader = decord.VideoReader(
                    location.url, width=width, height=height, num_threads=1, fault_tol=_FAULT_TOLERANCE
                )
                self._decord = reader if len(reader) == len(index.pts) else None
            except self._errors:
                pass
        if self._decord is None:
            self._pyav = PyAVReader(location, short_side)

    @classmethod
    def check_available(cls) -> None:
        """Check that decord is installed; ConfigError if not."""
        _import_decord()

    @property
    def uses_decord(self) -> bool:
        """Whether this file is read by decord, not by PyAV."""
        return self._decord is not None

    def stream(self, first: int = 0, wanted: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield frames in order (see `VideoReader.stream`)."""
        return super().stream(first, wanted) if self._pyav is None else self._pyav.stream(first, wanted)

    def _read(self, wanted: np.ndarray) -> np.ndarray:
        if self._decord is not None:
            try:
                return self._decord.get_batch(wanted).asnumpy()
            except self._errors:
                self._decord = None
        self._pyav = self._pyav or PyAVReader(self._location, self._short_side)
        return self._pyav.frames(wanted)


def _import_decord() -> ModuleType:
    try:
        import decord
    except ImportError:
        raise ConfigError(
            "DATALOADER.READER: decord is not installed; run pip install decord, or use pyav"
        ) from None
    return decord
