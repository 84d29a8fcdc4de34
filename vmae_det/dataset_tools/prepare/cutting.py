"""A part of a movie as a file of its own, its packets copied and not encoded anew.

Such a file can only begin at a key frame, which lies before the second that is asked for. When it really
begins is noted beside it, and goes into the dataset's table of starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.output_files import atomic_write
from vmae_det.video.probe import probe_video
from vmae_det.video.readers.base import locate_video
from vmae_det.video.readers.video_file import VideoFile


class _BrokenMovie(Exception):
    """The source cannot be read."""


def cut_to_folder(
    path: str, source: Path, files: Path, starts: Path, seconds: tuple[float, float]
) -> str | UserError:
    """Cut the movie `source/path` to `files/NAME` and note its start.

    Returns:
        '', what is wrong with the movie, or the error for which nothing can be written.
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
        reason = getattr(error, "strerror", None) or error
        return UserError(f"{target}: cannot be written ({reason}); has the disk room?")
    return ""


def start_file(path: str, starts: Path) -> Path:
    """Where the start of a cut is noted."""
    return starts / f"{Path(path).stem}.txt"


def read_start(path: str, starts: Path) -> float:
    """Second of the movie at which its cut begins."""
    file = start_file(path, starts)
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        raise DataError(
            "expected the second at which a cut begins; remove the file and cut anew", file
        ) from None


def cut_movie(source: Path, target: Path, first: float, last: float) -> Fraction:
    """Copy the video packets, without sound, from the key frame at or before second `first` up to `last`.

    Seconds count from the movie's first frame, as the readers count. Gives that of the cut's first frame.
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
                continue  # of an open group of pictures: they need what lies before the cut
            packet.pts, packet.dts = packet.pts - start, packet.dts - start
            packet.stream = stream
            output.mux(packet)
        if start is None:
            raise _BrokenMovie(f"holds no frames from second {first:g} on")
    return (start - origin) * unit


def _packets(movie: av.container.InputContainer, video: av.VideoStream, stamp: int) -> Iterator[av.Packet]:
    """The packets of the video from the key frame at or before a time stamp on.

    Matroska keeps no decoding times, and FFmpeg works them out only from the second or third packet on.
    """
    waiting: list[av.Packet] = []
    try:
        movie.seek(stamp, stream=video, backward=True)
        for packet in movie.demux(video):
            if packet.size == 0:
                continue
            if packet.pts is None:
                raise _BrokenMovie("has frames without time stamps: encode it anew")
            waiting.append(packet)
            if packet.dts is not None:
                yield from _with_decoding_times(waiting)
                waiting = []
    except av.FFmpegError as error:
        raise _BrokenMovie(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _with_decoding_times(packets: list[av.Packet]) -> list[av.Packet]:
    """Packets of which only the last one has a decoding time: the others get times before it."""
    for before, after in zip(packets[-2::-1], packets[:0:-1]):
        before.dts = min(before.pts, after.dts - max(after.duration or 0, 1))
    return packets
