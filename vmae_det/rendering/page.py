"""Writes an HTML page that plays a video with its detections.

The page is one file and works without a server. It loads nothing from other hosts, and embeds names and
numbers as data, never as code.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import numpy as np
from tqdm import tqdm

from vmae_det.inference.detections import ActionDetections
from vmae_det.inference.stream import MAX_KEYFRAME_GAP
from vmae_det.rendering.box_interpolation import MAX_REACH
from vmae_det.utils.errors import DataError
from vmae_det.utils.output_files import atomic_write, write_text
from vmae_det.video.readers import VideoReader, open_video
from vmae_det.video.readers.base import locate_video
from vmae_det.video.readers.video_file import VideoFile
from vmae_det.video.writer import VideoWriter

MIN_SCORE = 0.05  # lower scores are not in the page; they would be most of the page of a long video
EMBED_BYTES = 16 * 2**20  # videos up to this size are embedded; such a page can still be sent by mail

_TEMPLATE = Path(__file__).with_name("page_template")
_SCRIPTS = ("detections.js", "player.js", "timeline.js", "panel.js", "main.js")

# Formats that Chromium, Firefox and Safari all play: suffix and codecs, by the FFmpeg name of the container.
_PLAYABLE = {
    "mov,mp4,m4a,3gp,3g2,mj2": (".mp4", {"h264", "vp9", "av1"}),
    "matroska,webm": (".webm", {"vp8", "vp9", "av1"}),
}
_PLAYABLE_PIXEL_FORMATS = {"yuv420p", "yuvj420p"}


def write_page(
    detections: ActionDetections,
    path: str | Path,
    *,
    threshold: float = 0.3,
    progress: bool = False,
    whole_frame: bool = False,
    origin: str = "",
) -> Path:
    """Write the page. A video that is large or must be re-encoded is written next to it.

    Detections are shown as in the overlay: boxes are interpolated between keyframes, and a person has the
    actions of the nearest keyframe. Scores below MIN_SCORE are dropped.

    Args:
        detections: detections of a video file or a folder of frames.
        path: the HTML file.
        threshold: initial score threshold of the filter in the page.
        progress: show a progress bar while encoding.
        whole_frame: the actions are those of the whole frame: show no boxes and no persons.
        origin: where the boxes are from; shown in the header.

    Returns:
        `path`.

    Raises:
        DataError: the video cannot be read, or a keyframe is outside of it.
        UserError: a file cannot be written.
    """
    path = Path(path)
    reader = open_video(detections.video)
    data = _keyframe_data(detections, reader) | _person_data(detections)
    video = prepare_video(reader, path, progress)
    data |= {
        "title": detections.video.name,
        "video": detections.video.stem,
        "videoStart": detections.video_start,
        "address": video.url,
        "mediaType": video.media_type,
        "mediaStart": video.start,
        "threshold": threshold,
        "floor": MIN_SCORE,
        "wholeFrame": whole_frame,
        "origin": origin,
    }
    write_text(path, _fill_template(data, video))
    return path


# ---------------------------------------------------------------- data


def _keyframe_data(detections: ActionDetections, reader: VideoReader) -> dict[str, Any]:
    """Return the times of the keyframes: on the clock of the detections, and from the first frame on."""
    period = 1 / float(reader.rate)
    timestamp, keyframe = np.unique(detections.timestamp, return_inverse=True)
    frame = np.array([reader.index_at(time - detections.video_start) for time in timestamp], dtype=int)
    frame_end = np.append(reader.times[1:], reader.times[-1] + period)
    spacing = float(np.median(np.diff(timestamp))) if len(timestamp) > 1 else 1.0
    return {
        "reach": min(spacing / 2, MAX_REACH),
        "gap": MAX_KEYFRAME_GAP,
        "timestamp": _pack(timestamp, "f8"),
        "shownAt": _pack(reader.times[frame], "f8"),
        # Seek to a time late in the frame. At a boundary between frames, players may show either frame, and
        # they show the previous one if it lasts longer than the file states, as with a variable frame rate.
        "seekTo": _pack(0.1 * reader.times[frame] + 0.9 * frame_end[frame], "f8"),
        "keyframe": _pack(keyframe, "u4"),
        "period": period,
        "duration": float(frame_end[-1]),
    }


def _person_data(detections: ActionDetections) -> dict[str, Any]:
    """Return the rows (R,) as flat arrays; `counts` is the number of `columns` and `scores` of each row."""
    row, column = np.nonzero(detections.scores >= MIN_SCORE)
    label_map = detections.label_map
    return {
        "actions": [
            {"id": number, "name": name, "kind": kind}
            for number, name, kind in zip(label_map.ids, label_map.names, label_map.kinds)
        ],
        "track": _pack(detections.tracks, "u4"),
        # In millionths: the CSV has six decimals.
        "boxes": _pack(np.rint(detections.boxes * 1e6), "i4"),
        "personScores": _pack(detections.person_scores, "f4"),
        "counts": _pack(np.bincount(row, minlength=len(detections)), "u2"),
        "columns": _pack(column, "u2"),
        "scores": _pack(detections.scores[row, column], "f4"),
    }


def _pack(values: np.ndarray, dtype: str) -> str:
    """Encode an array as little-endian base64."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=f"<{dtype}").tobytes()).decode("ascii")


