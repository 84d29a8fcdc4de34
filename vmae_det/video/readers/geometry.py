"""From stored frames to shown ones: pixels that are not square, and frames that are turned or mirrored."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

# Anamorphic film and video lie between 1:2 and 3:1. What lies far outside is a mistake in the file, and would
# make frames of any size.
_WIDEST_PIXEL = 5


class Turn(NamedTuple):
    """How stored frames are turned to be shown: rows and columns swapped first, then turned round."""

    swap: bool = False
    reverse_rows: bool = False
    reverse_columns: bool = False

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """(H, W, 3) as it is shown."""
        frame = frame.swapaxes(0, 1) if self.swap else frame
        return frame[:: -1 if self.reverse_rows else 1, :: -1 if self.reverse_columns else 1]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height as they are shown, of those that are stored."""
        return (height, width) if self.swap else (width, height)


def turn_of(frame: av.VideoFrame) -> Turn:
    """By the display matrix of a decoded frame: a stored point (x, y) is shown at (a x + c y, b x + d y)."""
    data = frame.side_data.get(SideData.DISPLAYMATRIX)
    if data is None:
        return Turn()
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Turn(False, d < 0, a < 0)
    return Turn(True, b < 0, c < 0)


def square_size(stream: av.VideoStream, width: int, height: int) -> tuple[int, int]:
    """Width and height of a stored frame with square pixels, before it is turned.

    The stream states the width of a pixel relative to its height. Frames are enlarged along one side, so that
    no detail is lost. A ratio that is not stated, or absurd, is 1.
    """
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, _WIDEST_PIXEL) <= aspect <= _WIDEST_PIXEL:
        return width, height
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))
