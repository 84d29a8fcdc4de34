"""What readers tell of a file whose frames are right, but not all that a user may expect: once each."""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger(__name__)

_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics (Rec. ITU-T H.273, table 3)
_told: set[tuple[str, str]] = set()


def warn(path: Path | str, text: str) -> None:
    """Log a warning about a file, once in a process."""
    if (str(path), text) not in _told:
        _told.add((str(path), text))
        logger.warning("%s: %s", path, text)


def warn_of_clock(path: Path | str, breaks: int) -> None:
    """Of a file whose clock restarts or leaps so many times."""
    times = f"{breaks} times" if breaks > 1 else "once"
    warn(
        path,
        f"its clock restarts or jumps {times}: the parts are joined without a gap and without sound; each "
        "read decodes from the beginning, so re-encode the file for training",
    )


def warn_of_colours(path: Path | str, transfer: int) -> None:
    """Of HDR video, which is not tone-mapped."""
    if transfer in _HDR:
        warn(
            path,
            f"its colours are HDR ({_HDR[transfer]}), which is not tone-mapped: frames look paler than in a "
            "player; convert it to SDR first (ffmpeg's zscale and tonemap filters)",
        )
