"""A slowly moving camera in front of a background that is larger than the frame."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sin
from typing import NamedTuple

import cv2
import numpy as np


@dataclass(frozen=True)
class Canvas:
    """Sizes of a video, in pixels.

    Args:
        width: of the frames.
        height: of the frames.
        margin: columns and rows of background outside each side of the frame of the unmoved camera.
        scale: frames and background are drawn at this multiple of their size.
    """

    width: int
    height: int
    margin: tuple[int, int]
    scale: int = 2

    @property
    def background_size(self) -> tuple[int, int]:
        """Width and height of the drawn background."""
        return (
            (self.width + 2 * self.margin[0]) * self.scale,
            (self.height + 2 * self.margin[1]) * self.scale,
        )

    def view(self, x: float, y: float, zoom: float, scale: int) -> np.ndarray:
        """Return the (2, 3) matrix from pixels of the unmoved camera to pixels of the frame at `scale`.

        Args:
            x, y: point of the unmoved camera's frame in the center of the frame.
            zoom: size of things, relative to the unmoved camera.
        """
        return scale * np.array([[zoom, 0, self.width / 2 - zoom * x], [0, zoom, self.height / 2 - zoom * y]])

    def visible_background(self, background: np.ndarray, view: np.ndarray) -> np.ndarray:
        """Return the part of the background in the frame, at `scale`.

        Args:
            background: uint8 RGB of `background_size`.
            view: of `view`, at `scale`.
        """
        # The background is already drawn at `scale`, and starts a margin outside the frame.
        to_background = view.copy()
        to_background[:, :2] /= self.scale
        to_background[:, 2] -= view[:, :2] @ np.array(self.margin)
        size = (self.width * self.scale, self.height * self.scale)
        return cv2.warpAffine(
            background, to_background, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )

    def finish(self, frame: np.ndarray, brightness: float) -> np.ndarray:
        """Return a drawn frame at its final size, uint8 RGB (height, width, 3), with another brightness."""
        frame = cv2.resize(frame, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return cv2.convertScaleAbs(frame, alpha=brightness)


class Wave(NamedTuple):
    """A slow sine movement around 0."""

    amplitude: float
    frequency: float  # cycles per second
    phase: float  # cycles

    def at(self, time: float) -> float:
        """Return the value at `time` in seconds."""
        return self.amplitude * sin(2 * pi * (self.frequency * time + self.phase))


@dataclass(frozen=True)
class Camera:
    """Slow movements of a camera."""

    pan: Wave  # pixels
    tilt: Wave  # pixels
    zoom: Wave  # relative to 1
    light: Wave  # brightness, relative to 1
