"""Reader based on PyAV, which bundles FFmpeg and has wheels for all platforms."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from vmae_det.utils.errors import DataError
from vmae_det.video.readers.base import READER_REGISTRY, VideoLocation, VideoReader, read_error, reduced_size
from vmae_det.video.readers.frame_index import FrameIndex, cached_frame_index, get_frame_index
from vmae_det.video.readers.video_file import VideoFile, is_non_reference, nal_length_size

# Number of key frames to step back in successive attempts to decode a frame. After some key frames, earlier
# ones are needed too (intra refresh).
_STEPS_BACK = (0, 1, 4)
_8_BIT_PLANAR = {f"yuv{full}{chroma}p" for full in ("", "j") for chroma in (420, 422, 440, 444)}


@READER_REGISTRY.register_as("pyav")
class PyAVReader(VideoReader):
    """Locates frames by their timestamps, and returns no frame that is known to be affected by damaged data.

    Attributes:
        index: frame index of the file.
    """

    def __init__(self, location: VideoLocation, short_side: int | None = None) -> None:
        self.path = location.path
        cached = cached_frame_index(location)
        self._file = VideoFile(location, cached.reorder_depth if cached else None)
        self.index = index = get_frame_index(location, self._file)
        self.times, self.rate, self.start = index.times, index.rate, index.start
        self.sound = index.sound(location)
        self._size = reduced_size(index.width, index.height, short_side)
        # Kept, because creating a reformatter costs more than converting a small frame.
        self._resizer, self._to_rgb = VideoReformatter(), VideoReformatter()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames."""
        return self.index.orientation.size(*self._size)

    def _read(self, wanted: np.ndarray) -> np.ndarray:
        width, height = self.size
        out = np.empty((len(wanted), height, width, 3), dtype=np.uint8)
        positions = {int(index): position for position, index in enumerate(wanted)}
        try:
            for steps in _STEPS_BACK:
                for index, frame in self._decode_frames(sorted(positions), steps):
                    out[positions.pop(index)] = self._convert(frame)
                if not positions:
                    return out
        except (av.FFmpegError, OSError) as error:
            raise read_error(self.path, error) from None
        problem = f"frame {min(positions)} of {len(self)} cannot be decoded: its data is damaged"
        raise DataError(problem, self.path)

    def stream(self, first: int = 0, wanted: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield frames in order (see `VideoReader.stream`). Each packet is decoded once."""
        frames = self._decode_from(first) if wanted is None else self._decode_frames(wanted.tolist(), 0)
        try:
            for index, frame in frames:
                yield index, np.ascontiguousarray(self._convert(frame))
        except (av.FFmpegError, OSError) as error:
            raise read_error(self.path, error) from None

    def decoded(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield the undamaged frames in order, as stored: (index, frame).

        Raises:
            DataError: the rest of the video cannot be read.
        """
        try:
            yield from self._decode_from(0)
        except (av.FFmpegError, OSError) as error:
            raise read_error(self.path, error) from None

    def _decode_from(self, first: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield the undamaged frames from `first` on, in order."""
        key_pts, pts = self.index.key_pts, self.index.pts
        if first >= len(pts):
            return
        # The key frame to start from, and the timestamp of the last frame yielded.
        start, last = int(np.searchsorted(key_pts, pts[first], side="right")) - 1, pts[first] - 1
        while start < len(key_pts):
            run = _DecodeRun(self._file, self.index, start, range(first, len(self)))
            for index, frame, is_intact in run:
                if is_intact and pts[index] > last:
                    last = pts[index]
                    yield index, frame
            if not run.has_damage:
                return
            self._file.rewind()  # see _decode_frames
            start = max(start + 1, int(np.searchsorted(key_pts, last, side="right")))

    def _decode_frames(self, wanted: list[int], steps: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield the intact ones of the frames `wanted`, ascending.

        Decoding starts `steps` key frames before the last one at or before the frame.
        """
        key_pts, pts = self.index.key_pts, self.index.pts
        starts = np.maximum(np.searchsorted(key_pts, pts[wanted], side="right") - 1 - steps, 0)
        remaining = deque(zip(wanted, starts))
        while remaining:
            start = remaining[0][1]
            # Later attempts decode everything, because a key frame may depend on earlier frames.
            run = _DecodeRun(
                self._file, self.index, start, [index for index, _ in remaining], drop_gops=steps == 0
            )
            for index, frame, is_intact in run:
                while remaining and remaining[0][0] < index:
                    remaining.popleft()
                if remaining and remaining[0][0] == index:
                    remaining.popleft()
                    if is_intact:
                        yield index, frame
                # Continue by decoding, or by seeking if a key frame is between here and the next frame.
                if not remaining or (
                    remaining[0][1] > start and key_pts[remaining[0][1]] > pts[index] + run.seek_distance
                ):
                    break
            else:
                while remaining and remaining[0][1] == start:
                    remaining.popleft()
            if run.has_damage:
                self._file.rewind()  # some decoders do not recover from damaged headers

    def _convert(self, frame: av.VideoFrame) -> np.ndarray:
        name, target = frame.format.name, "rgb24"
        if (frame.width, frame.height) != self._size and name.startswith("yuv"):
            # Converting to RGB directly, FFmpeg would halve the remaining chroma resolution.
            full_chroma = "yuvj444p" if name.startswith("yuvj") else "yuv444p"
            if name in _8_BIT_PLANAR:
                small = _resize_planes(frame, *self._size, full_chroma)
            else:
                small = self._reformat(self._resizer, frame, full_chroma)
            small.colorspace, small.color_range = frame.colorspace, frame.color_range
            frame, target = small, "gbrp"  # the faster path from 4:4:4
        return self.index.orientation.apply(self._reformat(self._to_rgb, frame, target).to_ndarray())

    def _reformat(self, reformatter: VideoReformatter, frame: av.VideoFrame, name: str) -> av.VideoFrame:
        width, height = self._size
        interpolation = "AREA" if (frame.width, frame.height) != self._size else "BILINEAR"
        return reformatter.reformat(frame, width, height, format=name, interpolation=interpolation, threads=1)


def _resize_planes(frame: av.VideoFrame, width: int, height: int, name: str) -> av.VideoFrame:
    """Resize each plane to one size: repeated halving, then bilinear, so that every pixel contributes."""
    small = av.VideoFrame(width, height, name)
    for plane, target in zip(frame.planes, small.planes):
        pixels = _pixels(plane)
        while pixels.shape[0] >= 2 * height and pixels.shape[1] >= 2 * width:
            half = pixels.shape[1] // 2, pixels.shape[0] // 2
            pixels = cv2.resize(pixels, half, interpolation=cv2.INTER_AREA)
        cv2.resize(pixels, (width, height), dst=_pixels(target), interpolation=cv2.INTER_LINEAR)
    return small


def _pixels(plane: av.video.plane.VideoPlane) -> np.ndarray:
    """Return a view of the bytes of a plane, uint8 (height, width)."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


class _DecodeRun:
    """Decodes from a key frame on. Yields (index, frame, whether it is intact) in presentation order.

    Frames that no `wanted` frame depends on are skipped without decoding: frames that no other frame refers
    to, and the rest of a closed GOP after its last wanted frame.

    Damage in a packet affects the frames decoded after it, up to the next key frame. Some damage is detected
    only when the frame is output. Therefore a frame is held back until the frames that were decoded before it
    and are presented later have been output.
    """

    def __init__(
        self,
        file: VideoFile,
        index: FrameIndex,
        start: int,
        wanted: Sequence[int],
        drop_gops: bool = False,
    ) -> None:
        self._file, self._index = file, index
        self._start = start
        self._ascending = wanted
        self._wanted = wanted if isinstance(wanted, range) else frozenset(wanted)
        self._drops_gops = drop_gops and index.closed_gops
        self._length_size = nal_length_size(file.stream)
        self._skipped: set[int] = set()  # frame indices
        self._packet_of: dict[int, int] = {}  # PTS -> number of the packet since the run began
        self._damaged: list[int] = []  # packet numbers
        self._pending: set[int] = set()  # numbers of packets whose frames have not been output
        # In units of time_base: seeking over fewer than eight frames costs more than decoding them.
        self.seek_distance = 8 / float(index.rate * index.time_base)

    def __iter__(self) -> Iterator[tuple[int, av.VideoFrame, bool]]:
        held: deque[tuple[int, av.VideoFrame]] = deque()
        for index, frame in self._indexed_frames():
            held.append((index, frame))
            while held and not self._is_waiting(held[0][0]):
                index, frame = held.popleft()
                yield index, frame, self._is_intact(index)
        self._damaged += self._pending
        for index, frame in held:
            yield index, frame, self._is_intact(index)

    @property
    def has_damage(self) -> bool:
        """Whether damage was detected, or frames were missing."""
        return bool(self._damaged)

    def _is_waiting(self, index: int) -> bool:
        """Return whether a frame that was decoded before this one has not been output yet."""
        packet = self._packet_of.get(int(self._index.pts[index]), 0)
        return any(number < packet for number in self._pending)

    def _is_intact(self, index: int) -> bool:
        if not self._index.has_packet_times:
            return not self._damaged
        pts, key_pts = self._index.pts[index], self._index.key_pts
        key = key_pts[np.searchsorted(key_pts, pts, side="right") - 1]
        first, last = self._packet_of.get(int(key), 0), self._packet_of.get(int(pts), 0)
        return not any(first <= number <= last for number in self._damaged)

    def _indexed_frames(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (index, frame). Frames missing between two others are recorded as damage."""
        pts, counted = self._index.pts, not self._index.has_packet_times
        expected = 0 if counted else None
        for number, frame in self._decoded_frames():
            index = expected if counted else self._index_of(frame)
            if index is None:
                continue
            if index == len(pts):  # the file has grown since it was indexed
                return
            if expected is None:
                expected = index
            for missing in range(expected, index):
                if missing not in self._skipped:
                    packet = self._packet_of.get(int(pts[missing]), number)
                    self._damaged.append(packet)
                    self._pending.discard(packet)
            packet = number if counted else self._packet_of.get(frame.pts, number)
            if frame.is_corrupt:
                self._damaged.append(packet)
            self._pending.discard(packet)
            expected = index + 1
            yield index, frame

    def _gop_from(self, first: int) -> range:
        """Return the indices of the GOP that begins at frame `first`."""
        pts, key_pts = self._index.pts, self._index.key_pts
        next_key = int(np.searchsorted(key_pts, pts[first], side="right"))
        end = len(pts) if next_key == len(key_pts) else int(np.searchsorted(pts, key_pts[next_key]))
        return range(first, end)

    def _count_wanted(self, gop: range) -> int:
        return bisect_left(self._ascending, gop.stop) - bisect_left(self._ascending, gop.start)

    def _index_of(self, data: av.VideoFrame | av.Packet) -> int | None:
        """Return the frame index; None if it is not displayed, or before the key frame of the run."""
        pts = self._index.pts
        if not self._index.has_packet_times or data.pts is None or data.pts < self._first_pts:
            return None
        index = int(np.searchsorted(pts, data.pts))
        return index if index < len(pts) and pts[index] == data.pts else None

    def _decoded_frames(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (number of the packet that output the frame, frame)."""
        gop, to_come = range(0), 0  # the current GOP, and its wanted frames that have not been decoded
        for number, packet in enumerate(self._packets()):
            index = self._index_of(packet)
            if index is not None:
                if packet.is_keyframe:
                    gop = self._gop_from(index)
                    to_come = self._count_wanted(gop)
                if not to_come and self._drops_gops:
                    if index not in self._skipped:
                        yield from ((number, frame) for frame in self._skip_rest(gop))
                    if self._ascending[-1] < gop.stop:
                        return  # without reading the packets up to the end of the file
                    continue
                if index in self._wanted:
                    to_come -= 1
                elif self._length_size and is_non_reference(packet, self._length_size):
                    self._skipped.add(index)
                    continue
                self._packet_of[packet.pts] = number
                self._pending.add(number)
            try:
                frames = packet.decode()
            except av.EOFError:
                return
            except av.InvalidDataError:
                self._damaged.append(number)
                continue
            if packet.is_corrupt and not self._index.is_near_discontinuity(number):
                self._damaged.append(number)
            for frame in frames:
                yield number, frame

    def _skip_rest(self, gop: range) -> Iterator[av.VideoFrame]:
        """Skip the frames of a GOP that have not been decoded. Yield those that the decoder buffers.

        It would output them only after further packets, which may be far away.
        """
        pts = self._index.pts
        self._skipped.update(index for index in gop if int(pts[index]) not in self._packet_of)
        if not self._pending:
            return
        context, frames = self._file.stream.codec_context, []
        with suppress(av.EOFError, av.InvalidDataError):
            frames = context.decode(None)
        context.flush_buffers()  # else it accepts no more packets
        yield from frames
        self._damaged += self._pending  # the decoder did not output their frames
        self._pending.clear()

    def _packets(self) -> Iterator[av.Packet]:
        """Yield packets from the key frame on, or from an earlier one if seeking fails."""
        key_pts = self._index.key_pts[: self._start + 1]
        for steps in (0, 1, 3) if self._index.has_packet_times else ():
            try:
                target = int(key_pts[max(self._start - steps, 0)])
                self._file.container.seek(target, stream=self._file.stream, backward=True)
            except av.FFmpegError:
                continue
            packets = self._file.packets()
            key = next((packet for packet in packets if packet.is_keyframe), None)
            if key is not None and key.pts in key_pts:
                self._first_pts = key.pts
                yield from itertools.chain([key], packets)
                return
        self._file.rewind()
        self._first_pts = self._index.pts[0]
        yield from self._file.packets()
