"""What a video's packets say before a frame is decoded: which frames there are, when, and where to start."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from vmae_det.video.readers.base import VideoLocation, read_error
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
    is_idr,
    nal_length_size,
    orientation_of,
    square_pixel_size,
    warn_if_hdr,
)

# Containers that keep when each frame is shown; of others it is a guess by the order of decoding.
_TIMED = ("mov", "matroska", "mpegts", "asf", "flv", "ogg")
_HEADED = ("mov", "matroska")  # containers that describe their streams before the first packet
_DECORD_CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9")
_MAX_INDICES = 512  # a film of two hours takes a megabyte and a half, a clip of ten seconds some kilobytes
_SPLICE = 3  # packets before a break of the clock that the demuxer may take for damaged: it misses nothing


@dataclass(frozen=True)
class FrameIndex:
    """Of the video of a file.

    Attributes:
        stamps: when each frame is shown, int64 (num_frames,), ascending, in units of `time_base` seconds.
        keys: the stamps at which decoding can start, ascending; the first frame's among them.
        rate: frames per second, on average.
        width, height: of frames with square pixels, before `turn`.
        numbered: packets do not say when their frames are shown, so frames are counted from the first one on.
        doubt: why decord may give other frames than these; '' where it does not.
        reorder_depth: frames that the decoder holds back to bring them into order; None where a file has to
            be looked at anew each time.
        splices: where the clock is interrupted, as numbers of packets from the first one on.
    """

    stamps: np.ndarray
    keys: np.ndarray
    time_base: Fraction
    rate: Fraction
    width: int
    height: int
    turn: Orientation
    numbered: bool
    doubt: str
    reorder_depth: int | None
    splices: tuple[int, ...] = ()

    @property
    def times(self) -> np.ndarray:
        """Seconds from the first frame on, float64 (num_frames,)."""
        return (self.stamps - self.stamps[0]) * float(self.time_base)

    def sound(self, source: VideoLocation) -> Path | None:
        """The file, where its sound runs on the clock of its frames."""
        return source.file if source.start is None and not self.splices else None

    def is_spliced(self, packet: int) -> bool:
        """Whether a packet, by its number from the first one on, lies at an interruption of the clock."""
        return any(splice - _SPLICE <= packet <= splice for splice in self.splices)

    @property
    def start(self) -> float:
        """Second of the file's clock at which the first frame is shown; 0 where it does not say."""
        return float(self.stamps[0] * self.time_base)


class _Packet(NamedTuple):
    number: int
    pts: int | None
    dts: int | None
    key: bool
    shown: bool
    whole: bool

    @classmethod
    def of(cls, packet: av.Packet, number: int) -> _Packet:
        flags = packet.is_keyframe, not packet.is_discard, not packet.is_corrupt
        return cls(number, packet.pts, packet.dts, *flags)


_indices: dict[tuple[VideoLocation, int, int], FrameIndex] = {}


def get_frame_index(source: VideoLocation, file: VideoFile | None = None) -> FrameIndex:
    """The index of a file, which each process reads once while the file stays as it is.

    Args:
        file: the source, opened, to read it by.

    Raises:
        DataError: it cannot be read, or holds no frames.
    """
    key = _key(source)
    index = _indices.pop(key, None) or _read_index(source, file or VideoFile(source))
    _indices[key] = index  # the last one used stands last
    if len(_indices) > _MAX_INDICES:
        del _indices[next(iter(_indices))]
    return index


def cached_frame_index(source: VideoLocation) -> FrameIndex | None:
    """The index of a file if this process has read it already."""
    return _indices.get(_key(source))


def _key(source: VideoLocation) -> tuple[VideoLocation, int, int]:
    try:
        stat = os.stat(source.file)
    except OSError as error:
        raise read_error(source.path, error) from None
    return source, stat.st_mtime_ns, stat.st_size


def clear_frame_indices() -> None:
    """Read every file anew, as a process that begins."""
    _indices.clear()


def _read_index(source: VideoLocation, file: VideoFile) -> FrameIndex:
    scan = _Scan(file, source)
    if scan.first is None:
        what = "none of its frames can be decoded" if scan.packets else "holds no frames"
        raise read_error(source.path, what)
    context, turn = file.stream.codec_context, orientation_of(scan.first)
    if scan.timed:
        stamps, keys = scan.stamps()
    else:
        decoded = [frame for packet in VideoFile(source).packets() for frame in _timing(packet)]
        shown = [stamp for stamp, _ in decoded]
        if scan.format == "mpeg":
            shown = smooth_timestamps(decoded, scan.time_base, scan.rate)
        if scan.format in RAW_FORMATS:
            stated = bool(context.framerate)  # else FFmpeg takes 25 frames a second
            durations = [duration * stated for _, duration in decoded]
            shown = timestamps_from_durations(durations, scan.time_base, scan.rate)
        if scan.format == "avi":
            packets = [(packet.pts, packet.dts) for packet in scan.packets]
            shown = avi_timestamps(shown, packets, context.reorder_depth, source.path)
        clock = ContinuousClock(scan.time_base, scan.rate, scan.format)
        stamps = np.array([clock.add(stamp) for stamp in shown], dtype=np.int64)
        keys = stamps[:1]
    if scan.splices:
        warn_about_discontinuities(source.path, len(scan.splices))
    warn_if_hdr(source.path, scan.first.color_trc)
    size = square_pixel_size(file.stream, scan.first.width, scan.first.height)
    return FrameIndex(
        stamps=stamps,
        keys=keys,
        time_base=scan.time_base,
        rate=average_rate(len(stamps), int(stamps[-1] - stamps[0]) * scan.time_base, scan.rate),
        width=size[0],
        height=size[1],
        turn=turn,
        numbered=not scan.timed,
        doubt="its frames are turned" if turn != Orientation() else _doubt(scan, len(stamps)),
        reorder_depth=context.reorder_depth if scan.format.startswith(_HEADED) else None,
        splices=scan.splices,
    )


