"""Sequential sources of frames: video files, URLs and cameras (`open_source`)."""

from __future__ import annotations

import errno
import itertools
import logging
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import NamedTuple
from urllib.parse import unquote

import av
import numpy as np

from vmae_det.utils.channel import Channel, ChannelClosed
from vmae_det.utils.downloads import parse_url
from vmae_det.utils.errors import DataError
from vmae_det.utils.paths import is_url
from vmae_det.video.readers import VideoReader, open_video
from vmae_det.video.readers.base import is_frame_pattern, warn_once
from vmae_det.video.readers.timestamps import ContinuousClock
from vmae_det.video.readers.video_file import (
    FORMATS,
    choose_stream,
    orientation_of,
    square_pixel_size,
    warn_if_hdr,
)
from vmae_det.video.sampling import nearest_frames

logger = logging.getLogger(__name__)

WEB, LIVE = ("http://", "https://"), ("rtsp://", "rtsps://", "rtmp://", "udp://", "rtp://", "tcp://")
_CAMERA = "/dev/video"
_DEFAULT_RATE = Fraction(30)
_END_TOLERANCE = 1.0  # seconds that the last frame may be before the end stated by the header
_LIVE_QUEUE = 4  # frames of a live stream that wait for the consumer before some are dropped

_URL_FORMATS = ",".join((FORMATS, "mjpeg,mpjpeg,rtsp,rtp,sdp"))
_STREAMABLE = ("mov", "matroska")  # containers that state the time of each frame, on one continuous clock
_PROTOCOLS = "http,https,httpproxy,tcp,tls,udp,rtp,rtmp,rtsp,crypto"
_TIMEOUTS = (20.0, 20.0)  # seconds to connect, and to wait for more data
# Packets lost over UDP damage pictures. Use TCP, and UDP only if a server refuses TCP (status 461).
_RTSP_OPTIONS = {"rtsp_flags": "prefer_tcp"}


class Frame(NamedTuple):
    """A decoded frame: index, seconds from the first frame, uint8 RGB (H, W, 3)."""

    index: int
    time: float
    image: np.ndarray


