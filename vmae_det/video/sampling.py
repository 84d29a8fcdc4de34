"""Temporal sampling: which frames make up a clip, and which frame is a keyframe.

Functions that sample a clip return frame indices, int64 (clip_length,). Indices beyond either end of a video
are clamped, so that its first or last frame repeats.

A keyframe is annotated at a time. Its frame is the one nearest to that time (`nearest_frames`, called by
`VideoReader.index_at`), and `sample_keyframe_clip` takes the clip around that frame.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vmae_det.config import CfgNode

# SlowFast: (second - 900) * 30, see get_keyframe_data in ava_helper.py. AVA annotates seconds 900 to 1800.
_AVA_CLOCK = (900, 1800)
_SLOWFAST_RATE = 30


def sample_training_clip(node: CfgNode, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Sample a random training clip for classification, by INPUT.SAMPLING and INPUT.CONVENTION.

    Args:
        node: cfg.INPUT.
        num_frames: frames of the video.
        rng: random generator.
    """
    length, rate, published = node.NUM_FRAMES, node.SAMPLING_RATE, node.CONVENTION == "published"
    if node.SAMPLING == "dense":
        return (published_random_clip if published else random_clip)(num_frames, length, rate, rng)
    return (published_random_segments if published else random_segments)(num_frames, length, rng)


def sample_test_clip(node: CfgNode, num_frames: int, number: int, num_clips: int) -> np.ndarray:
    """Sample test clip `number` of `num_clips` of a video, by the same keys as for training."""
    length, rate, published = node.NUM_FRAMES, node.SAMPLING_RATE, node.CONVENTION == "published"
    if node.SAMPLING == "dense":
        sample = published_evenly_spaced_clip if published else evenly_spaced_clip
        return sample(num_frames, length, rate, number, num_clips)
    sample = published_evenly_spaced_segments if published else evenly_spaced_segments
    return sample(num_frames, length, number, num_clips)


def sample_keyframe_clip(node: CfgNode, keyframe: int, num_frames: int) -> np.ndarray:
    """Sample the clip around the frame `keyframe`, by the keys of INPUT."""
    length, rate = node.NUM_FRAMES, node.SAMPLING_RATE
    return keyframe_clip(keyframe + keyframe_clip_shift(node), num_frames, length, rate)


def keyframe_clip_shift(node: CfgNode) -> int:
    """Return by how many frames a keyframe's clip is later than centered.

    It is 0, or as in the published detector if INPUT.CONVENTION is "published".
    """
    return (node.SAMPLING_RATE - 1) // 2 if node.CONVENTION == "published" else 0


def nearest_frames(times: np.ndarray, seconds: np.ndarray | float) -> np.ndarray:
    """Return the index of the frame nearest to each time, the earlier one in case of a tie.

    Args:
        times: time of each frame, ascending (num_frames,).
        seconds: times to look up, of any shape.
    """
    last = len(times) - 1
    after = np.searchsorted(times, seconds).clip(1, max(last, 1)).clip(max=last)
    before = (after - 1).clip(min=0)
    return np.where(np.abs(times[before] - seconds) <= np.abs(times[after] - seconds), before, after)


def frames_around(times: np.ndarray, second: float, span: float, max_rate: float) -> np.ndarray:
    """Return the frames at most `span` from a time, evenly thinned, with the nearest one among them.

    Args:
        times: time of each frame in seconds, ascending (num_frames,).
        second: the time.
        span: seconds.
        max_rate: most frames per second.
    """
    first, last = np.searchsorted(times, [second - span - 1e-6, second + span + 1e-6])
    inside = np.arange(first, last)
    if not len(inside):
        return inside
    nearest = int(nearest_frames(times, second).clip(first, last - 1))
    rate = (len(inside) - 1) / max(times[last - 1] - times[first], 1e-3)
    step = max(math.ceil(rate / max_rate - 0.1), 1)  # 12.5 of 25 frames per second are fine, too
    return inside[(inside - nearest) % step == 0]


