"""Video files opened through FFmpeg: demuxers, the choice of the video stream, display geometry, and what
packets and frames declare."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from vmae_det.utils.input_files import check_regular_file
from vmae_det.video.readers.base import VideoLocation, read_error, warn_once

# Raw codec streams, without the timestamps and sizes that a container stores.
RAW_FORMATS = ("h264", "hevc", "m4v", "mpegvideo")
# Allowed demuxers. Some of FFmpeg's other demuxers open further files, or read a single image as a video.
FORMATS = ",".join(("mov,matroska,avi,mpegts,mpeg,asf,flv,ogg", *RAW_FORMATS))
# To reopen a known file, FFmpeg must not read or decode packets to detect the stream parameters.
_NO_PROBING, _NO_DECODING, _MAX_STREAMS = {"probesize": "32"}, {"skip_frame": "all"}, 8
_READ_ERRORS = (av.FFmpegError, OSError, ValueError)

_Disposition = av.stream.Disposition
_STILL_PICTURES = _Disposition.attached_pic | _Disposition.timed_thumbnails | _Disposition.still_image

# Anamorphic film and video are between 1:2 and 3:1. Ratios far outside are errors in the file, and would
# produce frames of arbitrary size.
_MAX_PIXEL_ASPECT = 5

_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics (Rec. ITU-T H.273, table 3)

# nal_unit_type (Rec. ITU-T H.264, table 7-1): slices of an IDR picture, and slices of any picture.
_IDR_SLICE, _SLICES = 5, range(1, 6)


class VideoFile:
    """An open video file.

    Attributes:
        container: the file as opened by PyAV.
        stream: its video stream, which is decoded in one thread.

    Args:
        location: the file.
        reorder_depth: expected number of frames that the decoder buffers for reordering, if known. Avoids the
            decoding that FFmpeg needs to detect the parameters of a stream.

    Raises:
        DataError: the file cannot be read, or contains no video.
    """

    def __init__(self, location: VideoLocation, reorder_depth: int | None = None) -> None:
        self._location = location
        if reorder_depth is not None:
            self.container, self.stream = _open(location, _NO_PROBING, [_NO_DECODING] * _MAX_STREAMS)
            if self.stream.codec_context.reorder_depth == reorder_depth:
                return
            self.container.close()
        self.container, self.stream = _open(location)

    def rewind(self) -> None:
        """Reopen the file at its first byte. Some containers cannot seek to their beginning."""
        previous = self.container
        self.container, self.stream = _open(self._location)
        previous.close()

    def packets(self) -> Iterator[av.Packet]:
        """Yield the packets up to the end or the first unreadable position, then an empty packet."""
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
        # Containers and their streams reference each other. Without this, memory grows until a GC run.
        if hasattr(self, "container"):
            self.container.close()


def choose_stream(
    container: av.container.InputContainer, pictures: Collection[int] = ()
) -> av.VideoStream | None:
    """Return the video stream that players show, or None if there is no video.

    Cover images and thumbnails are not considered. The default stream is preferred, then the largest one.

    Args:
        container: the open file.
        pictures: indices of streams with a single picture, for files that do not state frame counts.
    """
    streams = _video_streams(container)
    return max(streams, key=lambda stream: _stream_rank(stream, stream.index in pictures), default=None)


def _video_streams(container: av.container.InputContainer) -> list[av.VideoStream]:
    return [stream for stream in container.streams.video if not stream.disposition & _STILL_PICTURES]


def _stream_rank(stream: av.VideoStream, is_picture: bool) -> tuple[bool, bool, bool, int]:
    context = stream.codec_context
    if context is None:
        return False, False, False, 0
    is_default = bool(stream.disposition & _Disposition.default)
    return True, stream.frames != 1 and not is_picture, is_default, context.width * context.height


def _open(
    location: VideoLocation,
    options: dict[str, str] | None = None,
    stream_options: list[dict[str, str]] | None = None,
) -> tuple[av.container.InputContainer, av.VideoStream]:
    if file_size(location) == 0:
        with suppress(FileNotFoundError):
            check_regular_file(location.file)
        raise read_error(location.path, "it is empty")
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file,subfile"} | (options or {})

    def open_container() -> av.container.InputContainer:
        try:
            return av.open(
                location.url, options=options, stream_options=stream_options, metadata_errors="replace"
            )
        except _READ_ERRORS as error:
            raise read_error(location.path, _reason(location, error)) from None

    container = open_container()
    pictures: set[int] = set()
    videos = _video_streams(container)
    if len(videos) > 1 and not all(stream.frames for stream in videos):
        pictures = _find_pictures(container, videos)
        container.close()
        container = open_container()
    stream = choose_stream(container, pictures)
    if stream is None or stream.codec_context is None:
        container.close()
        raise read_error(
            location.path, "its video has an unknown codec" if stream else "it has no video stream"
        )
    stream.codec_context.thread_count = 1
    return container, stream


def _find_pictures(container: av.container.InputContainer, videos: list[av.VideoStream]) -> set[int]:
    """Return the indices of the streams with fewer than two packets. Stops after two packets of each."""
    counts = {stream.index: 0 for stream in videos}
    try:
        for packet in container.demux(videos):
            counts[packet.stream.index] += packet.size > 0
            if min(counts.values()) > 1:
                break
    except _READ_ERRORS:
        pass  # reading the frames fails at the same position and reports the error
    return {index for index, count in counts.items() if count < 2}


def file_size(location: VideoLocation) -> int:
    """Return the size of a video in bytes; DataError if the file does not exist."""
    try:
        return location.file.stat().st_size if location.size is None else location.size
    except OSError as error:
        raise read_error(location.path, error) from None


def _reason(location: VideoLocation, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, av.ArgumentError):  # the format is not in the list
        reason = "not a supported video format; if it is a video, convert it to mp4"
    return f"{reason} ({file_size(location)} bytes)"


class Orientation(NamedTuple):
    """How a stored frame is transformed for display: transposed first, then flipped."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """Return a stored frame (H, W, 3) as displayed."""
        frame = frame.swapaxes(0, 1) if self.transpose else frame
        return frame[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the displayed width and height for a stored size."""
        return (height, width) if self.transpose else (width, height)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """Return the orientation stated by the display matrix of a decoded frame.

    The matrix maps a stored point (x, y) to (a x + c y, b x + d y).
    """
    data = frame.side_data.get(SideData.DISPLAYMATRIX)
    if data is None:
        return Orientation()
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, d < 0, a < 0)
    return Orientation(True, b < 0, c < 0)