class VideoSource(ABC):
    """A video that is read once, from its beginning.

    Attributes:
        name: name to show in messages.
        rate: frames per second.
        times: time of each frame in seconds from the first one; None if unknown in advance.
        start: time of the first frame on the clock shared with the audio.
        sound: where to copy the audio from, or None.
        live: whether frames arrive in real time, and are dropped if they are not consumed in time.
        dropped: number of dropped frames.
    """

    name: str
    rate: Fraction
    times: np.ndarray | None = None
    start: float = 0.0
    sound: str | Path | None = None
    live: bool = False
    dropped: int = 0

    @abstractmethod
    def frames(self, first: int = 0, wanted: np.ndarray | None = None) -> Iterator[Frame]:
        """Yield frames in order. Damaged and dropped frames are skipped.

        Args:
            first: index of the first frame to yield.
            wanted: ascending indices (n,) of the only frames to yield, if `times` is known.

        Raises:
            DataError: the rest of the source cannot be read.
        """

    @property
    def video_id(self) -> str:
        """Id of the video in files of boxes, and name of its outputs."""
        return video_id(self.name)

    def indices_at(self, seconds: np.ndarray) -> np.ndarray:
        """Return the frames (n,) nearest to ascending times (n,), if `times` is known.

        Raises:
            DataError: a time is outside the video.
        """
        raise NotImplementedError

    def now(self) -> float:
        """Return the time of a frame that arrives now, for a live source."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027 - optional
        """Stop the iteration of `frames`. May be called from another thread."""


class FileSource(VideoSource):
    """A file, or a folder of frames."""

    def __init__(self, reader: VideoReader) -> None:
        self._reader, self.name = reader, str(reader.path)
        self.rate, self.times, self.start = reader.rate, reader.times, reader.start
        self.sound = reader.sound
        self._opened = _inode_and_size(reader.path)

    def frames(self, first: int = 0, wanted: np.ndarray | None = None) -> Iterator[Frame]:
        """Yield frames (see `VideoSource.frames`)."""
        for index, image in self._reader.stream(first, wanted):
            yield Frame(index, float(self.times[index]), image)
        now = _inode_and_size(self._reader.path)
        if self._opened and now and now[0] == self._opened[0] and now != self._opened:
            problem = f"changed while it was read, from {self._opened[1]} to {now[1]} bytes"
            raise DataError(problem, self.name)

    def indices_at(self, seconds: np.ndarray) -> np.ndarray:
        """Return the frames nearest to times (see `VideoSource.indices_at`)."""
        for extreme in seconds[[0, -1]] if len(seconds) else ():
            self._reader.index_at(float(extreme))  # raises an error if it is outside
        return nearest_frames(self.times, seconds)


def _inode_and_size(path: Path) -> tuple[int, int] | None:
    """Return inode and size of a regular file; None if it does not exist or is a folder."""
    with suppress(OSError):
        status = path.stat()
        return (status.st_ino, status.st_size) if S_ISREG(status.st_mode) else None
    return None


class LiveSource(VideoSource):
    """A camera or a stream. Frames that are not consumed in time are dropped, the oldest first.

    Args:
        images: uint8 RGB (H, W, 3), each as soon as it is available.
        rate: frames per second.
        name: name to show in messages.
        clock: returns seconds, as time.monotonic does.
    """

    live = True

    def __init__(
        self,
        images: Iterable[np.ndarray],
        rate: Fraction = _DEFAULT_RATE,
        name: str = "live",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.rate = name, rate
        self._images, self._clock = images, clock
        self._started: float | None = None
        self._queue: Channel[Frame] = Channel(_LIVE_QUEUE, drop_oldest=True)

    @property
    def dropped(self) -> int:
        """Number of frames that were not consumed in time."""
        return self._queue.dropped

    def now(self) -> float:
        """Return the time of a frame that arrives now."""
        return 0.0 if self._started is None else self._clock() - self._started

    def close(self) -> None:
        """Stop the iteration of `frames`."""
        self._queue.close()

    def frames(self, first: int = 0, wanted: np.ndarray | None = None) -> Iterator[Frame]:
        """Yield frames (see `VideoSource.frames`).

        The index of a frame is its time multiplied by the rate, so that gaps are visible.
        """
        thread = threading.Thread(target=self._capture, daemon=True)
        thread.start()
        last = first - 1
        try:
            while frames := self._queue.get():
                if frames[0].index > last:
                    last = frames[0].index
                    yield frames[0]
        finally:
            self._queue.close()

    def _capture(self) -> None:
        index = -1
        try:
            for image in self._images:
                if self._started is None:
                    self._started = self._clock()
                seconds = self.now()
                # Frames that arrive in a burst get consecutive indices.
                index = max(round(seconds * self.rate), index + 1)
                self._queue.put(Frame(index, seconds, image))
        except ChannelClosed:
            pass
        except (av.FFmpegError, OSError) as error:
            self._queue.end(_url_error(self.name, error))
        except BaseException as error:
            self._queue.end(error)
        else:
            self._queue.end()


class WebSource(VideoSource):
    """A video file at a URL, decoded while it is downloaded. No frame is dropped."""

    def __init__(self, video: NetworkVideo) -> None:
        self.name, self._video = video.url, video
        stream = video.stream
        self.rate = stream.average_rate or _DEFAULT_RATE
        start = stream.start_time
        self.start = float(start * stream.time_base) if start is not None else 0.0
        self.sound = video.url if video.container.streams.audio else None

    def frames(self, first: int = 0, wanted: np.ndarray | None = None) -> Iterator[Frame]:
        """Yield frames (see `VideoSource.frames`). All frames are decoded."""
        start = seconds = None
        stream, container = self._video.stream, self._video.container.format.name
        clock = ContinuousClock(stream.time_base, self.rate, container)
        for index, (pts, image) in enumerate(self._video.decode()):
            seconds = float(clock.add(pts) * stream.time_base)
            start = seconds if start is None else start
            if index >= first:
                yield Frame(index, seconds - start, image)
        expected, received = self._video.duration, 0.0 if seconds is None else seconds - start
        if received + 1 / float(self.rate) < expected - _END_TOLERANCE:
            raise DataError(f"ends early, at second {received:.1f} of {expected:.1f}", self.name)


class NotStreamableError(DataError):
    """A file at a URL must be downloaded before it can be read."""


class NetworkVideo:
    """A video at a URL, opened by FFmpeg: a file on the web, or an endless stream.

    Attributes:
        url: the URL.
        container, stream: what FFmpeg opened, and the video stream in it.
        duration: seconds as stated by the header, else 0.

    Raises:
        DataError: it cannot be read, or contains no video.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        options = {"format_whitelist": _URL_FORMATS, "protocol_whitelist": _PROTOCOLS}
        if url.startswith(("rtsp://", "rtsps://")):
            options |= _RTSP_OPTIONS
        try:
            self.container = av.open(url, options=options, timeout=_TIMEOUTS, metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError) as error:
            if getattr(error, "errno", None) == errno.EIO:
                problem = "cannot be read: it is truncated, or its server does not support range requests"
                raise NotStreamableError(problem, url) from None
            raise _url_error(url, error) from None
        stream = choose_stream(self.container)
        if stream is None or stream.codec_context is None:
            self.container.close()
            raise DataError("contains no video stream", url)
        stream.codec_context.thread_count = 1
        self.stream = stream
        self._packets = self.container.demux(stream)
        duration, container_duration = stream.duration, self.container.duration or 0
        self.duration = float(duration * stream.time_base if duration else container_duration / av.time_base)

    @property
    def has_end(self) -> bool:
        """Whether it is a file, not a camera: its header or its server states its length."""
        return self.duration > 0 or self.container.size > 0

    @property
    def has_frame_times(self) -> bool:
        """Whether frames get the same times while they arrive as from a reader of the entire file."""
        return self.container.format.name.startswith(_STREAMABLE)

    def is_streamable(self) -> bool:
        """Return whether its first packet can be read. If not, close the connection.

        Without range requests, FFmpeg opens a file whose index is at its end, and fails to go back.
        """
        try:
            self._packets = itertools.chain([next(self._packets)], self._packets)
        except (av.FFmpegError, OSError):
            self.container.close()
            return False
        return True

    def decode(self) -> Iterator[tuple[int | None, np.ndarray]]:
        """Yield (PTS, frame as displayed, uint8 RGB (H, W, 3)). All frames get the size of the first one.

        Frames that cannot be decoded are skipped. The connection is closed at the end.

        Raises:
            DataError: the rest cannot be read.
        """
        size = None
        try:
            for packet in self._packets:
                try:
                    frames = packet.decode()
                except av.InvalidDataError:
                    continue
                for frame in frames:
                    if size is None:
                        size = square_pixel_size(self.stream, frame.width, frame.height)
                        warn_if_hdr(self.url, frame.color_trc)
                    image = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
                    yield frame.pts, np.ascontiguousarray(orientation_of(frame).apply(image))
        except (av.FFmpegError, OSError) as error:
            raise _url_error(self.url, error) from None
        finally:
            self.container.close()


