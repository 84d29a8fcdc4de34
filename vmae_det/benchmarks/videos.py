"""H.264 files of any size, with a moving camera and moving things: the input of the loader's benchmark."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from vmae_det.visualization.video_writer import VideoWriter

RATE = 30


def make_videos(folder: Path, width: int, height: int, count: int = 8, seconds: float = 10.0) -> None:
    """Write `count` videos at 30 frames a second: a textured wall that a camera passes, and four things."""
    for number in range(count):
        rng = np.random.default_rng(number)
        frames = int(seconds * RATE)
        wall = _texture(rng, height + 64, width + frames)
        things = [_texture(rng, height // 4, height // 4) for _ in range(4)]
        starts = rng.uniform(0, 0.7, (4, 2)) * [height, width]
        speeds = rng.uniform(-2, 2, (4, 2)) * height / 256
        with VideoWriter(folder / f"{number:03d}.mp4", width, height, Fraction(RATE)) as writer:
            for t in range(frames):
                top = int(32 + 16 * np.sin(t / 20))
                frame = wall[top : top + height, t : t + width].copy()
                for thing, (y, x), (vy, vx) in zip(things, starts, speeds):
                    side = len(thing)
                    y, x = int(y + vy * t) % (height - side), int(x + vx * t) % (width - side)
                    frame[y : y + side, x : x + side] = thing
                writer.write(frame)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth colours with some grain, uint8 (height, width, 3)."""
    coarse = rng.uniform(0, 255, (height // 24 + 2, width // 24 + 2, 3)).astype(np.float32)
    fine = rng.uniform(-40, 40, (height // 3 + 2, width // 3 + 2, 3)).astype(np.float32)
    layers = [cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC) for layer in (coarse, fine)]
    return sum(layers).clip(0, 255).astype(np.uint8)
