"""Which frames of a video make a clip. All functions give int64 indices (clip_length,)."""

from __future__ import annotations

import numpy as np


def random_clip(num_frames: int, clip_length: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Every `rate`-th frame from a random start; a video that is too short ends in its last frame,
    repeated."""
    latest = max(num_frames - (clip_length - 1) * rate - 1, 0)
    return _clip(int(rng.integers(latest + 1)), num_frames, clip_length, rate)


def evenly_placed_clip(
    num_frames: int, clip_length: int, rate: int, number: int, num_clips: int
) -> np.ndarray:
    """Clip `number` of `num_clips` that are spread evenly over the video; a single one lies in its middle."""
    latest = max(num_frames - (clip_length - 1) * rate - 1, 0)
    share = number / (num_clips - 1) if num_clips > 1 else 0.5
    return _clip(round(latest * share), num_frames, clip_length, rate)


def random_segments(num_frames: int, clip_length: int, rng: np.random.Generator) -> np.ndarray:
    """One random frame from each of `clip_length` equal parts of a video (Temporal Segment Networks, Wang et
    al. 2016); in a video of fewer frames some repeat."""
    edges = np.arange(clip_length + 1) * num_frames // clip_length
    return rng.integers(edges[:-1], np.maximum(edges[1:], edges[:-1] + 1))


def placed_segments(num_frames: int, clip_length: int, number: int, num_clips: int) -> np.ndarray:
    """Clip `number` of `num_clips`, with a frame from each of `clip_length` equal parts of a video.

    In all parts it lies (number + 1/2) / num_clips of the way through: a single clip takes the middles.
    """
    half_steps = 2 * num_clips * np.arange(clip_length) + 2 * number + 1
    return half_steps * num_frames // (2 * num_clips * clip_length)


def keyframe_clip(keyframe: int, num_frames: int, clip_length: int, rate: int) -> np.ndarray:
    """The clip around a keyframe, which is its frame number clip_length // 2; beyond the ends, frames
    repeat."""
    return _clip(keyframe - (clip_length // 2) * rate, num_frames, clip_length, rate)


def target_clip(
    clip: np.ndarray, rate: int, num_frames: int, target_length: int, target_rate: int
) -> np.ndarray:
    """The frames to predict from `clip`, whose frames are `rate` apart: a clip around the same middle.

    The middle is frame number clip_length // 2, as in a keyframe's clip; a target of one frame is that frame.
    Beyond the ends of the video frames repeat.
    """
    middle = int(clip[0]) + len(clip) // 2 * rate
    return keyframe_clip(middle, num_frames, target_length, target_rate)


def _clip(start: int, num_frames: int, clip_length: int, rate: int) -> np.ndarray:
    return (start + rate * np.arange(clip_length)).clip(0, num_frames - 1)
