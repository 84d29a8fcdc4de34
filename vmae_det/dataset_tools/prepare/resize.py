"""A video re-encoded at a smaller size, so that training spends its time on learning."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange

from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.output_files import atomic_write
from vmae_det.video.probe import probe_video
from vmae_det.video.readers.base import locate_video
from vmae_det.video.readers.pyav_reader import PyAVReader
from vmae_det.video.readers.video_file import Orientation

# Clips are read from anywhere in a video: a key frame every 60 frames keeps the way to them short.
_ENCODER = {"crf": "20", "preset": "fast", "g": "60", "threads": "1"}
_READABLE = 0.9  # part of the header's frames that must decode


def resize_video(source: Path, target: Path, short_side: int) -> str | UserError:
    """Write `source` to the MP4 file `target` as H.264 without sound, its frames as the readers give them, at
    their own times, and its short side at most `short_side` pixels; the file is whole or not there.

    Returns:
        '', what is wrong with the source, or the error for which nothing can be written.
    """
    facts = probe_video(str(source), decode="none")
    if facts.problem:
        return facts.problem
    try:
        with atomic_write(target) as temporary:
            written = _encode(source, temporary, short_side)
            if written < _READABLE * facts.frames:
                raise DataError(f"only {written} of its {facts.frames} frames can be decoded", source)
    except DataError as error:
        return error.problem
    except (OSError, av.FFmpegError) as error:
        return UserError(
            f"{target}: cannot be written ({getattr(error, 'strerror', None) or error}); has the disk room?"
        )
    return ""


def resized(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height, even, with a short side of at most `short_side`; never enlarged."""
    scale = min(1.0, short_side / min(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def _encode(source: Path, target: Path, short_side: int) -> int:
    """Gives the number of frames written."""
    reader = PyAVReader(locate_video(source))
    index, written = reader.index, 0
    width, height = resized(index.width, index.height, short_side)
    with av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as output:
        stream = output.add_stream("libx264", rate=index.rate.limit_denominator(1001), options=_ENCODER)
        stream.width, stream.height = index.orientation.size(width, height)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = index.time_base
        for number, frame in reader.decoded():
            if not written:
                context.colorspace, context.color_range = frame.colorspace, ColorRange.MPEG
                context.color_trc, context.color_primaries = frame.color_trc, frame.color_primaries
            picture = frame.reformat(
                width, height, "yuv420p", interpolation="BICUBIC", dst_color_range=ColorRange.MPEG
            )
            picture = _upright(picture, index.orientation)
            picture.pts, picture.time_base = int(index.pts[number] - index.pts[0]), index.time_base
            picture.pict_type = 0
            output.mux(stream.encode(picture))
            written += 1
        output.mux(stream.encode(None))
    return written


def _upright(picture: av.VideoFrame, turn: Orientation) -> av.VideoFrame:
    """A 4:2:0 picture of even size as it is shown."""
    if turn == Orientation():
        return picture
    shown = av.VideoFrame(*turn.size(picture.width, picture.height), picture.format.name)
    for plane, target in zip(picture.planes, shown.planes):
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        padded = np.zeros((target.height, target.line_size), np.uint8)
        padded[:, : target.width] = turn.apply(rows[:, : plane.width])
        target.update(padded.tobytes())
    return shown
