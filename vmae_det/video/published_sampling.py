"""Which frames of a video the authors' classification programs take (VideoMAE's kinetics.py and ssv2.py).

For INPUT.CONVENTION published. All functions give int64 indices (clip_length,).
"""

from __future__ import annotations

import numpy as np


def random_window(num_frames: int, clip_length: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Frames spread evenly over a random window of clip_length * rate frames, from its first to its last.

    A video no longer than that gives num_frames // rate frames spread over all of it, then its last frame,
    repeated.
    """
    window = clip_length * rate
    if num_frames > window:
        start = int(rng.integers(num_frames - window))
        frames = np.linspace(start, start + window, clip_length)
        return frames.clip(start, start + window - 1).astype(np.int64)
    spread = np.linspace(0, num_frames, num_frames // rate)
    frames = np.concatenate([spread, np.full(clip_length - len(spread), num_frames)])
    return frames.clip(0, num_frames - 1).astype(np.int64)


def placed_clip(num_frames: int, clip_length: int, rate: int, number: int, num_clips: int) -> np.ndarray:
    """Clip `number` of `num_clips` that are spread over every `rate`-th frame; a single one in the middle.

    In a video of too few such frames the last of them is repeated.
    """
    frames = np.arange(0, num_frames, rate)
    latest = max(len(frames) - clip_length, 0)
    start = int(number * (latest / (num_clips - 1))) if num_clips > 1 else latest // 2
    return frames[(start + np.arange(clip_length)).clip(max=len(frames) - 1)]


def random_segments(num_frames: int, clip_length: int, rng: np.random.Generator) -> np.ndarray:
    """One random frame from each of `clip_length` segments of num_frames // clip_length frames.

    What remains at the end of the video is not used. A video of fewer frames than segments gives random ones.
    """
    size = num_frames // clip_length
    if size:
        return np.arange(clip_length) * size + rng.integers(size, size=clip_length)
    return np.sort(rng.integers(num_frames, size=clip_length))


def placed_segments(num_frames: int, clip_length: int, number: int, num_clips: int) -> np.ndarray:
    """Clip `number` of `num_clips`: in each of `clip_length` equal parts the frame number / num_clips of the
    way through."""
    parts = np.arange(clip_length) * num_clips + number
    return parts * num_frames // (clip_length * num_clips)
