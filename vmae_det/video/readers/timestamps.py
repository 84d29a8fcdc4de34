"""Frame timestamps where those of a file are missing, wrong, restart or jump.

Timestamps are integers in units of the stream's time base, as in FFmpeg.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

from vmae_det.video.readers.base import warn_once

# Containers whose streams can be spliced. A gap of this many seconds in one of them counts as a clock jump.
_SPLICEABLE = ("mpegts", "mpeg", "flv", "ogg")
_MIN_JUMP = 10
_GUESS_ERROR = 3  # frames by which FFmpeg's guessed timestamps of a program stream may be wrong


def find_discontinuities(
    packets: Iterable[tuple[int, int | None]], time_base: Fraction, rate: Fraction, container: str
) -> tuple[int, ...]:
    """Return the numbers of the packets at which the clock restarts or jumps.

    Args:
        packets: (number, DTS) of each packet in decoding order.
        time_base: seconds per unit of the timestamps.
        rate: frames per second.
        container: name of the FFmpeg demuxer.
    """
    discontinuities, last, jump = [], None, _min_jump(time_base, rate, container)
    tolerance = _GUESS_ERROR / rate / time_base if container == "mpeg" else 0
    for number, dts in packets:
        if dts is None:
            continue
        if last is not None and not last - tolerance <= dts < last + jump:
            discontinuities.append(number)
        last = dts
    return tuple(discontinuities)


def avi_timestamps(
    frame_pts: Sequence[int | None],
    packets: Sequence[tuple[int | None, int | None]],
    delay: int,
    path: Path,
) -> Sequence[int | None]:
    """Return when each frame of an AVI file is presented, in units of its time base.

    AVI numbers the data chunks in decoding order. Empty chunks, where a camera dropped a frame, are counted
    too. A frame is presented in the slot whose chunk is decoded `delay` frames later.

    Args:
        frame_pts: PTS of the decoded frames in presentation order, which identify their packets.
        packets: (PTS, slot number) of each packet.
        delay: number of frames that the decoder buffers for reordering.
        path: the file, for the warning.
    """
    known = set(frame_pts)
    slots = [slot for pts, slot in packets if pts in known]
    if len(slots) == len(frame_pts):
        return [*slots[delay:], *[None] * delay]
    if packets[-1][1] - packets[0][1] >= len(packets):
        warn_once(path, "some frames were dropped at unknown positions; assuming evenly spaced frames")
    return [None] * len(frame_pts)


def smooth_timestamps(
    frames: Sequence[tuple[int | None, int]], time_base: Fraction, rate: Fraction
) -> list[int | None]:
    """Return the timestamps of the frames of an MPEG program stream.

    A program stream states the times of some frames only. FFmpeg may assign them to the wrong frames if
    frames are small. In that case timestamps go back by a few frames here and there, and durations are more
    reliable than timestamps that differ little from the expected ones.

    Args:
        frames: (PTS, duration) of each frame in presentation order.
        time_base: seconds per unit of the timestamps.
        rate: frames per second.
    """
    timestamps, tolerance = [pts for pts, _ in frames], _GUESS_ERROR / rate / time_base
    known = [pts for pts in timestamps if pts is not None]
    if not any(0 <= before - after <= tolerance for before, after in itertools.pairwise(known)):
        return timestamps
    smoothed, expected = [], None
    for pts, duration in frames:
        if expected is not None and (pts is None or abs(pts - expected) <= tolerance):
            pts = expected
        smoothed.append(pts)
        expected = None if pts is None else pts + (duration or round(1 / rate / time_base))
    return smoothed


def timestamps_from_durations(durations: Sequence[int], time_base: Fraction, rate: Fraction) -> list[int]:
    """Return the timestamps of the frames of a raw stream, whose timestamps are guessed by FFmpeg.

    Args:
        durations: duration of each frame in units of `time_base`, 0 if unknown.
        time_base: seconds per unit of the timestamps.
        rate: frames per second.
    """
    known = [duration or round(1 / rate / time_base) for duration in durations]
    return [0, *itertools.accumulate(known)][: len(known)]


class ContinuousClock:
    """Maps the timestamps of successive frames, in presentation order, to one increasing clock.

    A frame without a timestamp is placed one frame period after the previous one. So is the first frame after
    a restart or jump of the clock. Later frames keep their distance to that frame.
    """

    def __init__(self, time_base: Fraction, rate: Fraction, container: str) -> None:
        self._period = max(round(1 / rate / time_base), 1)
        self._jump = _min_jump(time_base, rate, container)
        self._shift = 0
        self._last: int | None = None

    def add(self, timestamp: int | None) -> int:
        """Return the time of the next frame, which is later than the previous one."""
        last = self._last
        if last is None:
            self._last = timestamp or 0
        elif timestamp is None:
            self._last = last + self._period
        else:
            if not last < timestamp + self._shift < last + self._jump:
                self._shift = last + self._period - timestamp
            self._last = timestamp + self._shift
        return self._last


def _min_jump(time_base: Fraction, rate: Fraction, container: str) -> float:
    """Return the gap, in units of `time_base`, from which the clock counts as interrupted."""
    return max(_MIN_JUMP, 4 / rate) / time_base if container.startswith(_SPLICEABLE) else math.inf


def warn_about_discontinuities(path: Path | str, count: int) -> None:
    """Warn about a file whose clock restarts or jumps `count` times."""
    times = f"{count} times" if count > 1 else "once"
    warn_once(
        path,
        f"its clock restarts or jumps {times}: the parts are joined without a gap and without sound; each "
        "read decodes from the beginning, so re-encode the file for training",
    )
