"""A video re-encoded at a smaller size, so that training spends its time on learning."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange

from vmae_det.data.check.probe import probe_video
from vmae_det.data.readers.geometry import Turn, turn_of
from vmae_det.utils.errors import UserError
from vmae_det.utils.files import write_whole

# Clips are read from anywhere in a video: a key frame every 60 frames keeps the way to them short.
_ENCODER = {"crf": "20", "preset": "fast", "g": "60", "threads": "1"}
_READABLE = 0.9  # part of the header's frames that must decode


class _BrokenVideo(Exception):
    """The source cannot be decoded."""


def resize_video(source: Path, target: Path, short_side: int) -> str | UserError:
    """Write `source` to the MP4 file `target` as H.264 without sound, its frames upright, at their own times,
    and its short side at most `short_side` pixels; the file is whole or not there.

    Returns:
        '', what is wrong with the source, or the error for which nothing can be written.
    """
    facts = probe_video(str(source), decode="none")
    if facts.problem:
        return facts.problem
    try:
        with write_whole(target) as temporary:
            written = _encode(source, temporary, short_side)
            if written < _READABLE * facts.frames:
                raise _BrokenVideo(f"only {written} of its {facts.frames} frames can be decoded")
    except _BrokenVideo as error:
        return str(error)
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
    written = 0
    output = stream = last = None
    try:
        for frame, time_base, rate in _decode(source):
            if stream is None:
                output = av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"})
                stream = output.add_stream("libx264", rate=rate, options=_ENCODER)
                size, turn = resized(frame.width, frame.height, short_side), turn_of(frame)
                stream.width, stream.height = turn.size(*size)
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = time_base
                stream.codec_context.colorspace = frame.colorspace
                stream.codec_context.color_range = ColorRange.MPEG
                first = frame.pts or 0
            pts = (last or 0) + round(1 / rate / time_base) if frame.pts is None else frame.pts - first
            if last is not None and pts <= last:
                pts = last + 1
            last = pts
            picture = frame.reformat(
                *size, "yuv420p", interpolation="BICUBIC", dst_color_range=ColorRange.MPEG
            )
            picture = _upright(picture, turn)
            picture.pts, picture.time_base = pts, time_base
            picture.pict_type = 0
            output.mux(stream.encode(picture))
            written += 1
        if stream is None:
            raise _BrokenVideo("its first frame cannot be decoded")
        output.mux(stream.encode(None))
    finally:
        if output is not None:
            output.close()
    return written


def _upright(picture: av.VideoFrame, turn: Turn) -> av.VideoFrame:
    """A 4:2:0 picture of even size as it is shown."""
    if turn == Turn():
        return picture
    shown = av.VideoFrame(*turn.size(picture.width, picture.height), picture.format.name)
    for plane, target in zip(picture.planes, shown.planes):
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        padded = np.zeros((target.height, target.line_size), np.uint8)
        padded[:, : target.width] = turn.apply(rows[:, : plane.width])
        target.update(padded.tobytes())
    return shown


def _decode(source: Path) -> Iterator[tuple[av.VideoFrame, Fraction, Fraction]]:
    """Each frame with the unit of its time, in seconds, and the average frames per second."""
    number = 0
    try:
        with av.open(str(source)) as container:
            stream = container.streams.video[0]
            rate = Fraction(stream.average_rate or stream.guessed_rate or 25).limit_denominator(1001)
            for frame in container.decode(stream):
                yield frame, stream.time_base, rate
                number += 1
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise _BrokenVideo(f"frame {number} cannot be decoded: {error}") from None
