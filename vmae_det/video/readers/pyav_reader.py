"""Reads through PyAV, which brings its own FFmpeg and has wheels everywhere."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Container, Iterator

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from vmae_det.utils.errors import DataError
from vmae_det.video.readers.base import READER_REGISTRY, VideoLocation, VideoReader, read_error, reduced_size
from vmae_det.video.readers.frame_index import FrameIndex, cached_frame_index, get_frame_index
from vmae_det.video.readers.video_file import VideoFile, is_non_reference, nal_length_size

# Key frames to step back by where frames stay away: after some, they need those before (intra refresh).
_STEPS_BACK = (0, 1, 4)
_PLANES_OF_BYTES = {f"yuv{full}{chroma}p" for full in ("", "j") for chroma in (420, 422, 440, 444)}


@READER_REGISTRY.register_as("pyav")
class PyAVReader(VideoReader):
    """Finds frames by their times, and gives none that damaged data are known to reach.

    Attributes:
        index: of the file.
    """

    def __init__(self, source: VideoLocation, short_side: int | None = None) -> None:
        self.path = source.path
        known = cached_frame_index(source)
        self._file = VideoFile(source, known.reorder_depth if known else None)
        self.index = index = get_frame_index(source, self._file)
        self.times, self.rate, self.start = index.times, index.rate, index.start
        self.sound = index.sound(source)
        self._size = reduced_size(index.width, index.height, short_side)
        # Kept, as making one costs more than converting a small frame.
        self._reducer, self._to_rgb = VideoReformatter(), VideoReformatter()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames."""
        return self.index.turn.size(*self._size)

    def _read(self, wanted: np.ndarray) -> np.ndarray:
        width, height = self.size
        out = np.empty((len(wanted), height, width, 3), dtype=np.uint8)
        places = {int(index): place for place, index in enumerate(wanted)}
        try:
            for steps in _STEPS_BACK:
                for index, frame in self._find(sorted(places), steps):
                    out[places.pop(index)] = self._convert(frame)
                if not places:
                    return out
        except (av.FFmpegError, OSError) as error:
            raise read_error(self.path, error) from None
        raise DataError(
            f"frame {min(places)} of {len(self)} cannot be decoded: its data are damaged", self.path
        )

    def stream(self, first: int = 0, wanted: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Frames in order, as of VideoReader, each packet decoded once."""
        found = self._all(first) if wanted is None else self._find(wanted.tolist(), 0)
        try:
            for index, frame in found:
                yield index, np.ascontiguousarray(self._convert(frame))
        except (av.FFmpegError, OSError) as error:
            raise read_error(self.path, error) from None

    def decoded(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """The undamaged frames with their indices, in order, as they are stored; DataError as of `stream`."""
        try:
            yield from self._all(0)
        except (av.FFmpegError, OSError) as error:
            raise read_error(self.path, error) from None

    def _all(self, first: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """The undamaged frames from `first` on, in order."""
        keys, stamps = self.index.keys, self.index.stamps
        if first >= len(stamps):
            return
        # The key frame to begin at, and the stamp of the last frame given.
        start, last = int(np.searchsorted(keys, stamps[first], side="right")) - 1, stamps[first] - 1
        while start < len(keys):
            run = Run(self._file, self.index, start, range(first, len(self)))
            for index, frame, whole in run:
                if whole and stamps[index] > last:
                    last = stamps[index]
                    yield index, frame
            if not run.is_damaged:
                return
            self._file.rewind()  # as in _find
            start = max(start + 1, int(np.searchsorted(keys, last, side="right")))

    def _find(self, wanted: list[int], steps: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Those frames of `wanted`, ascending, that come out whole from `steps` key frames before them."""
        keys, stamps = self.index.keys, self.index.stamps
        starts = np.maximum(np.searchsorted(keys, stamps[wanted], side="right") - 1 - steps, 0)
        todo = deque(zip(wanted, starts))
        while todo:
            start = todo[0][1]
            run = Run(self._file, self.index, start, frozenset(index for index, _ in todo))
            for index, frame, whole in run:
                while todo and todo[0][0] < index:
                    todo.popleft()
                if todo and todo[0][0] == index:
                    todo.popleft()
                    if whole:
                        yield index, frame
                # On to the next one by decoding, or by a leap where a key frame lies between.
                if not todo or (todo[0][1] > start and keys[todo[0][1]] > stamps[index] + run.leap):
                    break
            else:
                while todo and todo[0][1] == start:
                    todo.popleft()
            if run.is_damaged:
                self._file.rewind()  # some decoders do not recover from what damaged headers told them

    def _convert(self, frame: av.VideoFrame) -> np.ndarray:
        name, target = frame.format.name, "rgb24"
        if (frame.width, frame.height) != self._size and name.startswith("yuv"):
            # On the way to RGB, FFmpeg would halve the chroma that is left.
            full = "yuvj444p" if name.startswith("yuvj") else "yuv444p"
            if name in _PLANES_OF_BYTES:
                small = _reduce(frame, *self._size, full)
            else:
                small = self._change(self._reducer, frame, full)
            small.colorspace, small.color_range = frame.colorspace, frame.color_range
            frame, target = small, "gbrp"  # from 4:4:4 the quicker way
        return self.index.turn.apply(self._change(self._to_rgb, frame, target).to_ndarray())

    def _change(self, reformatter: VideoReformatter, frame: av.VideoFrame, name: str) -> av.VideoFrame:
        width, height = self._size
        interpolation = "AREA" if (frame.width, frame.height) != self._size else "BILINEAR"
        return reformatter.reformat(frame, width, height, format=name, interpolation=interpolation, threads=1)


def _reduce(frame: av.VideoFrame, width: int, height: int, name: str) -> av.VideoFrame:
    """Each plane at this size: halved while that leaves enough, then bilinear, so that every pixel counts."""
    small = av.VideoFrame(width, height, name)
    for plane, target in zip(frame.planes, small.planes):
        pixels = _pixels(plane)
        while pixels.shape[0] >= 2 * height and pixels.shape[1] >= 2 * width:
            half = pixels.shape[1] // 2, pixels.shape[0] // 2
            pixels = cv2.resize(pixels, half, interpolation=cv2.INTER_AREA)
        cv2.resize(pixels, (width, height), dst=_pixels(target), interpolation=cv2.INTER_LINEAR)
    return small


def _pixels(plane: av.video.plane.VideoPlane) -> np.ndarray:
    """The bytes of a plane, uint8 (height, width), where they lie."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


class Run:
    """Frames in the order they are shown in, from a key frame on: (index, frame, whether it is whole).

    Frames that are not `wanted`, and that no other frame needs, are passed over undecoded.

    Damage of a packet reaches the frames decoded after it, up to the next key frame. Some of it shows only
    when its frame comes out, so frames wait for those that were decoded before them and are shown later.
    """

    def __init__(self, file: VideoFile, index: FrameIndex, start: int, wanted: Container[int]) -> None:
        self._file, self._index = file, index
        self._start = start
        self._wanted = wanted
        self._length_size = nal_length_size(file.stream)
        self._passed_over: set[int] = set()  # indices of frames that nothing needs
        self._order: dict[int, int] = {}  # stamp -> number of its packet since the run began
        self._damaged: list[int] = []  # numbers of packets
        self._pending: set[int] = set()  # numbers of packets whose frames are to come
        # In units of time_base: a leap over fewer than eight frames costs more than decoding them.
        self.leap = 8 / float(index.rate * index.time_base)

    def __iter__(self) -> Iterator[tuple[int, av.VideoFrame, bool]]:
        held: deque[tuple[int, av.VideoFrame]] = deque()
        for index, frame in self._indexed():
            held.append((index, frame))
            while held and not self._is_waiting(held[0][0]):
                index, frame = held.popleft()
                yield index, frame, self._is_whole(index)
        self._damaged += self._pending
        for index, frame in held:
            yield index, frame, self._is_whole(index)

    @property
    def is_damaged(self) -> bool:
        """Whether damage was met, or frames stayed away."""
        return bool(self._damaged)

    def _is_waiting(self, index: int) -> bool:
        """Whether a frame that was decoded before this one is still to come."""
        own = self._order.get(int(self._index.stamps[index]), 0)
        return any(number < own for number in self._pending)

    def _is_whole(self, index: int) -> bool:
        if self._index.numbered:
            return not self._damaged
        stamp, keys = self._index.stamps[index], self._index.keys
        key = keys[np.searchsorted(keys, stamp, side="right") - 1]
        first, own = self._order.get(int(key), 0), self._order.get(int(stamp), 0)
        return not any(first <= number <= own for number in self._damaged)

    def _indexed(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames with their indices; what stays away between two is damage."""
        stamps, numbered = self._index.stamps, self._index.numbered
        expected = 0 if numbered else None
        for number, frame in self._decoded():
            index = expected if numbered else self._index_of(frame)
            if index is None:
                continue
            if index == len(stamps):  # the file has grown since its frames were counted
                return
            if expected is None:
                expected = index
            for missing in range(expected, index):
                if missing not in self._passed_over:
                    own = self._order.get(int(stamps[missing]), number)
                    self._damaged.append(own)
                    self._pending.discard(own)
            own = number if numbered else self._order.get(frame.pts, number)
            if frame.is_corrupt:
                self._damaged.append(own)
            self._pending.discard(own)
            expected = index + 1
            yield index, frame

    def _index_of(self, data: av.VideoFrame | av.Packet) -> int | None:
        """None for what is not to be shown, or comes before the key frame of the run."""
        stamps = self._index.stamps
        if self._index.numbered or data.pts is None or data.pts < self._first:
            return None
        index = int(np.searchsorted(stamps, data.pts))
        return index if index < len(stamps) and stamps[index] == data.pts else None

    def _decoded(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames with the number of the packet that brought them out."""
        for number, packet in enumerate(self._packets()):
            index = self._index_of(packet)
            if index is not None:
                if (
                    index not in self._wanted
                    and self._length_size
                    and is_non_reference(packet, self._length_size)
                ):
                    self._passed_over.add(index)
                    continue
                self._order[packet.pts] = number
                self._pending.add(number)
            try:
                frames = packet.decode()
            except av.EOFError:
                return
            except av.InvalidDataError:
                self._damaged.append(number)
                continue
            if packet.is_corrupt and not self._index.is_spliced(number):
                self._damaged.append(number)
            for frame in frames:
                yield number, frame

    def _packets(self) -> Iterator[av.Packet]:
        """From the key frame on, or from one before it where the container cannot find it."""
        keys = self._index.keys[: self._start + 1]
        for steps in () if self._index.numbered else (0, 1, 3):
            try:
                target = int(keys[max(self._start - steps, 0)])
                self._file.container.seek(target, stream=self._file.stream, backward=True)
            except av.FFmpegError:
                continue
            packets = self._file.packets()
            key = next((packet for packet in packets if packet.is_keyframe), None)
            if key is not None and key.pts in keys:
                self._first = key.pts
                yield from itertools.chain([key], packets)
                return
        self._file.rewind()
        self._first = self._index.stamps[0]
        yield from self._file.packets()
