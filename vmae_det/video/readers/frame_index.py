"""Frame index of a video file: which frames it has, when each is presented, and where decoding can start.

It is built from the packets; only the first frame is decoded. "Key frame" is the codec's term here: a frame
from which decoding can start.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from vmae_det.video.readers.base import VideoLocation, read_error, warn_once
from vmae_det.video.readers.matroska import is_truncated
from vmae_det.video.readers.timestamps import (
    ContinuousClock,
    avi_timestamps,
    find_discontinuities,
    smooth_timestamps,
    timestamps_from_durations,
    warn_about_discontinuities,
)
from vmae_det.video.readers.video_file import (
    RAW_FORMATS,
    Orientation,
    VideoFile,
    file_size,
    is_idr,
    nal_length_size,
    orientation_of,
    square_pixel_size,
    warn_if_hdr,
)

# Containers that store presentation times. In others FFmpeg guesses them from the decoding order.
_WITH_TIMESTAMPS = ("mov", "matroska", "mpegts", "asf", "flv", "ogg")
_WITH_HEADER = ("mov", "matroska")  # containers that describe their streams before the first packet
_COMMON_CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9")
_MAX_CACHED = 512  # indices; a two-hour film takes 1.5 MB, a ten-second clip some kilobytes
# Packets before a discontinuity that the demuxer may mark as corrupt although nothing is missing.
_DISCONTINUITY_MARGIN = 3


@dataclass(frozen=True)
class FrameIndex:
    """Index of the video stream of a file.

    Attributes:
        pts: presentation timestamps, int64 (num_frames,), ascending, in units of `time_base` seconds.
        key_pts: timestamps at which decoding can start, ascending, including that of the first frame.
        time_base: seconds per unit of the timestamps.
        rate: average frames per second.
        width, height: size of frames with square pixels, before `orientation` is applied.
        orientation: how frames are transformed for display.
        has_packet_times: whether packets state when their frames are presented. Otherwise frames are
            identified by counting from the first one.
        decoder_problem: why decord and torchcodec may return other frames than these; '' if they do not.
        pixel_format: FFmpeg's name of the pixel format, such as yuv420p.
        closed_gops: whether each packet is one displayed frame, and frames depend only on the key frame
            before them and on frames between the two.
        reorder_depth: frames that the decoder buffers for reordering; None if the file must be probed each
            time it is opened.
        discontinuities: packet numbers, counted from the first one, at which the clock is interrupted.
    """

    pts: np.ndarray
    key_pts: np.ndarray
    time_base: Fraction
    rate: Fraction
    width: int
    height: int
    orientation: Orientation
    has_packet_times: bool
    decoder_problem: str
    pixel_format: str
    closed_gops: bool
    reorder_depth: int | None
    discontinuities: tuple[int, ...] = ()

    @property
    def times(self) -> np.ndarray:
        """Seconds from the first frame, float64 (num_frames,)."""
        return (self.pts - self.pts[0]) * float(self.time_base)

    @property
    def start(self) -> float:
        """Time of the first frame in seconds on the clock of the file; 0 if the file does not state it."""
        return float(self.pts[0] * self.time_base)

    def sound(self, location: VideoLocation) -> Path | None:
        """Return the file if its audio is on the same clock as its frames, else None."""
        return location.file if location.start is None and not self.discontinuities else None

    def is_near_discontinuity(self, packet: int) -> bool:
        """Return whether a packet, numbered from the first one, is at an interruption of the clock."""
        return any(number - _DISCONTINUITY_MARGIN <= packet <= number for number in self.discontinuities)


_cache: dict[tuple[VideoLocation, int, int], FrameIndex] = {}


def get_frame_index(location: VideoLocation, file: VideoFile | None = None) -> FrameIndex:
    """Return the frame index of a file. Each process reads it once, as long as the file does not change.

    Args:
        location: the file.
        file: the open file to read from, if there is one.

    Raises:
        DataError: the file cannot be read, or contains no frames.
    """
    key = _cache_key(location)
    index = _cache.pop(key, None) or _read_frame_index(location, file or VideoFile(location))
    _cache[key] = index  # most recently used last
    if len(_cache) > _MAX_CACHED:
        del _cache[next(iter(_cache))]
    return index


def cached_frame_index(location: VideoLocation) -> FrameIndex | None:
    """Return the frame index of a file if this process has already read it."""
    return _cache.get(_cache_key(location))


def clear_frame_indices() -> None:
    """Empty the cache of this process."""
    _cache.clear()


def _cache_key(location: VideoLocation) -> tuple[VideoLocation, int, int]:
    try:
        stat = os.stat(location.file)
    except OSError as error:
        raise read_error(location.path, error) from None
    return location, stat.st_mtime_ns, stat.st_size


def _read_frame_index(location: VideoLocation, file: VideoFile) -> FrameIndex:
    scan = _PacketScan(file, location)
    if scan.first_frame is None:
        problem = "none of its frames can be decoded" if scan.packets else "it has no frames"
        raise read_error(location.path, problem)
    context, orientation = file.stream.codec_context, orientation_of(scan.first_frame)
    if scan.has_packet_times:
        pts, key_pts = scan.timestamps()
    else:
        decoded = [timing for packet in VideoFile(location).packets() for timing in _frame_timings(packet)]
        presented = [frame_pts for frame_pts, _ in decoded]
        if scan.format == "mpeg":
            presented = smooth_timestamps(decoded, scan.time_base, scan.rate)
        if scan.format in RAW_FORMATS:
            states_rate = bool(context.framerate)  # otherwise FFmpeg assumes 25 frames per second
            durations = [duration * states_rate for _, duration in decoded]
            presented = timestamps_from_durations(durations, scan.time_base, scan.rate)
        if scan.format == "avi":
            packets = [(packet.pts, packet.dts) for packet in scan.packets]
            presented = avi_timestamps(presented, packets, context.reorder_depth, location.path)
        clock = ContinuousClock(scan.time_base, scan.rate, scan.format)
        pts = np.array([clock.add(frame_pts) for frame_pts in presented], dtype=np.int64)
        key_pts = pts[:1]
    if scan.discontinuities:
        warn_about_discontinuities(location.path, len(scan.discontinuities))
    if scan.format.startswith("matroska") and is_truncated(location, file_size(location)):
        seconds, stated = float((pts[-1] - pts[0]) * scan.time_base), file.container.duration
        total = f" of {stated / av.time_base:.1f}" if stated else ""
        warn_once(location.path, f"truncated; its frames end at second {seconds:.1f}{total}")
    warn_if_hdr(location.path, scan.first_frame.color_trc)
    width, height = square_pixel_size(file.stream, scan.first_frame.width, scan.first_frame.height)
    rotated = orientation != Orientation()
    return FrameIndex(
        pts=pts,
        key_pts=key_pts,
        time_base=scan.time_base,
        rate=average_rate(len(pts), int(pts[-1] - pts[0]) * scan.time_base, scan.rate),
        width=width,
        height=height,
        orientation=orientation,
        has_packet_times=scan.has_packet_times,
        decoder_problem="its frames are rotated or mirrored" if rotated else _decoder_problem(scan, len(pts)),
        pixel_format=scan.first_frame.format.name,
        closed_gops=not scan.gop_problem(len(pts)),
        reorder_depth=context.reorder_depth if scan.format.startswith(_WITH_HEADER) else None,
        discontinuities=scan.discontinuities,
    )


class _Packet(NamedTuple):
    number: int
    pts: int | None
    dts: int | None
    is_key: bool
    is_shown: bool
    is_intact: bool

    @classmethod
    def from_av(cls, packet: av.Packet, number: int) -> _Packet:
        flags = packet.is_keyframe, not packet.is_discard, not packet.is_corrupt
        return cls(number, packet.pts, packet.dts, *flags)


class _PacketScan:
    """Result of one pass over the packets of a file, which decodes only its first frame.

    Attributes:
        format: name of the demuxer.
        codec: name of the codec.
        time_base: seconds per unit of the timestamps.
        rate: frames per second as stated by the file.
        num_streams: number of video streams, including covers and thumbnails.
        packets: in decoding order.
        all_idr: whether all H.264 key frames are IDR pictures.
        first_frame: None if no frame can be decoded.
        discontinuities: see `FrameIndex`.
        has_packet_times: whether packets state when their frames are presented, on one clock.
    """

    def __init__(self, file: VideoFile, location: VideoLocation) -> None:
        stream, self.format = file.stream, file.container.format.name
        context = stream.codec_context
        self.codec, self.time_base = context.codec.canonical_name, stream.time_base
        self.rate, self.num_streams = _stated_rate(file, location), len(file.container.streams.video)
        self.packets: list[_Packet] = []
        length_size = nal_length_size(stream)
        self.all_idr, self.first_frame = bool(length_size) or self.codec != "h264", None
        for number, packet in enumerate(file.packets()):
            if packet.size:
                self.packets.append(_Packet.from_av(packet, number))
            if length_size and packet.size and packet.is_keyframe and self.all_idr:
                self.all_idr = is_idr(packet, length_size)
            if self.first_frame is None:
                self.first_frame = next(iter(_decode(packet)), None)
        decoding_times = [(packet.number, packet.dts) for packet in self.packets]
        self.discontinuities = find_discontinuities(decoding_times, self.time_base, self.rate, self.format)
        self.has_packet_times = (
            (self.format.startswith(_WITH_TIMESTAMPS) or context.reorder_depth == 0)
            and self.format not in RAW_FORMATS
            and all(packet.pts is not None for packet in self.packets)
            and (self.first_frame is None or self.first_frame.pts is not None)
            and not self.discontinuities
            # In AVI, FFmpeg's guess is wrong after frames that a camera dropped.
            and (self.format != "avi" or all(packet.pts == packet.dts for packet in self.packets))
        )

    def timestamps(self) -> tuple[np.ndarray, np.ndarray]:
        """Return `pts` and `key_pts` of `FrameIndex` for a file with packet times."""
        first = self.first_frame.pts
        intact = [packet for packet in self.packets if packet.is_intact and packet.pts > first]
        pts = np.unique(np.array([first, *(p.pts for p in intact if p.is_shown)], dtype=np.int64))
        key_pts = np.unique(np.array([first, *(p.pts for p in intact if p.is_key)], dtype=np.int64))
        return pts, key_pts

    def gop_problem(self, num_frames: int) -> str:
        """Return why packets cannot be dropped up to the next key frame, or ''.

        Args:
            num_frames: number of displayed frames.
        """
        if not self.has_packet_times:
            return "its packets do not state presentation times"
        if len(self.packets) != num_frames or not self.packets[0].is_key:
            return "not every packet is a displayed frame"
        if not self.all_idr:
            return "not all of its key frames are IDR pictures"
        key = self.packets[0].pts
        for packet in self.packets:
            if packet.is_key:
                key = packet.pts
            elif packet.pts < key:
                return "frames before a key frame are decoded after it (open GOP)"
        return ""


def _stated_rate(file: VideoFile, location: VideoLocation) -> Fraction:
    """Return the frame rate that a file states, or a guess if its timestamps determine the rate anyway."""
    stream = file.stream
    if file.container.format.name not in RAW_FORMATS:
        return stream.average_rate or stream.guessed_rate or Fraction(25)
    rate = stream.guessed_rate if stream.codec_context.framerate else location.rate
    if not rate:
        raise read_error(
            location.path,
            f"a raw {file.container.format.name} stream that does not state its frame rate; set it with "
            "ffmpeg -r RATE -i FILE -c copy FILE.mp4",
        )
    return rate


def _frame_timings(packet: av.Packet) -> list[tuple[int | None, int]]:
    """Return (PTS, duration) of the frames that a packet outputs."""
    return [(frame.pts, frame.duration) for frame in _decode(packet)]


def _decode(packet: av.Packet) -> list[av.VideoFrame]:
    try:
        return packet.decode()
    except (av.InvalidDataError, av.EOFError):
        return []


def average_rate(count: int, seconds: Fraction, stated: Fraction) -> Fraction:
    """Return the stated frame rate if it agrees with the timestamps, else the measured one.

    Args:
        count: number of frames.
        seconds: time from the first frame to the last.
        stated: rate in the header of the file.
    """
    if not seconds:
        return stated
    measured = (count - 1) / seconds
    # The duration of the last frame is unknown, and timestamps are rounded.
    tolerance = 0.01 + 1 / count
    return stated if abs(measured / stated - 1) <= tolerance else measured.limit_denominator(1001)


def _decoder_problem(scan: _PacketScan, num_frames: int) -> str:
    """Return why decord or torchcodec may count or return other frames, or ''."""
    if not scan.format.startswith(_WITH_HEADER):
        return f"its container is {scan.format}"
    if scan.codec not in _COMMON_CODECS:
        return f"its codec is {scan.codec}"
    if scan.num_streams > 1:
        return "it has several video streams"
    return scan.gop_problem(num_frames)
