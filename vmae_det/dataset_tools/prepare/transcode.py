"""Cut and resize videos: a part of a movie without re-encoding, and a smaller copy for faster training.

A cut can only begin at a key frame, which is before the requested second. Its actual start is saved next to
it, and goes into the dataset's table of starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange

from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.output_files import atomic_write
from vmae_det.video.probe import probe_video
from vmae_det.video.readers.base import locate_video
from vmae_det.video.readers.pyav_reader import PyAVReader
from vmae_det.video.readers.video_file import Orientation, VideoFile

# Frames from one key frame to the next. Training reads clips from anywhere in a video.
DEFAULT_GOP = 16
# "fastdecode" disables CABAC and the deblocking filter. No frame refers to the B-frames, so that the reader
# skips those that are not requested: three of four frames at stride 4, at best.
_ENCODER = {
    "crf": "20",
    "preset": "fast",
    "tune": "fastdecode",
    "x264-params": "bframes=3:b-adapt=0:b-pyramid=none:scenecut=0",
    "threads": "1",
}
_MIN_DECODABLE = 0.9  # fraction of the header's frames that must decode


class _BrokenMovie(Exception):
    """The source cannot be read."""


def cut_to_folder(
    path: str, source: Path, files: Path, starts: Path, seconds: tuple[float, float]
) -> str | UserError:
    """Cut the movie `source/path` to `files/NAME` and save its start.

    Args:
        seconds: first and last second of the cut.

    Returns:
        '', the movie's problem, or the error because of which no output can be written.
    """
    problem = probe_video(str(source / path), decode="none").problem
    if problem:
        return problem
    target = files / Path(path).name
    try:
        with atomic_write(target) as temporary:
            start = cut_movie(source / path, temporary, *seconds)
            with atomic_write(start_file(path, starts)) as note:
                note.write_text(f"{float(start):.6f}\n")
    except _BrokenMovie as error:
        return str(error)
    except (OSError, av.FFmpegError) as error:
        return _write_error(target, error)
    return ""


def start_file(path: str, starts: Path) -> Path:
    """Return the file that contains the start of a cut."""
    return starts / f"{Path(path).stem}.txt"


def read_start(path: str, starts: Path) -> float:
    """Return the second of the movie at which its cut begins."""
    file = start_file(path, starts)
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        raise DataError(
            "expected the second at which a cut begins; remove the file and cut again", file
        ) from None


def cut_movie(source: Path, target: Path, first: float, last: float) -> Fraction:
    """Copy the video packets, without audio, from the key frame at or before second `first` up to `last`.

    Seconds count from the movie's first frame, as in the readers.

    Returns:
        Second of the cut's first frame.
    """
    file = VideoFile(locate_video(source))
    movie, video = file.container, file.stream
    with av.open(str(target), "w") as output:
        stream = output.add_stream_from_template(video)
        unit = video.time_base
        origin = video.start_time or 0
        start = None
        for packet in _packets(movie, video, origin + int(first / unit)):
            if start is None:
                if not packet.is_keyframe:
                    continue
                start = packet.pts
            if (packet.dts - origin) * unit > last:
                break
            if packet.pts < start or (packet.pts - origin) * unit > last:
                continue  # frames of an open GOP, which depend on frames before the cut
            packet.pts, packet.dts = packet.pts - start, packet.dts - start
            packet.stream = stream
            output.mux(packet)
        if start is None:
            raise _BrokenMovie(f"has no frames from second {first:g} on")
    return (start - origin) * unit


def _packets(movie: av.container.InputContainer, video: av.VideoStream, stamp: int) -> Iterator[av.Packet]:
    """Yield the video's packets, from the key frame at or before a time stamp.

    Matroska stores no decoding times (DTS), and FFmpeg computes them only from the second or third packet on.
    """
    waiting: list[av.Packet] = []
    try:
        movie.seek(stamp, stream=video, backward=True)
        for packet in movie.demux(video):
            if packet.size == 0:
                continue
            if packet.pts is None:
                raise _BrokenMovie("has frames without time stamps: encode it again")
            waiting.append(packet)
            if packet.dts is not None:
                yield from _with_decoding_times(waiting)
                waiting = []
    except av.FFmpegError as error:
        raise _BrokenMovie(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _with_decoding_times(packets: list[av.Packet]) -> list[av.Packet]:
    """Set the DTS of all packets but the last, which has one, to times before it."""
    for before, after in zip(packets[-2::-1], packets[:0:-1]):
        before.dts = min(before.pts, after.dts - max(after.duration or 0, 1))
    return packets


def resize_video(source: Path, target: Path, short_side: int, gop: int = DEFAULT_GOP) -> str | UserError:
    """Write `source` to the MP4 file `target` atomically: H.264, no audio, the same frames at the same times.

    Args:
        short_side: maximum of the short side in pixels.
        gop: frames from one key frame to the next. 1: every frame is a key frame.

    Returns:
        '', the source's problem, or the error because of which no output can be written.
    """
    info = probe_video(str(source), decode="none")
    if info.problem:
        return info.problem
    try:
        with atomic_write(target) as temporary:
            written = _encode(source, temporary, short_side, gop)
            if written < _MIN_DECODABLE * info.frames:
                raise DataError(f"only {written} of its {info.frames} frames can be decoded", source)
    except DataError as error:
        return error.problem
    except (OSError, av.FFmpegError) as error:
        return _write_error(target, error)
    return ""


def resized_shape(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return width and height, even, with a short side of at most `short_side`; never enlarged."""
    scale = min(1.0, short_side / min(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def _encode(source: Path, target: Path, short_side: int, gop: int) -> int:
    """Encode a resized copy; return the number of frames written."""
    reader = PyAVReader(locate_video(source))
    index, written = reader.index, 0
    width, height = resized_shape(index.width, index.height, short_side)
    with av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as output:
        options = _ENCODER | {"g": str(gop)}
        stream = output.add_stream("libx264", rate=index.rate.limit_denominator(1001), options=options)
        stream.width, stream.height = index.orientation.size(width, height)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = index.time_base
        for number, frame in reader.decoded():
            if not written:
                context.colorspace, context.color_range = frame.colorspace, ColorRange.MPEG
                context.color_trc, context.color_primaries = frame.color_trc, frame.color_primaries
            resized = frame.reformat(
                width, height, "yuv420p", interpolation="BICUBIC", dst_color_range=ColorRange.MPEG
            )
            resized = _upright(resized, index.orientation)
            resized.pts, resized.time_base = int(index.pts[number] - index.pts[0]), index.time_base
            resized.pict_type = 0
            output.mux(stream.encode(resized))
            written += 1
        output.mux(stream.encode(None))
    return written


def _upright(frame: av.VideoFrame, orientation: Orientation) -> av.VideoFrame:
    """Rotate and mirror a 4:2:0 frame of even size as it is displayed."""
    if orientation == Orientation():
        return frame
    upright = av.VideoFrame(*orientation.size(frame.width, frame.height), frame.format.name)
    for plane, target in zip(frame.planes, upright.planes):
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        padded = np.zeros((target.height, target.line_size), np.uint8)
        padded[:, : target.width] = orientation.apply(rows[:, : plane.width])
        target.update(padded.tobytes())
    return upright


def _write_error(target: Path, error: OSError | av.FFmpegError) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{target}: cannot be written ({reason}); is the disk full?")
