"""What a video's packets say before a frame is decoded: which frames there are, when, and where to start."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from vmae_det.data.readers.h264 import is_idr, length_size
from vmae_det.data.readers.interface import Source, unreadable

# Demuxers of video files. FFmpeg knows more, some of which open other files, or take a picture for a video.
_FORMATS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg"
# Containers that keep when each frame is shown; of others it is a guess by the order of decoding.
_TIMED = ("mov", "matroska", "mpegts", "asf", "flv", "ogg")
_HEADED = ("mov", "matroska")  # containers that describe their streams before the first packet
_DECORD_CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9")
_MAX_INDICES = 512  # a film of two hours takes a megabyte and a half, a clip of ten seconds some kilobytes
# To open a file that is known: FFmpeg shall look at no packet, and decode none, to find out about streams.
_HASTE, _NO_DECODING, _MAX_STREAMS = {"probesize": "32"}, {"skip_frame": "all"}, 8
_READ_ERRORS = (av.FFmpegError, OSError, ValueError)


class Turn(NamedTuple):
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


@dataclass(frozen=True)
class VideoIndex:
    """Of the first video stream of a file.

    Attributes:
        stamps: when each frame is shown, int64 (num_frames,), ascending, in units of `time_base` seconds.
        keys: the stamps at which decoding can start, ascending; the first frame's among them.
        rate: frames per second, on average.
        width, height: as stored, before `turn`.
        numbered: the file does not say when frames are shown, so they are counted from the first one on.
        doubt: why decord may give other frames than these; '' where it does not.
        reorder_depth: frames that the decoder holds back to bring them into order; None where a file has to
            be looked at anew each time.
    """

    stamps: np.ndarray
    keys: np.ndarray
    time_base: Fraction
    rate: Fraction
    width: int
    height: int
    turn: Turn
    numbered: bool
    doubt: str
    reorder_depth: int | None

    @property
    def times(self) -> np.ndarray:
        """Seconds from the first frame on, float64 (num_frames,)."""
        return (self.stamps - self.stamps[0]) * float(self.time_base)

    @property
    def start(self) -> float:
        """Second of the file's clock at which the first frame is shown; 0 where it does not say."""
        return float(self.stamps[0] * self.time_base)


class _Packet(NamedTuple):
    pts: int | None
    key: bool
    shown: bool
    whole: bool


_indices: dict[tuple[Source, int, int], VideoIndex] = {}


class VideoFile:
    """An open file: `container`, and `stream`, its first video stream, which decodes on one thread.

    Args:
        known: its index, which spares the decoding by which FFmpeg finds out about a file.

    Raises:
        DataError: it cannot be read, or holds no video.
    """

    def __init__(self, source: Source, known: VideoIndex | None = None) -> None:
        self._source = source
        if known is not None and known.reorder_depth is not None:
            self.container, self.stream = _open(source, _HASTE, [_NO_DECODING] * _MAX_STREAMS)
            if self.stream.codec_context.reorder_depth == known.reorder_depth:
                return
            self.container.close()
        self.container, self.stream = _open(source)

    def rewind(self) -> None:
        """Back to the first byte: anew, as not every container can seek to its beginning."""
        before = self.container
        self.container, self.stream = _open(self._source)
        before.close()

    def __del__(self) -> None:
        # Containers and their streams hold each other: without this, memory grows until Python collects.
        if hasattr(self, "container"):
            self.container.close()


def _open(
    source: Source, options: dict[str, str] | None = None, stream_options: list[dict[str, str]] | None = None
) -> tuple[av.container.InputContainer, av.VideoStream]:
    if _size(source) == 0:
        raise unreadable(source.path, "it is empty")
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file,subfile"} | (options or {})
    try:
        container = av.open(
            source.address, options=options, stream_options=stream_options, metadata_errors="replace"
        )
    except _READ_ERRORS as error:
        raise unreadable(source.path, _cause(source, error)) from None
    pictures = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & pictures]
    if not streams or streams[0].codec_context is None:
        container.close()
        what = "its video is of an unknown codec" if streams else "holds no video stream"
        raise unreadable(source.path, what)
    streams[0].codec_context.thread_count = 1
    return container, streams[0]


def index_video(source: Source, file: VideoFile | None = None) -> VideoIndex:
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


def known_index(source: Source) -> VideoIndex | None:
    """The index of a file if this process has read it already."""
    return _indices.get(_key(source))


def _key(source: Source) -> tuple[Source, int, int]:
    try:
        stat = os.stat(source.file)
    except OSError as error:
        raise unreadable(source.path, error) from None
    return source, stat.st_mtime_ns, stat.st_size


def forget_indices() -> None:
    """Read every file anew, as a process that begins."""
    _indices.clear()


