"""When frames are shown, where a file's own times are missing, restart, or leap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

from vmae_det.video.readers.base import warn_once

# Seconds without a frame from which the clock of a stream that can be spliced is taken to have leapt.
_LEAP = 10
_GUESSED = 3  # frames by which the guessed times of a program stream may be wrong
_SPLICED = ("mpegts", "mpeg", "flv", "ogg")


def find_discontinuities(
    order: Iterable[tuple[int, int | None]], time_base: Fraction, rate: Fraction, container: str
) -> tuple[int, ...]:
    """The packets at which the clock restarts or leaps, of (number, decoding time) in decoding order."""
    breaks, last, leap = [], None, _leap(time_base, rate, container)
    back = _GUESSED / rate / time_base if container == "mpeg" else 0
    for number, stamp in order:
        if stamp is None:
            continue
        if last is not None and not last - back <= stamp < last + leap:
            breaks.append(number)
        last = stamp
    return tuple(breaks)


def avi_timestamps(
    decoded: Sequence[int | None],
    packets: Sequence[tuple[int | None, int | None]],
    delay: int,
    path: Path,
) -> Sequence[int | None]:
    """When the frames of an AVI file are shown, in its own units.

    AVI numbers the places of the frames' data in the order of decoding, empty places included, where a camera
    dropped a frame. A frame is shown at the place that is decoded `delay` frames after it would be in order.

    Args:
        decoded: the time stamps of frames, by which they name their packets, in the order they are shown in.
        packets: time stamp and place of each packet.
        delay: frames that the decoder holds back to bring them into order.
    """
    names = set(decoded)
    places = [place for name, place in packets if name in names]
    if len(places) == len(decoded):
        return [*places[delay:], *[None] * delay]
    if packets[-1][1] - packets[0][1] >= len(packets):
        warn_once(path, "it dropped frames and does not say which: frames are taken to be evenly spaced")
    return [None] * len(decoded)


def smooth_timestamps(
    frames: Sequence[tuple[int | None, int]], time_base: Fraction, rate: Fraction
) -> list[int | None]:
    """Time stamps of a program stream's frames, of (stamp, duration) in the order they are shown in.

    It states the times of some frames only, and FFmpeg may guess wrong which they are where frames are small.
    Then stamps go back by a few frames here and there, and durations tell more than stamps that are near.
    """
    stamps, slack = [stamp for stamp, _ in frames], _GUESSED / rate / time_base
    known = [stamp for stamp in stamps if stamp is not None]
    if not any(0 <= before - after <= slack for before, after in itertools.pairwise(known)):
        return stamps
    found, expected = [], None
    for stamp, duration in frames:
        if expected is not None and (stamp is None or abs(stamp - expected) <= slack):
            stamp = expected
        found.append(stamp)
        expected = None if stamp is None else stamp + (duration or round(1 / rate / time_base))
    return found


def timestamps_from_durations(durations: Sequence[int], time_base: Fraction, rate: Fraction) -> list[int]:
    """Time stamps of a bare stream's frames, which follow each other; those that FFmpeg gives are guesses.

    Args:
        durations: of the frames, in units of time_base; 0 where it is not known.
    """
    known = [duration or round(1 / rate / time_base) for duration in durations]
    return [0, *itertools.accumulate(known)][: len(known)]


class ContinuousClock:
    """Brings the time stamps of frames, in the order they are shown in, onto one clock.

    A frame without a time follows the one before by a frame's length. So does the first one after the clock
    restarted or leapt, and those after it keep their distances to it.
    """

    def __init__(self, time_base: Fraction, rate: Fraction, container: str) -> None:
        self._period = max(round(1 / rate / time_base), 1)
        self._leap = _leap(time_base, rate, container)
        self._shift = 0
        self._last: int | None = None

    def add(self, stamp: int | None) -> int:
        """The next frame's time, above the one before."""
        last = self._last
        if last is None:
            self._last = stamp or 0
        elif stamp is None:
            self._last = last + self._period
        else:
            if not last < stamp + self._shift < last + self._leap:
                self._shift = last + self._period - stamp
            self._last = stamp + self._shift
        return self._last


def _leap(time_base: Fraction, rate: Fraction, container: str) -> float:
    """In units of time_base: a gap that is none, but another clock."""
    return max(_LEAP, 4 / rate) / time_base if container.startswith(_SPLICED) else math.inf


def warn_about_discontinuities(path: Path | str, breaks: int) -> None:
    """Of a file whose clock restarts or leaps so many times."""
    times = f"{breaks} times" if breaks > 1 else "once"
    warn_once(
        path,
        f"its clock restarts or jumps {times}: the parts are joined without a gap and without sound; each "
        "read decodes from the beginning, so re-encode the file for training",
    )
