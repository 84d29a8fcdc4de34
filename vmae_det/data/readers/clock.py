"""When frames are shown, where a file's own times are missing, restart, or leap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from vmae_det.data.readers.notices import warn

# Seconds without a frame from which the clock of a stream that can be spliced is taken to have leapt.
_LEAP = 10
_SPLICED = ("mpegts", "mpeg", "flv", "ogg")


def find_breaks(
    order: Iterable[tuple[int, int | None]], time_base: Fraction, rate: Fraction, container: str
) -> tuple[int, ...]:
    """The packets at which the clock restarts or leaps, of (number, decoding time) in decoding order."""
    breaks, last, leap = [], None, _leap(time_base, rate, container)
    for number, stamp in order:
        if stamp is None:
            continue
        if last is not None and not last <= stamp < last + leap:
            breaks.append(number)
        last = stamp
    return tuple(breaks)


def shown_places(
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
        warn(path, "it dropped frames and does not say which: frames are taken to follow each other evenly")
    return [None] * len(decoded)


def joined(stamps: Sequence[int | None], time_base: Fraction, rate: Fraction, container: str) -> np.ndarray:
    """Stamps of frames in the order they are shown in, int64 (n,), made to ascend.

    A frame without a time follows the one before by a frame's length. So does the first one after the clock
    restarted or leapt, and those after it keep their distances to it.
    """
    period, leap = max(round(1 / rate / time_base), 1), _leap(time_base, rate, container)
    found, shift, last = np.empty(len(stamps), dtype=np.int64), 0, None
    for place, stamp in enumerate(stamps):
        if last is None:
            last = stamp or 0
        elif stamp is None:
            last += period
        else:
            if not last < stamp + shift < last + leap:
                shift = last + period - stamp
            last = stamp + shift
        found[place] = last
    return found


def _leap(time_base: Fraction, rate: Fraction, container: str) -> float:
    """In units of time_base: a gap that is none, but another clock."""
    return max(_LEAP, 4 / rate) / time_base if container.startswith(_SPLICED) else math.inf