def square_pixel_size(stream: av.VideoStream, width: int, height: int) -> tuple[int, int]:
    """Return the size of a stored frame with square pixels, before its orientation is applied.

    Frames are enlarged along one side, so that no detail is lost. A pixel aspect ratio that is missing or
    implausible is treated as 1.
    """
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, _MAX_PIXEL_ASPECT) <= aspect <= _MAX_PIXEL_ASPECT:
        return width, height
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))


def warn_if_hdr(path: Path | str, transfer: int) -> None:
    """Warn about HDR video, which is not tone-mapped.

    Args:
        path: the video.
        transfer: code of its transfer characteristic.
    """
    if transfer in _HDR:
        warn_once(
            path,
            f"its colors are HDR ({_HDR[transfer]}), which is not tone-mapped: frames look paler than in a "
            "player; convert it to SDR first (ffmpeg's zscale and tonemap filters)",
        )


def nal_length_size(stream: av.VideoStream) -> int:
    """Return the bytes of the NAL unit length fields in H.264 packets of mp4 and Matroska; 0 if none."""
    context = stream.codec_context
    header = context.extradata or b""
    is_avc = context.name == "h264" and len(header) > 4 and header[0] == 1
    return (header[4] & 3) + 1 if is_avc else 0


def is_idr(packet: av.Packet, length_size: int) -> bool:
    """Return whether an H.264 packet is an IDR picture: later pictures cannot refer to earlier ones.

    See Rec. ITU-T H.264, 7.3.1 and 7.4.1, for this function and the next.
    """
    headers = _nal_headers(packet, length_size)
    return any(header is not None and header & 0x1F == _IDR_SLICE for header in headers)


def is_non_reference(packet: av.Packet, length_size: int) -> bool:
    """Return whether no other picture is predicted from that of an H.264 packet.

    That is the case if nal_ref_idc is 0 in all of its slices.
    """
    has_slices = False
    for header in _nal_headers(packet, length_size):
        if header is None:
            return False
        if header & 0x1F in _SLICES:
            if header >> 5 & 3:
                return False
            has_slices = True
    return has_slices


def _nal_headers(packet: av.Packet, length_size: int) -> Iterator[int | None]:
    """Yield the first byte of each NAL unit, then None if the unit lengths do not match the packet size."""
    data = memoryview(packet)
    offset = 0
    while offset + length_size < len(data):
        length = int.from_bytes(data[offset : offset + length_size], "big")
        offset += length_size
        yield data[offset]
        offset += length
    if offset != len(data):
        yield None
