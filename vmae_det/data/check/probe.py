"""What a video file says of itself, and whether it keeps its word."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np

from vmae_det.data.readers import open_video
from vmae_det.data.readers.interface import Source
from vmae_det.data.readers.opening import find_source
from vmae_det.utils.errors import DataError

DECODE = ("none", "ends", "all")
_END_MARGIN = 0.5  # seconds that the last frame may come before the end that the header gives


@dataclass(frozen=True)
class VideoFacts:
    """Of one video file: number of frames, length in seconds, size in pixels; or its problem, '' without."""

    path: str
    frames: int = 0
    seconds: float = 0.0
    width: int = 0
    height: int = 0
    problem: str = ""

    @property
    def rate(self) -> float:
        """Frames per second."""
        return self.frames / self.seconds if self.seconds else 0.0


def probe_video(path: str, decode: str = "ends") -> VideoFacts:
    """Read a video's header and decode nothing, its first and last frames, or all of it (one of `DECODE`).

    Where the header gives no length, as in Matroska, all packets are read, which costs no decoding.
    """
    facts = VideoFacts(path)
    if Path(path).is_dir():
        return _probe_images(facts)
    try:
        source = find_source(path)
        size = source.file.stat().st_size if source.size is None else source.size
        if size == 0:
            return replace(facts, problem="an empty file")
        with av.open(source.address) as container:
            if not container.streams.video:
                return replace(facts, problem="holds no video stream")
            stream = container.streams.video[0]
            facts = _read_header(facts, container, stream)
            problem = _cut_off(stream, size) or ("" if facts.frames else "holds no video frames")
            if not problem and decode == "ends":
                problem = _decode_ends(container, stream, facts)
            elif not problem and decode == "all":
                problem = _decode_all(container, stream, facts)
    except DataError as error:
        problem = error.problem
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = f"cannot be read as a video: {' '.join(reason.split())[:120]}"
        if not facts.frames and _is_mp4(source):
            problem = f"an MP4 file without its index, perhaps cut off: {size} bytes"
    return replace(facts, problem=problem)


def _probe_images(facts: VideoFacts) -> VideoFacts:
    """Of a folder of images, of which the first and the last are read."""
    try:
        reader = open_video(facts.path)
        height, width = reader.frames(np.array([0, len(reader) - 1])).shape[1:3]
    except DataError as error:
        return replace(facts, problem=error.problem)
    seconds = len(reader) / float(reader.rate)
    return replace(facts, frames=len(reader), seconds=seconds, width=width, height=height)


def _read_header(
    facts: VideoFacts, container: av.container.InputContainer, stream: av.VideoStream
) -> VideoFacts:
    frames, rate = stream.frames, float(stream.average_rate or stream.guessed_rate or 25)
    seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
    if not frames or not seconds:
        stamps = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
        frames = len(stamps)
        seconds = float((stamps[-1] - stamps[0]) * stream.time_base) + 1 / rate if stamps else 0.0
        if frames:
            container.seek(stamps[0], stream=stream)
    return replace(
        facts,
        frames=frames,
        seconds=seconds,
        width=stream.codec_context.width,
        height=stream.codec_context.height,
    )


def _is_mp4(source: Source) -> bool:
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


def _decode_ends(container: av.container.InputContainer, stream: av.VideoStream, facts: VideoFacts) -> str:
    first = next(container.decode(stream), None)
    if first is None:
        return "its first frame cannot be decoded"
    start = stream.start_time or 0
    container.seek(start + int(facts.seconds / stream.time_base), stream=stream, backward=True)
    last = max((frame.pts for frame in container.decode(stream) if frame.pts is not None), default=None)
    if last is None:
        return "its last frames cannot be decoded"
    reached = float((last - start) * stream.time_base) + 1 / facts.rate
    if reached < facts.seconds - _END_MARGIN:
        return f"cut off: frames up to {reached:.1f} of {facts.seconds:.1f} seconds"
    return ""


def _decode_all(container: av.container.InputContainer, stream: av.VideoStream, facts: VideoFacts) -> str:
    decoded = sum(1 for _ in container.decode(stream))
    return "" if decoded >= facts.frames else f"only {decoded} of its {facts.frames} frames can be decoded"
