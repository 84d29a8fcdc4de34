"""Which frames of a video make a clip. All functions give int64 indices (clip_length,)."""

from __future__ import annotations

import numpy as np

from vmae_det.config import CfgNode


def sample_training_clip(node: CfgNode, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """The frames of a classification clip for training, as INPUT.SAMPLING and INPUT.CONVENTION say."""
    length, rate = node.NUM_FRAMES, node.SAMPLING_RATE
    if node.SAMPLING == "dense":
        choose = published_random_clip if node.CONVENTION == "published" else random_clip
        return choose(num_frames, length, rate, rng)
    choose = published_random_segments if node.CONVENTION == "published" else random_segments
    return choose(num_frames, length, rng)


def sample_test_clip(node: CfgNode, num_frames: int, number: int, num_clips: int) -> np.ndarray:
    """The frames of clip `number` of `num_clips` that a video is tested with, by the same keys."""
    length, rate = node.NUM_FRAMES, node.SAMPLING_RATE
    if node.SAMPLING == "dense":
        choose = published_evenly_spaced_clip if node.CONVENTION == "published" else evenly_spaced_clip
        return choose(num_frames, length, rate, number, num_clips)
    choose = published_evenly_spaced_segments if node.CONVENTION == "published" else evenly_spaced_segments
    return choose(num_frames, length, number, num_clips)


def sample_keyframe_clip(node: CfgNode, keyframe: int, num_frames: int) -> np.ndarray:
    """The frames of the clip around a keyframe, as INPUT says."""
    length, rate = node.NUM_FRAMES, node.SAMPLING_RATE
    return keyframe_clip(keyframe + keyframe_clip_shift(node), num_frames, length, rate)


def keyframe_clip_shift(node: CfgNode) -> int:
    """How many frames a keyframe's clip lies later than centred: none, or as in the published detector."""
    return (node.SAMPLING_RATE - 1) // 2 if node.CONVENTION == "published" else 0


def random_clip(num_frames: int, clip_length: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Every `rate`-th frame from a random start; a video that is too short ends in its last frame,
    repeated."""
    latest = max(num_frames - (clip_length - 1) * rate - 1, 0)
    return _clip(int(rng.integers(latest + 1)), num_frames, clip_length, rate)


def evenly_spaced_clip(
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


def evenly_spaced_segments(num_frames: int, clip_length: int, number: int, num_clips: int) -> np.ndarray:
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


def published_random_clip(
    num_frames: int, clip_length: int, rate: int, rng: np.random.Generator
) -> np.ndarray:
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


def published_evenly_spaced_clip(
    num_frames: int, clip_length: int, rate: int, number: int, num_clips: int
) -> np.ndarray:
    """Clip `number` of `num_clips` that are spread over every `rate`-th frame; a single one in the middle.

    In a video of too few such frames the last of them is repeated.
    """
    frames = np.arange(0, num_frames, rate)
    latest = max(len(frames) - clip_length, 0)
    start = int(number * (latest / (num_clips - 1))) if num_clips > 1 else latest // 2
    return frames[(start + np.arange(clip_length)).clip(max=len(frames) - 1)]


def published_random_segments(num_frames: int, clip_length: int, rng: np.random.Generator) -> np.ndarray:
    """One random frame from each of `clip_length` segments of num_frames // clip_length frames.

    What remains at the end of the video is not used. A video of fewer frames than segments gives random ones.
    """
    size = num_frames // clip_length
    if size:
        return np.arange(clip_length) * size + rng.integers(size, size=clip_length)
    return np.sort(rng.integers(num_frames, size=clip_length))


def published_evenly_spaced_segments(
    num_frames: int, clip_length: int, number: int, num_clips: int
) -> np.ndarray:
    """Clip `number` of `num_clips`: in each of `clip_length` equal parts the frame number / num_clips of the
    way through."""
    parts = np.arange(clip_length) * num_clips + number
    return parts * num_frames // (clip_length * num_clips)


# SlowFast: (second - 900) * 30, in ava_helper.py's get_keyframe_data; AVA annotates seconds 900 to 1800.
_AVA_CLOCK = (900, 1800)
_SLOWFAST_RATE = 30


def slowfast_frame(timestamp: float) -> int | None:
    """Number from 0 of the image that SlowFast takes for a second of AVA's clock; None off that clock."""
    first, last = _AVA_CLOCK
    return round((timestamp - first) * _SLOWFAST_RATE) if first <= timestamp <= last else None


def describe_keyframe(video: str, timestamp: float, start: float, rate: float = 0.0) -> str:
    """Where a dataset's keyframes are found, by the example of one.

    Args:
        timestamp: of a keyframe of `video`, seconds on the dataset's clock.
        start: second of that clock at which the video's file starts.
        rate: frames per second of the file; 0: not known.
    """
    seconds = timestamp - start
    text = (
        f"the keyframe of second {timestamp:g} of {video} is the frame nearest to {seconds:.3f} s of its "
        f"file (video_start {start:g})"
    )
    if rate:
        text += f", frame {round(seconds * rate)} from the first at {rate:.5g} a second"
    other = slowfast_frame(timestamp)
    if other is not None:
        text += f"; SlowFast counts ({timestamp:g} - {_AVA_CLOCK[0]}) x {_SLOWFAST_RATE} = frame {other}"
        text += f" from the first, of images {_SLOWFAST_RATE} a second"
    return text
