"""Probe a video file: frame count, length, rate and size, and whether its frames can be decoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vmae_det.utils.errors import DataError
from vmae_det.video.readers import open_video
from vmae_det.video.readers.base import VideoLocation, VideoReader, locate_video, read_error
from vmae_det.video.readers.frame_index import average_rate
from vmae_det.video.readers.pyav_reader import PyAVReader
from vmae_det.video.readers.video_file import VideoFile, file_size, orientation_of, square_pixel_size

DECODE_MODES = ("none", "ends", "all")
_END_TOLERANCE = 0.5  # seconds that the last frame may be before the end stated by the header


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video file.

    `last`, `rate`, `width` and `height` are those of the readers; if nothing is decoded, those of the header.

    Attributes:
        path: the file.
        frames: number of frames.
        seconds: length.
        last: second at which the last frame starts.
        rate: frames per second.
        width, height: size as displayed, in pixels.
        problem: why the file cannot be read; '' if it can.
    """

    path: str
    frames: int = 0
    seconds: float = 0.0
    last: float = 0.0
    rate: float = 0.0
    width: int = 0
    height: int = 0
    problem: str = ""


def probe_video(path: str, decode: str = "ends") -> VideoInfo:
    """Read the header of a video, and decode some of it.

    All packets are read, as the readers do, if the header does not state the frame count and the duration,
    or if everything is decoded.

    Args:
        path: a video file, a video in a tar shard, or a folder of images.
        decode: "none", "ends" (the first and the last frames) or "all".
    """
    info = VideoInfo(path)
    if Path(path).is_dir():
        return _probe_images(info)
    location = None
    try:
        location = locate_video(path)
        file = VideoFile(location)
        problem = _truncation_problem(file.stream, file_size(location))
        if _has_header(file):
            info = _read_header(info, file)
            if decode == "ends" and not problem:
                info, problem = _decode_ends(file, info)
        if not problem and (decode == "all" or not _has_header(file)):
            info, problem = _probe_packets(info, PyAVReader(location), decode)
    except DataError as error:
        problem = error.problem
    except (av.FFmpegError, OSError, ValueError) as error:
        problem = read_error(Path(path), error).problem
    if problem and not info.frames and location and _is_mp4(location):
        problem = f"an MP4 file without an index, possibly truncated: {file_size(location)} bytes"
    return replace(info, problem=problem)


def _probe_images(info: VideoInfo) -> VideoInfo:
    """Probe a folder of images. Reads the first and the last one."""
    try:
        reader = open_video(info.path)
        height, width = reader.frames(np.array([0, len(reader) - 1])).shape[1:3]
    except DataError as error:
        return replace(info, problem=error.problem)
    return replace(_add_times(info, reader), width=width, height=height)


def _add_times(info: VideoInfo, reader: VideoReader) -> VideoInfo:
    last, rate = float(reader.times[-1]), float(reader.rate)
    return replace(info, frames=len(reader), seconds=last + 1 / rate, last=last, rate=rate)


def _has_header(file: VideoFile) -> bool:
    """Return whether a file states its frame count and duration before the first frame."""
    stream = file.stream
    return file.container.format.name.startswith("mov") and bool(stream.frames and stream.duration)


def _read_header(info: VideoInfo, file: VideoFile) -> VideoInfo:
    stream = file.stream
    width, height = square_pixel_size(stream, stream.codec_context.width, stream.codec_context.height)
    seconds = float(stream.duration * stream.time_base)
    rate = float(_stated_rate(stream))
    last = max(seconds - 1 / rate, 0.0)
    return replace(
        info, frames=stream.frames, seconds=seconds, last=last, rate=rate, width=width, height=height
    )


def _stated_rate(stream: av.VideoStream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def _probe_packets(info: VideoInfo, reader: PyAVReader, decode: str) -> tuple[VideoInfo, str]:
    """Return properties and problem of a file whose packets must be read to know its frames."""
    frames = len(reader)
    width, height = reader.size
    info = replace(_add_times(info, reader), width=width, height=height)
    if decode == "ends":
        reader.frames(np.array([0, frames - 1]))
    decoded = sum(1 for _ in reader.decoded()) if decode == "all" else frames
    return info, "" if decoded == frames else f"only {decoded} of its {frames} frames can be decoded"


def _is_mp4(location: VideoLocation) -> bool:
    """Return whether a file starts like MP4 and QuickTime files."""
    try:
        with location.file.open("rb") as file:
            file.seek(location.start or 0)
            return file.read(8)[4:] == b"ftyp"
    except OSError:
        return False


def _truncation_problem(stream: av.VideoStream, size: int) -> str:
    """Return the problem of a file whose index refers to bytes beyond its end, or ''."""
    end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    return f"truncated: {size} bytes, expected at least {end}" if end > size else ""


def _decode_ends(file: VideoFile, info: VideoInfo) -> tuple[VideoInfo, str]:
    """Return properties and problem after decoding the first and the last frames."""
    container, stream = file.container, file.stream
    first = next(container.decode(stream), None)
    if first is None:
        return info, "its first frame cannot be decoded"
    width, height = orientation_of(first).size(info.width, info.height)
    info = replace(info, width=width, height=height)
    start = stream.start_time or 0
    container.seek(start + int(info.seconds / stream.time_base), stream=stream, backward=True)
    last = max((frame.pts for frame in container.decode(stream) if frame.pts is not None), default=None)
    if last is None:
        return info, "its last frames cannot be decoded"
    decoded_end = float((last - start) * stream.time_base) + info.seconds / info.frames
    if decoded_end < info.seconds - _END_TOLERANCE:
        return info, f"truncated: frames up to {decoded_end:.1f} of {info.seconds:.1f} seconds"
    last_time = (last - (start if first.pts is None else first.pts)) * stream.time_base
    rate = average_rate(info.frames, last_time, _stated_rate(stream))
    return replace(info, last=float(last_time), rate=float(rate)), ""
