"""The page of a video's actions: one HTML file that plays the video and says who does what and when.

It works without a server, asks nothing of any host, and holds names and numbers as data, never as code.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.inference.detections import ActionDetections
from vmae_det.rendering.page_video import PageVideo, add_video
from vmae_det.utils.output_files import write_text
from vmae_det.video.readers import VideoReader, open_video

FLOOR = 0.05  # of the scores that a page holds: those below would be most of an hour's page

# Seconds: a person is followed from one keyframe to the next over MAX_GAP at most; where none is near, a
# keyframe's box is shown for half the time between keyframes, and for LONGEST_REACH at most.
MAX_GAP, LONGEST_REACH = 2.0, 1.0

_TEMPLATE = Path(__file__).with_name("page_template")
_SCRIPTS = ("detections.js", "player.js", "timeline.js", "panel.js", "main.js")


def write_page(
    detections: ActionDetections,
    path: str | Path,
    *,
    threshold: float = 0.3,
    progress: bool = False,
) -> Path:
    """Write the page, and beside it the video where that is large or browsers do not play it as it is.

    People are shown as in the overlay: boxes interpolated between keyframes, and the actions of the nearest
    keyframe. Scores below FLOOR are left out.

    Args:
        threshold: lowest score that is shown at first; a reader of the page moves it.

    Raises:
        DataError: the video cannot be read, or a keyframe lies outside of it.
        UserError: a file cannot be written.
    """
    path = Path(path)
    reader = open_video(detections.video)
    data = _times(detections, reader) | _people(detections)
    video = add_video(reader, path, progress)
    data |= {
        "title": detections.video.name,
        "video": detections.video.stem,
        "videoStart": detections.video_start,
        "address": video.address,
        "mediaType": video.media_type,
        "mediaStart": video.start,
        "threshold": threshold,
        "floor": FLOOR,
    }
    write_text(path, _fill_template(data, video))
    return path


def _times(detections: ActionDetections, reader: VideoReader) -> dict[str, Any]:
    """When keyframes are: on the detections' clock, and in seconds from the video's first frame on."""
    period = 1 / float(reader.rate)
    timestamp, keyframe = np.unique(detections.timestamp, return_inverse=True)
    frame = np.array([reader.index_at(moment - detections.video_start) for moment in timestamp], dtype=int)
    until = np.append(reader.times[1:], reader.times[-1] + period)
    spacing = float(np.median(np.diff(timestamp))) if len(timestamp) > 1 else 1.0
    return {
        "reach": min(spacing / 2, LONGEST_REACH),
        "gap": MAX_GAP,
        "timestamp": _pack(timestamp, "f8"),
        "shownAt": _pack(reader.times[frame], "f8"),
        # Late in the frame: players take one frame for another where two meet, and the frame before for the
        # one that is meant where it lasts shorter than the file says, as with a variable rate.
        "seekTo": _pack(0.1 * reader.times[frame] + 0.9 * until[frame], "f8"),
        "keyframe": _pack(keyframe, "u4"),
        "period": period,
        "duration": float(until[-1]),
    }


def _people(detections: ActionDetections) -> dict[str, Any]:
    """The rows (R,) in flat arrays; `counts` says how many of `columns` and `scores` each of them has."""
    row, column = np.nonzero(detections.scores >= FLOOR)
    label_map = detections.label_map
    return {
        "actions": [
            {"id": number, "name": name, "kind": kind}
            for number, name, kind in zip(label_map.ids, label_map.names, label_map.kinds)
        ],
        "track": _pack(detections.tracks, "u4"),
        # Millionths, the decimals that AVA's CSV has here.
        "boxes": _pack(np.rint(detections.boxes * 1e6), "i4"),
        "personScores": _pack(detections.person_scores, "f4"),
        "counts": _pack(np.bincount(row, minlength=len(detections)), "u2"),
        "columns": _pack(column, "u2"),
        "scores": _pack(detections.scores[row, column], "f4"),
    }


def _pack(values: np.ndarray, kind: str) -> str:
    """An array's numbers, little-endian, in base64."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=f"<{kind}").tobytes()).decode("ascii")


def _fill_template(data: dict[str, Any], video: PageVideo) -> str:
    script = '"use strict";\n' + "".join(_read(name) for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    # Inside of a script element only "<" could end it.
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    fields = {"STYLE": _read("style.css"), "SCRIPT": script, "DIGEST": digest, "DATA": text}
    fields["VIDEO"] = video.content
    # In one pass: what is filled in may hold a field's name.
    pieces = _read("page.html").split("@@")
    return "".join(fields[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _read(name: str) -> str:
    return (_TEMPLATE / name).read_text(encoding="utf-8")
