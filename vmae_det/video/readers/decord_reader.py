"""Reader based on decord, for the files that it reads correctly. decord is not built for every platform."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import numpy as np

from vmae_det.utils.errors import ConfigError
from vmae_det.video.readers.base import READER_REGISTRY, VideoLocation
from vmae_det.video.readers.fallback import FallbackReader

# Share of undecodable frames that decord may replace by their neighbors: none.
_FAULT_TOLERANCE = 1e-9


@READER_REGISTRY.register_as("decord")
class DecordReader(FallbackReader):
    """Returns the same frames as PyAVReader. Falls back to it where decord may differ, or fails."""

    def __init__(self, location: VideoLocation, short_side: int | None = None) -> None:
        decord = _import_decord()
        decord.logging.set_level(decord.logging.QUIET)
        # decord reads this variable before it prints a warning about replaced frames.
        os.environ.setdefault("DECORD_DUPLICATE_WARNING_THRESHOLD", "1.0")
        self._errors = (decord.DECORDError, RuntimeError, IndexError, AssertionError)
        super().__init__(location, short_side)

    @classmethod
    def check_available(cls) -> None:
        """Check that decord is installed; ConfigError if not."""
        _import_decord()

    @property
    def uses_decord(self) -> bool:
        """Whether this file is read by decord, not by PyAV."""
        return self._decoder is not None

    def _open(self) -> Any:
        """Return a decord.VideoReader; None if it counts other frames."""
        width, height = self._size
        decoder = _import_decord().VideoReader(
            self._location.url, width=width, height=height, num_threads=1, fault_tol=_FAULT_TOLERANCE
        )
        return decoder if len(decoder) == len(self._index.pts) else None

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        return self._decoder.get_batch(wanted).asnumpy()


def _import_decord() -> ModuleType:
    try:
        import decord
    except ImportError:
        raise ConfigError(
            "DATALOADER.READER: decord is not installed; run pip install decord, or use pyav"
        ) from None
    return decord
