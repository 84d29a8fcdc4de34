"""What a video file says of itself, and whether it keeps its word."""

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

DECODE = ("none", "ends", "all")
_END_MARGIN = 0.5  # seconds that the last frame may come before the end that the header gives


@dataclass(frozen=True)
class VideoInfo:
    """Of one video file: number of frames, length in seconds, second at which the last frame begins, frames
    per second, size in pixels; or its problem, '' without.

    The last frame, the rate and the size (of the upright picture) are as the readers give them; those of the
    header where nothing is decoded.
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
    """Read a video's header and decode nothing, its first and last frames, or all of it (one of `DECODE`).

    All packets are read, as the readers do, where the header does not give the frames and their duration, and
    to decode all.
    """
    facts = VideoInfo(path)
    if Path(path).is_dir():
        return _probe_images(facts)
    source = None
    try:
        source = locate_video(path)
        file = VideoFile(source)
        problem = _cut_off(file.stream, file_size(source))
        if _is_headed(file):
            facts = _read_header(facts, file)
            if decode == "ends" and not problem:
                facts, problem = _decode_ends(file, facts)
        if not problem and (decode == "all" or not _is_headed(file)):
            facts, problem = _probe_packets(facts, PyAVReader(source), decode)
    except DataError as error:
        problem = error.problem
    except (av.FFmpegError, OSError, ValueError) as error:
        problem = read_error(Path(path), error).problem
    if problem and not facts.frames and source and _is_mp4(source):
        problem = f"an MP4 file without its index, perhaps cut off: {file_size(source)} bytes"
    return replace(facts, problem=problem)


def _probe_images(facts: VideoInfo) -> VideoInfo:
    """Of a folder of images, of which the first and the last are read."""
    try:
        reader = open_video(facts.path)
        height, width = reader.frames(np.array([0, len(reader) - 1])).shape[1:3]
    except DataError as error:
        return replace(facts, problem=error.problem)
    return replace(_times_of(facts, reader), width=width, height=height)


def _times_of(facts: VideoInfo, reader: VideoReader) -> VideoInfo:
    last, rate = float(reader.times[-1]), float(reader.rate)
    return replace(facts, frames=len(reader), seconds=last + 1 / rate, last=last, rate=rate)


def _is_headed(file: VideoFile) -> bool:
    """Whether a file states its frames and their duration before the first of them."""
    stream = file.stream
    return file.container.format.name.startswith("mov") and bool(stream.frames and stream.duration)


def _read_header(facts: VideoInfo, file: VideoFile) -> VideoInfo:
    stream = file.stream
    width, height = square_pixel_size(stream, stream.codec_context.width, stream.codec_context.height)
    seconds = float(stream.duration * stream.time_base)
    rate = float(_stated_rate(stream))
    facts = replace(
        facts, frames=stream.frames, seconds=seconds, last=max(seconds - 1 / rate, 0.0), rate=rate
    )
    return replace(facts, width=width, height=height)


def _stated_rate(stream: av.VideoStream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def _probe_packets(facts: VideoInfo, reader: PyAVReader, decode: str) -> tuple[VideoInfo, str]:
    """Facts and problem of a file whose packets had to be read to know its frames."""
    frames = len(reader)
    width, height = reader.size
    facts = replace(_times_of(facts, reader), width=width, height=height)
    if decode == "ends":
        reader.frames(np.array([0, frames - 1]))
    decoded = sum(1 for _ in reader.decoded()) if decode == "all" else frames
    return facts, "" if decoded == frames else f"only {decoded} of its {frames} frames can be decoded"


def _is_mp4(source: VideoLocation) -> bool:
    """Whether a file begins as MP4 and QuickTime files do."""
    try:
        with source.file.open("rb") as file:
            file.seek(source.start or 0)
            return file.read(8)[4:] == b"ftyp"
    except OSError:
        return False


def _cut_off(stream: av.VideoStream, size: int) -> str:
    """The problem of a file whose index names bytes that it does not have, or ''."""
    end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    return f"cut off: {size} bytes of at least {end}" if end > size else ""


def _decode_ends(file: VideoFile, facts: VideoInfo) -> tuple[VideoInfo, str]:
    container, stream = file.container, file.stream
    first = next(container.decode(stream), None)
    if first is None:
        return facts, "its first frame cannot be decoded"
    facts = _turned(facts, first)
    start = stream.start_time or 0
    container.seek(start + int(facts.seconds / stream.time_base), stream=stream, backward=True)
    last = max((frame.pts for frame in container.decode(stream) if frame.pts is not None), default=None)
    if last is None:
        return facts, "its last frames cannot be decoded"
    reached = float((last - start) * stream.time_base) + facts.seconds / facts.frames
    if reached < facts.seconds - _END_MARGIN:
        return facts, f"cut off: frames up to {reached:.1f} of {facts.seconds:.1f} seconds"
    passed = (last - (start if first.pts is None else first.pts)) * stream.time_base
    rate = average_rate(facts.frames, passed, _stated_rate(stream))
    return replace(facts, last=float(passed), rate=float(rate)), ""


def _turned(facts: VideoInfo, frame: av.VideoFrame) -> VideoInfo:
    width, height = orientation_of(frame).size(facts.width, facts.height)
    return replace(facts, width=width, height=height)
