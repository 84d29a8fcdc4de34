"""Which frame is a keyframe, in words: published results differ by points over it."""

from __future__ import annotations

# SlowFast: (second - 900) * 30, in ava_helper.py's get_keyframe_data; AVA annotates seconds 900 to 1800.
_AVA_CLOCK = (900, 1800)
_SLOWFAST_RATE = 30


def slowfast_frame(timestamp: float) -> int | None:
    """Number from 0 of the image that SlowFast takes for a second of AVA's clock; None off that clock."""
    first, last = _AVA_CLOCK
    return round((timestamp - first) * _SLOWFAST_RATE) if first <= timestamp <= last else None


def describe_keyframes(video: str, timestamp: float, start: float, rate: float = 0.0) -> str:
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