def random_clip(num_frames: int, clip_length: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Sample every `rate`-th frame from a random start."""
    latest = max(num_frames - (clip_length - 1) * rate - 1, 0)
    return clip_from(int(rng.integers(latest + 1)), num_frames, clip_length, rate)


def evenly_spaced_clip(
    num_frames: int, clip_length: int, rate: int, number: int, num_clips: int
) -> np.ndarray:
    """Sample clip `number` of `num_clips` clips evenly spaced over the video. A single clip is centered."""
    latest = max(num_frames - (clip_length - 1) * rate - 1, 0)
    fraction = number / (num_clips - 1) if num_clips > 1 else 0.5
    return clip_from(round(latest * fraction), num_frames, clip_length, rate)


def random_segments(num_frames: int, clip_length: int, rng: np.random.Generator) -> np.ndarray:
    """Sample one random frame from each of `clip_length` equal segments of a video.

    As in Temporal Segment Networks (Wang et al., 2016). In a video with fewer frames some repeat.
    """
    edges = np.arange(clip_length + 1) * num_frames // clip_length
    return rng.integers(edges[:-1], np.maximum(edges[1:], edges[:-1] + 1))


def evenly_spaced_segments(num_frames: int, clip_length: int, number: int, num_clips: int) -> np.ndarray:
    """Sample clip `number` of `num_clips`, with a frame from each of `clip_length` equal segments.

    The frame is at (number + 1/2) / num_clips of each segment. A single clip takes the centers.
    """
    half_steps = 2 * num_clips * np.arange(clip_length) + 2 * number + 1
    return half_steps * num_frames // (2 * num_clips * clip_length)


def keyframe_clip(keyframe: int, num_frames: int, clip_length: int, rate: int) -> np.ndarray:
    """Sample the clip in which the frame `keyframe` is at position clip_length // 2."""
    return clip_from(keyframe - (clip_length // 2) * rate, num_frames, clip_length, rate)


def sliding_clip_starts(num_frames: int, clip_length: int, rate: int, stride: int) -> np.ndarray:
    """Return the first frame of every clip that fits into a video, `stride` frames apart: int64 (n,).

    With 16 consecutive frames it is range(0, num_frames - 15, stride), as in VideoMAE V2's
    extract_tad_feature.py. A video that is shorter than a clip has one, which repeats its last frame.
    """
    latest = max(num_frames - (clip_length - 1) * rate - 1, 0)
    return np.arange(0, latest + 1, stride, dtype=np.int64)


def clip_from(start: int, num_frames: int, clip_length: int, rate: int) -> np.ndarray:
    """Sample every `rate`-th frame from a start."""
    return (start + rate * np.arange(clip_length)).clip(0, num_frames - 1)


def target_clip(
    clip: np.ndarray, rate: int, num_frames: int, target_length: int, target_rate: int
) -> np.ndarray:
    """Return the frames to predict from `clip`: a clip around the same center.

    The center is the frame at position clip_length // 2, as in the clip of a keyframe. A target of one frame
    is that frame.

    Args:
        clip: indices of the input frames, which are `rate` apart.
        rate: sampling rate of `clip`.
        num_frames: frames of the video.
        target_length: frames of the target.
        target_rate: sampling rate of the target.
    """
    center = int(clip[0]) + len(clip) // 2 * rate
    return keyframe_clip(center, num_frames, target_length, target_rate)


# INPUT.CONVENTION "published": the sampling of VideoMAE's kinetics.py and ssv2.py.


def published_random_clip(
    num_frames: int, clip_length: int, rate: int, rng: np.random.Generator
) -> np.ndarray:
    """Sample frames evenly spaced over a random window of clip_length * rate frames, both ends included.

    In a video that is not longer than the window, num_frames // rate frames are evenly spaced over the entire
    video, and the last frame fills the rest of the clip.
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
    """Sample clip `number` of `num_clips` clips spaced over every `rate`-th frame. A single one is centered.

    If there are too few such frames, the last one repeats.
    """
    frames = np.arange(0, num_frames, rate)
    latest = max(len(frames) - clip_length, 0)
    start = int(number * (latest / (num_clips - 1))) if num_clips > 1 else latest // 2
    return frames[(start + np.arange(clip_length)).clip(max=len(frames) - 1)]


def published_random_segments(num_frames: int, clip_length: int, rng: np.random.Generator) -> np.ndarray:
    """Sample one random frame from each of `clip_length` segments of num_frames // clip_length frames.

    The remainder at the end of the video is not used. A video with fewer frames than segments returns random
    frames.
    """
    size = num_frames // clip_length
    if size:
        return np.arange(clip_length) * size + rng.integers(size, size=clip_length)
    return np.sort(rng.integers(num_frames, size=clip_length))


def published_evenly_spaced_segments(
    num_frames: int, clip_length: int, number: int, num_clips: int
) -> np.ndarray:
    """Sample clip `number` of `num_clips`: the frame at number / num_clips of each segment."""
    parts = np.arange(clip_length) * num_clips + number
    return parts * num_frames // (clip_length * num_clips)


def slowfast_frame(timestamp: float) -> int | None:
    """Return the 0-based image that SlowFast uses for a second of AVA's clock; None outside that clock."""
    first, last = _AVA_CLOCK
    return round((timestamp - first) * _SLOWFAST_RATE) if first <= timestamp <= last else None


def describe_keyframe(video: str, timestamp: float, start: float, rate: float = 0.0) -> str:
    """Describe which frame is a keyframe, and which one SlowFast uses. Results differ by points between them.

    Args:
        video: id of the video.
        timestamp: time of the keyframe, in seconds on the dataset's clock.
        start: second of that clock at which the video file starts.
        rate: frames per second of the file; 0 if unknown.
    """
    seconds = timestamp - start
    text = (
        f"the keyframe at second {timestamp:g} of {video} is the frame nearest to {seconds:.3f} s of its "
        f"file (video_start {start:g})"
    )
    if rate:
        text += f", frame {round(seconds * rate)} from the first at {rate:.5g} frames per second"
    other = slowfast_frame(timestamp)
    if other is not None:
        text += f"; SlowFast uses ({timestamp:g} - {_AVA_CLOCK[0]}) x {_SLOWFAST_RATE} = frame {other}"
        text += f" from the first, of images at {_SLOWFAST_RATE} per second"
    return text