def _url_error(url: str, error: Exception) -> DataError:
    """Return the error for a URL that cannot be read, or not to its end."""
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, av.ExitError):
        reason = f"no data received for {_TIMEOUTS[1]:.0f} seconds"
    return DataError(f"cannot be read: {' '.join(str(reason).split())[:160]}", url)


def video_id(video: str | Path) -> str:
    """Return the id of a video: the last part of its name, without suffix.

    For a pattern of images it is the name of the folder. For URLs and cameras it is a valid file name.
    """
    name = str(video)
    if is_frame_pattern(Path(name).name):
        return Path(name).parent.resolve().name
    if _is_camera_number(name):
        return f"camera_{name}"
    if is_url(name):
        parts = parse_url(name)
        stem = PurePosixPath(unquote(parts.path)).stem or parts.hostname or "stream"
        return re.sub(r"[^\w.-]", "_", stem)
    return Path(name).stem


def is_live(name: str) -> bool:
    """Return whether a name is that of a camera (a number or a device) or of a stream."""
    return _is_camera_number(name) or name.startswith((_CAMERA, *LIVE))


def is_endless(name: str) -> bool:
    """Return whether a video is live, or a stream without an end at an http(s) URL. Opens the URL."""
    if not name.startswith(WEB):
        return is_live(name)
    try:
        video = NetworkVideo(name)
    except DataError:  # a file that must be downloaded first; or the download reports the problem
        return False
    with video.container:
        return not video.has_end


def _is_camera_number(name: str) -> bool:
    return name.isdecimal() and not Path(name).exists()


def open_source(video: str | Path, reader: str = "auto") -> VideoSource:
    """Open a source of frames.

    Args:
        video: anything `open_video` accepts, an http(s) URL of a video file, a URL of a stream (rtsp, rtmp,
            udp, rtp), or a camera number or device. A number that is the name of a file is that file.
        reader: reader of files: a name in READER_REGISTRY, or "auto".

    Raises:
        DataError: it cannot be read.
    """
    name = str(video)
    if _is_camera_number(name) or name.startswith(_CAMERA):
        images, rate = _open_camera(name)
        return LiveSource(images, rate, name)
    if name.startswith((*WEB, *LIVE)):
        try:
            network_video = NetworkVideo(name)
        except NotStreamableError:
            if name.startswith(LIVE):
                raise
            logger.info("%s: downloading first, because its index is at its end", name)
        else:
            is_file = name.startswith(WEB) and network_video.has_end
            if not is_file:
                if name.startswith(WEB):
                    warn_once(name, "states no length; it is read as a live stream, by this machine's clock")
                images = (image for _, image in network_video.decode())
                return LiveSource(images, network_video.stream.average_rate or _DEFAULT_RATE, name)
            if not network_video.has_frame_times:
                network_video.container.close()
                logger.info("%s: downloading first, because frame times require the entire file", name)
            elif network_video.is_streamable():
                return WebSource(network_video)
            else:
                logger.info("%s: downloading first, because its server has no range requests", name)
    return FileSource(open_video(video, reader))


def _open_camera(name: str) -> tuple[Iterator[np.ndarray], Fraction]:
    import cv2

    is_number = name.isdecimal()
    camera = None
    if not is_number or len(name) < 10:  # OpenCV accepts 31-bit integers
        camera = cv2.VideoCapture(int(name) if is_number else name)
    if camera is None or not camera.isOpened():
        raise DataError("no such camera, or it is in use by another program", name)
    stated = camera.get(cv2.CAP_PROP_FPS)
    rate = Fraction(stated).limit_denominator(1001) if np.isfinite(stated) and stated > 0 else _DEFAULT_RATE
    return _camera_images(camera), rate


def _camera_images(camera: object) -> Iterator[np.ndarray]:
    import cv2

    try:
        while True:
            success, image = camera.read()
            if not success:
                return
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        camera.release()