def _read_index(source: Source, file: VideoFile) -> VideoIndex:
    scan = _scan(file, decode_all=False)
    if scan.first is None:
        what = "none of its frames can be decoded" if scan.packets else "holds no frames"
        raise unreadable(source.path, what)
    turn = turn_of(scan.first)
    size_and_turn = scan.first.width, scan.first.height, turn
    depth = file.stream.codec_context.reorder_depth if scan.format.startswith(_HEADED) else None
    if not scan.timed:
        stamps = np.arange(_scan(VideoFile(source), decode_all=True).count)
        doubt = "the file does not say when its frames are shown"
        return VideoIndex(stamps, stamps[:1], 1 / scan.rate, scan.rate, *size_and_turn, True, doubt, depth)
    first = scan.first.pts
    sound = [packet for packet in scan.packets if packet.whole and packet.pts > first]
    stamps = np.unique(np.array([first, *(p.pts for p in sound if p.shown)], dtype=np.int64))
    keys = np.unique(np.array([first, *(p.pts for p in sound if p.key)], dtype=np.int64))
    rate = _average_rate(stamps, scan.time_base, scan.rate)
    doubt = "its frames are turned" if turn != Turn() else _doubt(scan, len(stamps))
    return VideoIndex(stamps, keys, scan.time_base, rate, *size_and_turn, False, doubt, depth)


@dataclass
class _Scan:
    """What one pass over a file found; `idr`: whether H.264 key packets are all IDR pictures."""

    format: str
    codec: str
    time_base: Fraction
    rate: Fraction
    timed: bool
    packets: list[_Packet] = field(default_factory=list)
    idr: bool = True
    first: av.VideoFrame | None = None
    count: int = 0


def _scan(file: VideoFile, decode_all: bool) -> _Scan:
    """All packets in the order of decoding, the first frame, and with `decode_all` the number of frames."""
    stream, name = file.stream, file.container.format.name
    context = stream.codec_context
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    scan = _Scan(name, context.codec.canonical_name, stream.time_base, rate, name.startswith(_TIMED))
    scan.timed = scan.timed or context.reorder_depth == 0
    prefix = length_size(stream)
    for packet in packets_of(file):
        if packet.size:
            whole = not packet.is_corrupt
            scan.packets.append(_Packet(packet.pts, packet.is_keyframe, not packet.is_discard, whole))
            scan.timed &= packet.pts is not None
        if prefix and packet.size and packet.is_keyframe and scan.idr:
            scan.idr = is_idr(packet, prefix)
        if scan.first is None or decode_all:
            for frame in _decode(packet):
                scan.first = scan.first or frame
                scan.count += 1
    scan.timed &= scan.first is None or scan.first.pts is not None
    return scan


def packets_of(file: VideoFile) -> Iterator[av.Packet]:
    """Packets up to the end, or to where the file cannot be read further, and an empty one."""
    packets = file.container.demux(file.stream)
    while True:
        try:
            packet = next(packets, None)
        except av.InvalidDataError:
            return
        if packet is None:
            return
        yield packet


def _decode(packet: av.Packet) -> list[av.VideoFrame]:
    try:
        return packet.decode()
    except (av.InvalidDataError, av.EOFError):
        return []


def _average_rate(stamps: np.ndarray, time_base: Fraction, said: Fraction) -> Fraction:
    """The header's rate where the frames' times agree with it, else theirs."""
    seconds = int(stamps[-1] - stamps[0]) * time_base
    if not seconds:
        return said
    measured = (len(stamps) - 1) / seconds
    # The last frame's length is not known, and stamps are rounded.
    slack = 0.01 + 1 / len(stamps)
    return said if abs(measured / said - 1) <= slack else measured.limit_denominator(1001)


def turn_of(frame: av.VideoFrame) -> Turn:
    """By the display matrix of a decoded frame: a stored point (x, y) is shown at (a x + c y, b x + d y)."""
    data = frame.side_data.get(SideData.DISPLAYMATRIX)
    if data is None:
        return Turn()
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Turn(False, d < 0, a < 0)
    return Turn(True, b < 0, c < 0)


def _doubt(scan: _Scan, num_frames: int) -> str:
    """Why decord may count or find other frames, or ''."""
    packets = scan.packets
    if not scan.format.startswith(_HEADED):
        return f"its container is {scan.format}"
    if scan.codec not in _DECORD_CODECS:
        return f"its codec is {scan.codec}"
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


def _size(source: Source) -> int:
    try:
        return source.file.stat().st_size if source.size is None else source.size
    except OSError as error:
        raise unreadable(source.path, error) from None


def _cause(source: Source, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, av.ArgumentError):  # a format that is not in the list
        reason = "not a format of video files"
    return f"{reason} ({_size(source)} bytes)"
