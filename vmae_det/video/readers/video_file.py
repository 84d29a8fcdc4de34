"""Video files opened through FFmpeg: which formats are read, and which of a file's streams is its video."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from vmae_det.video.readers.base import VideoLocation, read_error, warn_once

# Bare streams of a codec, without the times and sizes that a container keeps.
RAW_FORMATS = ("h264", "hevc", "m4v", "mpegvideo")
# Demuxers of video files. FFmpeg knows more, some of which open other files, or take a picture for a video.
FORMATS = ",".join(("mov,matroska,avi,mpegts,mpeg,asf,flv,ogg", *RAW_FORMATS))
# To open a file that is known: FFmpeg shall look at no packet, and decode none, to find out about streams.
_HASTE, _NO_DECODING, _MAX_STREAMS = {"probesize": "32"}, {"skip_frame": "all"}, 8
_READ_ERRORS = (av.FFmpegError, OSError, ValueError)
_Disposition = av.stream.Disposition
_PICTURES = _Disposition.attached_pic | _Disposition.timed_thumbnails | _Disposition.still_image


class VideoFile:
    """An open file: `container`, and `stream`, its video, which decodes on one thread.

    Args:
        reorder_depth: of the stream, where it is known; spares the decoding by which FFmpeg finds out about a
            file.

    Raises:
        DataError: it cannot be read, or holds no video.
    """

    def __init__(self, source: VideoLocation, reorder_depth: int | None = None) -> None:
        self._source = source
        if reorder_depth is not None:
            self.container, self.stream = _open(source, _HASTE, [_NO_DECODING] * _MAX_STREAMS)
            if self.stream.codec_context.reorder_depth == reorder_depth:
                return
            self.container.close()
        self.container, self.stream = _open(source)

    def rewind(self) -> None:
        """Back to the first byte: anew, as not every container can seek to its beginning."""
        before = self.container
        self.container, self.stream = _open(self._source)
        before.close()

    def packets(self) -> Iterator[av.Packet]:
        """Packets up to the end, or to where the file cannot be read further, and an empty one."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except av.InvalidDataError:
                return
            if packet is None:
                return
            yield packet

    def __del__(self) -> None:
        # Containers and their streams hold each other: without this, memory grows until Python collects.
        if hasattr(self, "container"):
            self.container.close()


def choose_stream(
    container: av.container.InputContainer, pictures: Collection[int] = ()
) -> av.VideoStream | None:
    """The video that players show: no cover or thumbnail, the default one, the largest; None if there is
    none.

    Args:
        pictures: indices of streams that hold one picture, where the file does not state numbers of frames.
    """
    streams = _videos(container)
    return max(streams, key=lambda stream: _rank(stream, stream.index in pictures), default=None)


def _videos(container: av.container.InputContainer) -> list[av.VideoStream]:
    return [stream for stream in container.streams.video if not stream.disposition & _PICTURES]


def _rank(stream: av.VideoStream, is_picture: bool) -> tuple[bool, bool, bool, int]:
    context = stream.codec_context
    if context is None:
        return False, False, False, 0
    is_default = bool(stream.disposition & _Disposition.default)
    return True, stream.frames != 1 and not is_picture, is_default, context.width * context.height


def _open(
    source: VideoLocation,
    options: dict[str, str] | None = None,
    stream_options: list[dict[str, str]] | None = None,
) -> tuple[av.container.InputContainer, av.VideoStream]:
    if file_size(source) == 0:
        raise read_error(source.path, "it is empty")
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file,subfile"} | (options or {})

    def opened() -> av.container.InputContainer:
        try:
            return av.open(
                source.address, options=options, stream_options=stream_options, metadata_errors="replace"
            )
        except _READ_ERRORS as error:
            raise read_error(source.path, _cause(source, error)) from None

    container = opened()
    pictures: set[int] = set()
    videos = _videos(container)
    if len(videos) > 1 and not all(stream.frames for stream in videos):
        pictures = _find_pictures(container, videos)
        container.close()
        container = opened()
    stream = choose_stream(container, pictures)
    if stream is None or stream.codec_context is None:
        container.close()
        raise read_error(
            source.path, "its video is of an unknown codec" if stream else "holds no video stream"
        )
    stream.codec_context.thread_count = 1
    return container, stream