# ---------------------------------------------------------------- video


@dataclass(frozen=True)
class PageVideo:
    """The video of a page.

    Attributes:
        url: relative to the page, percent-encoded; "" if the video is embedded.
        content: embedded file in base64, or "".
        media_type: MIME type, such as video/mp4.
        start: time in the file at which frame 0 of the reader is shown, in seconds.
    """

    url: str
    content: str
    media_type: str
    start: float


def prepare_video(reader: VideoReader, page: Path, progress: bool = False) -> PageVideo:
    """Return the video of a reader in a form that browsers play.

    A video that browsers cannot play is encoded as H.264. A small file is embedded into the page. A larger
    one is linked if it is in the folder of the page, otherwise copied there. The copy has the name of the
    page, with the suffix _page if another video has that name.

    Raises:
        DataError: the video must be encoded, and none of its frames can be decoded.
        UserError: a file cannot be written.
    """
    suffix = playable_suffix(reader.path)
    if suffix:
        return _embed_or_link(reader.path, reader.path, page, suffix, reader.start)
    with TemporaryDirectory() as folder:
        encoded = Path(folder) / "video.mp4"
        start = _encode(reader, encoded, progress)
        return _embed_or_link(encoded, reader.path, page, ".mp4", start)


def playable_suffix(path: Path) -> str:
    """Return the suffix of a file that every browser plays; "" if the file must be encoded."""
    source = locate_video(path)
    if not source.file.is_file() or source.start is not None:
        return ""
    file = VideoFile(source)
    suffix, codecs = _PLAYABLE.get(file.container.format.name, ("", ()))
    if len(file.container.streams.video) > 1:
        return ""  # browsers may choose another stream than the reader
    codec, pixel_format = file.stream.codec.canonical_name, file.stream.codec_context.pix_fmt
    return suffix if codec in codecs and pixel_format in _PLAYABLE_PIXEL_FORMATS else ""


def _embed_or_link(video: Path, source: Path, page: Path, suffix: str, start: float) -> PageVideo:
    """Embed, link or copy the playable file `video`; `source` is the file of the user."""
    media_type = f"video/{suffix[1:]}"
    if video.stat().st_size <= EMBED_BYTES:
        return PageVideo("", base64.b64encode(video.read_bytes()).decode("ascii"), media_type, start)
    target = page.with_suffix(suffix)
    # If the page exists, a file with its name is the video of an earlier page and can be overwritten.
    if target.exists() and (target.samefile(source) or not page.exists()):
        target = page.with_name(f"{page.stem}_page{suffix}")
    if video.parent.resolve() == page.parent.resolve() and video.suffix.lower() == suffix:
        target = video
    else:
        with atomic_write(target) as temporary:
            shutil.copyfile(video, temporary)
    return PageVideo(quote(os.fsencode(target.name), safe=""), "", media_type, start)


def _encode(reader: VideoReader, path: Path, progress: bool) -> float:
    """Encode the frames as H.264 with their sound; return the time of frame 0 in the new file, in seconds."""
    first, writer = 0.0, None
    with ExitStack() as stack:
        disable = None if progress else True
        bar = stack.enter_context(tqdm(total=len(reader), desc="encoding", unit="frame", disable=disable))
        for index, frame in reader.stream():
            time = float(reader.times[index])
            if writer is None:
                height, width = frame.shape[:2]
                # One key frame per second, so that seeking is fast.
                key_interval = max(round(reader.rate), 1)
                writer = stack.enter_context(
                    VideoWriter(path, width, height, reader.rate, reader.sound, key_interval)
                )
                first = time  # greater than 0 if the first frames are damaged
            writer.write(frame, reader.start + time)
            bar.update(index + 1 - bar.n)
    if writer is None:
        raise DataError("none of its frames can be decoded", reader.path)
    return -first


# ---------------------------------------------------------------- template


def _fill_template(data: dict[str, Any], video: PageVideo) -> str:
    script = '"use strict";\n' + "".join(_read(name) for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    # Without "<", nothing in the data can end the script element.
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    fields = {"STYLE": _read("style.css"), "SCRIPT": script, "DIGEST": digest, "DATA": text}
    fields["VIDEO"] = video.content
    # In one pass, because a value may contain the name of a field.
    pieces = _read("page.html").split("@@")
    return "".join(fields[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _read(name: str) -> str:
    return (_TEMPLATE / name).read_text(encoding="utf-8")
