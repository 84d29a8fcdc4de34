"""Which frames of a video make a clip. All functions give int64 indices (clip_length,)."""

from __future__ import annotations

import numpy as np

from vmae_det.config import CfgNode
from vmae_det.video import published_sampling as published


def training_frames(node: CfgNode, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """The frames of a classification clip for training, as INPUT.SAMPLING and INPUT.CONVENTION say."""
    length, rate = node.NUM_FRAMES, node.SAMPLING_RATE
    if node.SAMPLING == "dense":
        choose = published.random_window if node.CONVENTION == "published" else random_clip
        return choose(num_frames, length, rate, rng)
    choose = published.random_segments if node.CONVENTION == "published" else random_segments
    return choose(num_frames, length, rng)


def view_frames(node: CfgNode, num_frames: int, number: int, num_clips: int) -> np.ndarray:
    """The frames of clip `number` of `num_clips` that a video is tested with, by the same keys."""
    length, rate = node.NUM_FRAMES, node.SAMPLING_RATE
    if node.SAMPLING == "dense":
        choose = published.placed_clip if node.CONVENTION == "published" else evenly_placed_clip
        return choose(num_frames, length, rate, number, num_clips)
    choose = published.placed_segments if node.CONVENTION == "published" else placed_segments
    return choose(num_frames, length, number, num_clips)


def keyframe_frames(node: CfgNode, keyframe: int, num_frames: int) -> np.ndarray:
    """The frames of the clip around a keyframe, as INPUT says."""
    length, rate = node.NUM_FRAMES, node.SAMPLING_RATE
    return keyframe_clip(keyframe + clip_shift(node), num_frames, length, rate)


def clip_shift(node: CfgNode) -> int:
    """How many frames a keyframe's clip lies later than centred: none, or as in the published detector."""
    return (node.SAMPLING_RATE - 1) // 2 if node.CONVENTION == "published" else 0


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