def _find_pictures(container: av.container.InputContainer, videos: list[av.VideoStream]) -> set[int]:
    """Indices of those videos that have fewer than two packets; reads up to the second one of each."""
    counts = {stream.index: 0 for stream in videos}
    try:
        for packet in container.demux(videos):
            counts[packet.stream.index] += packet.size > 0
            if min(counts.values()) > 1:
                break
    except _READ_ERRORS:
        pass  # the file breaks off here, for those who read its frames too
    return {index for index, count in counts.items() if count < 2}


def file_size(source: VideoLocation) -> int:
    """Bytes; DataError if the file is not there."""
    try:
        return source.file.stat().st_size if source.size is None else source.size
    except OSError as error:
        raise read_error(source.path, error) from None


def _cause(source: VideoLocation, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, av.ArgumentError):  # a format that is not in the list
        reason = "not a format of video files that is read here; if it is a video, convert it to mp4"
    return f"{reason} ({file_size(source)} bytes)"


# Anamorphic film and video lie between 1:2 and 3:1. What lies far outside is a mistake in the file, and would
# make frames of any size.
_WIDEST_PIXEL = 5


class Orientation(NamedTuple):
    """How stored frames are turned to be shown: rows and columns swapped first, then turned round."""

    swap: bool = False
    reverse_rows: bool = False
    reverse_columns: bool = False

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """(H, W, 3) as it is shown."""
        frame = frame.swapaxes(0, 1) if self.swap else frame
        return frame[:: -1 if self.reverse_rows else 1, :: -1 if self.reverse_columns else 1]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height as they are shown, of those that are stored."""
        return (height, width) if self.swap else (width, height)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """By the display matrix of a decoded frame: a stored point (x, y) is shown at (a x + c y, b x + d y)."""
    data = frame.side_data.get(SideData.DISPLAYMATRIX)
    if data is None:
        return Orientation()
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, d < 0, a < 0)
    return Orientation(True, b < 0, c < 0)


def square_pixel_size(stream: av.VideoStream, width: int, height: int) -> tuple[int, int]:
    """Width and height of a stored frame with square pixels, before it is turned.

    The stream states the width of a pixel relative to its height. Frames are enlarged along one side, so that
    no detail is lost. A ratio that is not stated, or absurd, is 1.
    """
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, _WIDEST_PIXEL) <= aspect <= _WIDEST_PIXEL:
        return width, height
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))


_IDR = 5  # nal_unit_type of the slices of an IDR picture
_SLICES = range(1, 6)  # nal_unit_type of the coded slices of a picture


def nal_length_size(stream: av.VideoStream) -> int:
    """Bytes that give the length of each unit of a packet, in mp4 and Matroska; 0 for other streams."""
    context = stream.codec_context
    header = context.extradata or b""
    is_avc = context.name == "h264" and len(header) > 4 and header[0] == 1
    return (header[4] & 3) + 1 if is_avc else 0


def is_idr(packet: av.Packet, nal_length_size: int) -> bool:
    """Whether no later picture can refer to one before the packet's."""
    return any(unit is not None and unit & 0x1F == _IDR for unit in _first_bytes(packet, nal_length_size))


def is_non_reference(packet: av.Packet, nal_length_size: int) -> bool:
    """Whether no other picture is predicted from the packet's: nal_ref_idc is 0 in all of its slices."""
    found = False
    for unit in _first_bytes(packet, nal_length_size):
        if unit is None:
            return False
        if unit & 0x1F in _SLICES:
            if unit >> 5 & 3:
                return False
            found = True
    return found


def _first_bytes(packet: av.Packet, nal_length_size: int) -> Iterator[int | None]:
    """The first byte of each unit of a packet, then None if the lengths do not add up to its size."""
    data = memoryview(packet)
    place = 0
    while place + nal_length_size < len(data):
        length = int.from_bytes(data[place : place + nal_length_size], "big")
        place += nal_length_size
        yield data[place]
        place += length
    if place != len(data):
        yield None


_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics (Rec. ITU-T H.273, table 3)


def warn_if_hdr(path: Path | str, transfer: int) -> None:
    """Of HDR video, which is not tone-mapped."""
    if transfer in _HDR:
        warn_once(
            path,
            f"its colours are HDR ({_HDR[transfer]}), which is not tone-mapped: frames look paler than in a "
            "player; convert it to SDR first (ffmpeg's zscale and tonemap filters)",
        )
