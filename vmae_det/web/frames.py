"""Frames of videos as JPEG, for pages: the clip around a time, decoded by the readers of training."""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2

from vmae_det.utils.errors import DataError
from vmae_det.video.probe import probe_video
from vmae_det.video.readers import VideoReader, open_video
from vmae_det.video.sampling import frames_around

HEIGHTS = (240, 360, 480, 720, 1080)  # pixels
SPAN = 1.0  # seconds before and after a time
MAX_RATE = 12.0  # frames per second
_JPEG_QUALITY = 80
_CACHE_BYTES = 48 * 2**20  # the page keeps more
_MAX_OPEN = 4  # videos; an open decoder of 1080p keeps some 30 MB

Opened = TypeVar("Opened")


@dataclass(frozen=True)
class VideoFacts:
    """What a page needs to know of a video.

    Args:
        width, height: size as displayed, in pixels.
        rate: frames per second.
        last: second at which the last frame starts, from the first one on.
    """

    width: int
    height: int
    rate: float
    last: float


class FrameServer:
    """Serves frames of a set of videos. Its methods can be called from any thread.

    Memory is bounded: a few videos are open, and the least recently used clips are forgotten.

    Args:
        files: video ids and their files, None for missing ones.
    """

    def __init__(self, files: Mapping[str, Path | None]) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._facts: dict[str, VideoFacts] = {}
        self._readers: OrderedDict[tuple[str, int], VideoReader] = OrderedDict()
        self._clips: OrderedDict[tuple[str, int, int, float], bytes] = OrderedDict()
        self._bytes = 0

    def known_facts(self, video: str) -> VideoFacts | None:
        """Return the facts of a video if they have been read."""
        return self._facts.get(video)

    def facts(self, video: str) -> VideoFacts:
        """Return the facts of a video. The first call decodes its first and last frames.

        Raises:
            DataError: the file is missing or cannot be read.
        """
        if video not in self._facts:
            with self._lock_of(video):
                self._facts[video] = _read_facts(self._path(video))
        return self._facts[video]

    def prepare(self, video: str) -> None:
        """Read the packets of a video, so that its first clip is fast. See `clip`."""
        self._with_reader(video, HEIGHTS[2], len)

    def clip(self, video: str, second: float, height: int, span: float = SPAN) -> bytes:
        """Return the frames around a time. The first call for a video reads all of its packets.

        A frame is the uint32 size of its JPEG, float32 seconds from the time, and the JPEG, little-endian.
        There are at most MAX_RATE frames per second, among them the one nearest to the time. Damaged frames
        are missing.

        Args:
            second: from the first frame on.
            height: maximum height, one of HEIGHTS. Frames are never enlarged.
            span: seconds before and after.

        Raises:
            DataError: the file is missing or cannot be read.
        """
        key = video, round(second * 1000), height, span
        with self._lock:
            if key in self._clips:
                self._clips.move_to_end(key)
                return self._clips[key]
        content = self._with_reader(video, height, lambda reader: _encode_clip(reader, second, span))
        with self._lock:
            self._clips[key] = content
            self._bytes += len(content)
            while self._bytes > _CACHE_BYTES:
                self._bytes -= len(self._clips.popitem(last=False)[1])
        return content

    def _with_reader(self, video: str, height: int, use: Callable[[VideoReader], Opened]) -> Opened:
        """Call a function with an open video, which no other thread uses."""
        facts = self.facts(video)
        with self._lock_of(video):
            with self._lock:
                reader = self._readers.pop((video, height), None)
            if reader is None:
                reader = open_video(self._path(video), short_side=_short_side(facts, height))
            try:
                return use(reader)
            finally:
                with self._lock:
                    self._readers[video, height] = reader
                    while len(self._readers) > _MAX_OPEN:
                        self._readers.popitem(last=False)

    def _path(self, video: str) -> Path:
        path = self._files.get(video)
        if path is None:
            raise DataError("its video file is missing", video)
        return path

    def _lock_of(self, video: str) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(video, threading.Lock())


def _read_facts(path: Path) -> VideoFacts:
    """Return the facts of a file, from its header and its ends if possible, else from its packets."""
    info = probe_video(str(path))
    if not info.problem:
        return VideoFacts(info.width, info.height, info.rate, info.last)
    reader = open_video(path)  # some damaged files can be read in part
    first = next((frame for _, frame in reader.stream()), None)
    if first is None:
        raise DataError("none of its frames can be decoded", path)
    return VideoFacts(first.shape[1], first.shape[0], float(reader.rate), float(reader.times[-1]))


def _short_side(facts: VideoFacts, height: int) -> int:
    """Return the short side of frames that are at most `height` high."""
    return max(min(height, round(facts.width * height / facts.height)), 1)


def _encode_clip(reader: VideoReader, second: float, span: float) -> bytes:
    parts = []
    wanted = frames_around(reader.times, second, span, MAX_RATE)
    for index, frame in reader.stream(wanted=wanted) if len(wanted) else ():
        is_encoded, jpeg = cv2.imencode(
            ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        )
        if is_encoded:
            parts.append(struct.pack("<If", len(jpeg), reader.times[index] - second) + jpeg.tobytes())
    return b"".join(parts)