class _Scan:
    """What one pass over a file's packets finds, which decodes its first frame alone.

    Attributes:
        packets: in the order of decoding.
        streams: how many videos, covers and thumbnails there are.
        idr: whether H.264 key packets are all IDR pictures.
        first: the first frame; None if none can be decoded.
        timed: whether packets say when their frames are shown, on one clock.
        splices: as of FrameIndex.
    """

    def __init__(self, file: VideoFile, source: VideoLocation) -> None:
        stream, self.format = file.stream, file.container.format.name
        context = stream.codec_context
        self.codec, self.time_base = context.codec.canonical_name, stream.time_base
        self.rate, self.streams = _stated_rate(file, source), len(file.container.streams.video)
        self.packets: list[_Packet] = []
        self.idr, self.first = True, None
        prefix = nal_length_size(stream)
        for number, packet in enumerate(file.packets()):
            if packet.size:
                self.packets.append(_Packet.of(packet, number))
            if prefix and packet.size and packet.is_keyframe and self.idr:
                self.idr = is_idr(packet, prefix)
            if self.first is None:
                self.first = next(iter(_decode(packet)), None)
        order = [(packet.number, packet.dts) for packet in self.packets]
        self.splices = find_discontinuities(order, self.time_base, self.rate, self.format)
        self.timed = (
            (self.format.startswith(_TIMED) or context.reorder_depth == 0)
            and self.format not in RAW_FORMATS
            and all(packet.pts is not None for packet in self.packets)
            and (self.first is None or self.first.pts is not None)
            and not self.splices
            # In AVI, FFmpeg's guess goes astray where a camera dropped frames.
            and (self.format != "avi" or all(packet.pts == packet.dts for packet in self.packets))
        )

    def stamps(self) -> tuple[np.ndarray, np.ndarray]:
        """Of a timed file: `stamps` and `keys` as of FrameIndex."""
        first = self.first.pts
        sound = [packet for packet in self.packets if packet.whole and packet.pts > first]
        stamps = np.unique(np.array([first, *(p.pts for p in sound if p.shown)], dtype=np.int64))
        keys = np.unique(np.array([first, *(p.pts for p in sound if p.key)], dtype=np.int64))
        return stamps, keys


def _stated_rate(file: VideoFile, source: VideoLocation) -> Fraction:
    """Frames per second as the file states it, a guess where it does not and its times tell."""
    stream = file.stream
    if file.container.format.name not in RAW_FORMATS:
        return stream.average_rate or stream.guessed_rate or Fraction(25)
    rate = stream.guessed_rate if stream.codec_context.framerate else source.rate
    if not rate:
        raise read_error(
            source.path,
            f"a bare {file.container.format.name} stream that does not state its frame rate; state it with "
            "ffmpeg -r RATE -i FILE -c copy FILE.mp4",
        )
    return rate


def _timing(packet: av.Packet) -> list[tuple[int | None, int]]:
    """Time stamp and duration of the frames that a packet brings out."""
    return [(frame.pts, frame.duration) for frame in _decode(packet)]


def _decode(packet: av.Packet) -> list[av.VideoFrame]:
    try:
        return packet.decode()
    except (av.InvalidDataError, av.EOFError):
        return []


def average_rate(count: int, seconds: Fraction, said: Fraction) -> Fraction:
    """The header's rate where the frames' times agree with it, else theirs.

    Args:
        count: frames.
        seconds: from the first of them to the last.
        said: by the header.
    """
    if not seconds:
        return said
    measured = (count - 1) / seconds
    # The last frame's length is not known, and stamps are rounded.
    slack = 0.01 + 1 / count
    return said if abs(measured / said - 1) <= slack else measured.limit_denominator(1001)


def _doubt(scan: _Scan, num_frames: int) -> str:
    """Why decord may count or find other frames, or ''."""
    packets = scan.packets
    if not scan.format.startswith(_HEADED):
        return f"its container is {scan.format}"
    if scan.codec not in _DECORD_CODECS:
        return f"its codec is {scan.codec}"
    if scan.streams > 1:
        return "it holds several video streams"
    if not scan.timed:
        return "its packets do not say when frames are shown"
    if len(packets) != num_frames or not packets[0].key:
        return "not every packet is a frame that is shown"
    if not scan.idr:
        return "its key frames do not all begin anew"
    key = packets[0].pts
    for packet in packets:
        if packet.key:
            key = packet.pts
        elif packet.pts < key:
            return "frames before a key frame are decoded after it (open GOP)"
    return ""
