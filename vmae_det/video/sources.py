"""Where frames come from, one after the other: files, addresses of the web, cameras."""

from __future__ import annotations

import errno
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

from vmae_det.utils.channel import Channel, Closed
from vmae_det.utils.downloads import split_address
from vmae_det.utils.errors import DataError
from vmae_det.utils.paths import is_address
from vmae_det.video.readers import VideoReader, open_video
from vmae_det.video.readers.base import is_pattern, warn_once
from vmae_det.video.readers.timestamps import ContinuousClock
from vmae_det.video.readers.video_file import (
    FORMATS,
    choose_stream,
    orientation_of,
    square_pixel_size,
    warn_if_hdr,
)

logger = logging.getLogger(__name__)

WEB, LIVE = ("http://", "https://"), ("rtsp://", "rtsps://", "rtmp://", "udp://", "rtp://", "tcp://")
_CAMERA = "/dev/video"
_DEFAULT_RATE = Fraction(30)
_END_MARGIN = 1.0  # seconds that the last frame may come before the end that the header states
_WAITING_FRAMES = 4  # of a live stream, before frames are dropped


class Frame(NamedTuple):
    """A decoded frame: number, seconds from the first frame on, uint8 RGB (H, W, 3)."""

    index: int
    time: float
    image: np.ndarray


class VideoSource(ABC):
    """A video, read once from its beginning on.

    Attributes:
        name: what to call it, in messages.
        rate: frames per second.
        times: when each frame is shown, seconds from the first frame on; None where that is not known before.
        start: when the first frame is shown, on the clock that it shares with the sound.
        sound: what to copy the sound from, or None.
        live: whether frames come when they come, and are dropped where nobody takes them.
        dropped: frames that were.
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
        """Frames from number `first` on; those that are damaged, or were dropped, are missing.

        Args:
            wanted: numbers (n,), ascending, of the only ones to give; where `times` are known.

        Raises:
            DataError: the source cannot be read further.
        """

    @property
    def video_id(self) -> str:
        """The name under which files of boxes know it, and by which those made of it are called."""
        return video_id(self.name)

    def indices_at(self, seconds: np.ndarray) -> np.ndarray:
        """Where `times` are known: the frames (n,) nearest to ascending moments (n,); DataError if one lies
        outside."""
        raise NotImplementedError

    def now(self) -> float:
        """Of a live source: the time that a frame would have that came in now."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Have `frames` end, from another thread."""


class FileSource(VideoSource):
    """A file, or a folder of frames."""

    def __init__(self, reader: VideoReader) -> None:
        self._reader, self.name = reader, str(reader.path)
        self.rate, self.times, self.start = reader.rate, reader.times, reader.start
        self.sound = reader.sound
        self._opened = _identity(reader.path)

    def frames(self, first: int = 0, wanted: np.ndarray | None = None) -> Iterator[Frame]:
        """As of VideoSource."""
        for index, image in self._reader.stream(first, wanted):
            yield Frame(index, float(self.times[index]), image)
        now = _identity(self._reader.path)
        if self._opened and now and now[0] == self._opened[0] and now != self._opened:
            problem = f"changed while it was read, from {self._opened[1]} to {now[1]} bytes"
            raise DataError(problem, self.name)

    def indices_at(self, seconds: np.ndarray) -> np.ndarray:
        """As of VideoReader.index_at."""
        for moment in seconds[[0, -1]] if len(seconds) else ():
            self._reader.index_at(float(moment))
        after = np.searchsorted(self.times, seconds).clip(1, max(len(self.times) - 1, 1))
        after = np.minimum(after, len(self.times) - 1)
        before = (after - 1).clip(min=0)
        is_before = np.abs(self.times[before] - seconds) <= np.abs(self.times[after] - seconds)
        return np.where(is_before, before, after)


def _identity(path: Path) -> tuple[int, int] | None:
    """Number and size of a file; None where there is none, or a folder."""
    with suppress(OSError):
        status = path.stat()
        return (status.st_ino, status.st_size) if S_ISREG(status.st_mode) else None
    return None


class WebSource(VideoSource):
    """A video file at an address, decoded while it comes in; nothing of it is dropped."""

    def __init__(self, address: NetworkVideo) -> None:
        self.name, self._address = address.name, address
        stream = address.stream
        self.rate = stream.average_rate or _DEFAULT_RATE
        begin = stream.start_time
        self.start = float(begin * stream.time_base) if begin is not None else 0.0
        self.sound = address.name if address.container.streams.audio else None

    def frames(self, first: int = 0, wanted: np.ndarray | None = None) -> Iterator[Frame]:
        """As of VideoSource; all frames are decoded."""
        begin = seconds = None
        stream, container = self._address.stream, self._address.container.format.name
        clock = ContinuousClock(stream.time_base, self.rate, container)
        for index, (stamp, image) in enumerate(self._address.pictures()):
            seconds = float(clock.add(stamp) * stream.time_base)
            begin = seconds if begin is None else begin
            if index >= first:
                yield Frame(index, seconds - begin, image)
        promised, got = self._address.duration, 0.0 if seconds is None else seconds - begin
        if got + 1 / float(self.rate) < promised - _END_MARGIN:
            raise DataError(f"broke off at second {got:.1f} of {promised:.1f}", self.name)


class LiveSource(VideoSource):
    """A camera or a stream: what comes in while nobody takes it is dropped, the oldest first.

    Args:
        images: uint8 RGB (H, W, 3), each as soon as there is one.
        clock: seconds, as of time.monotonic.
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
        self._began: float | None = None
        self._waiting: Channel[Frame] = Channel(_WAITING_FRAMES, lossy=True)

    @property
    def dropped(self) -> int:
        """Frames that nobody took in time."""
        return self._waiting.dropped

    def now(self) -> float:
        """As of VideoSource."""
        return 0.0 if self._began is None else self._clock() - self._began

    def close(self) -> None:
        """As of VideoSource."""
        self._waiting.close()

    def frames(self, first: int = 0, wanted: np.ndarray | None = None) -> Iterator[Frame]:
        """As of VideoSource. A frame's number is its time by the rate, so that gaps show."""
        thread = threading.Thread(target=self._capture, daemon=True)
        thread.start()
        last = first - 1
        try:
            while frames := self._waiting.take():
                if frames[0].index > last:
                    last = frames[0].index
                    yield frames[0]
        finally:
            self._waiting.close()

    def _capture(self) -> None:
        index = -1
        try:
            for image in self._images:
                if self._began is None:
                    self._began = self._clock()
                seconds = self.now()
                # Frames that came in a bunch follow one another.
                index = max(round(seconds * self.rate), index + 1)
                self._waiting.put(Frame(index, seconds, image))
        except Closed:
            pass
        except (av.FFmpegError, OSError) as error:
            self._waiting.end(url_error(self.name, error))
        except BaseException as error:
            self._waiting.end(error)
        else:
            self._waiting.end()


def video_id(video: str | Path) -> str:
    """The last part of a name without suffix; of a pattern of images the folder's; of addresses and cameras a
    name that every file system takes."""
    name = str(video)
    if is_pattern(Path(name).name):
        return Path(name).parent.resolve().name
    if _is_camera_number(name):
        return f"camera_{name}"
    if is_address(name):
        parts = split_address(name)
        stem = PurePosixPath(unquote(parts.path)).stem or parts.hostname or "stream"
        return re.sub(r"[^\w.-]", "_", stem)
    return Path(name).stem


def is_live(address: str) -> bool:
    """Whether a name is that of a camera (a number, or a device) or of a stream."""
    return _is_camera_number(address) or address.startswith((_CAMERA, *LIVE))


def _is_camera_number(name: str) -> bool:
    return name.isdecimal() and not Path(name).exists()


def open_source(video: str | Path, reader: str = "auto") -> VideoSource:
    """The source of that name.

    Args:
        video: what `open_video` takes, or the http(s) address of a video file, an address of a stream (rtsp,
            rtmp, udp, rtp), a camera's number or device. A number that is a file's name is the file.
        reader: of files; a name of the reader registry, or "auto".

    Raises:
        DataError: it cannot be read.
    """
    name = str(video)
    if _is_camera_number(name) or name.startswith(_CAMERA):
        images, rate = _open_camera(name)
        return LiveSource(images, rate, name)
    if name.startswith((*WEB, *LIVE)):
        try:
            address = NetworkVideo(name)
        except NotStreamableError:
            if name.startswith(LIVE):
                raise
            logger.info("%s: is fetched first, as its index stands at its end", name)
        else:
            if not (name.startswith(WEB) and address.has_end):
                return LiveSource(address.images(), address.stream.average_rate or _DEFAULT_RATE, name)
            if address.tells_times:
                return WebSource(address)
            address.container.close()
            logger.info("%s: is fetched first, as only all of it tells when its frames are shown", name)
    return FileSource(open_video(video, reader))


def _open_camera(name: str) -> tuple[Iterator[np.ndarray], Fraction]:
    import cv2

    is_number = name.isdecimal()
    camera = None
    if not is_number or len(name) < 10:  # OpenCV takes 31 bits
        camera = cv2.VideoCapture(int(name) if is_number else name)
    if camera is None or not camera.isOpened():
        raise DataError("there is no camera of this number or name, or another program holds it", name)
    said = camera.get(cv2.CAP_PROP_FPS)
    rate = Fraction(said).limit_denominator(1001) if np.isfinite(said) and said > 0 else _DEFAULT_RATE
    return _camera_images(camera), rate


def _camera_images(camera: object) -> Iterator[np.ndarray]:
    import cv2

    try:
        while True:
            found, image = camera.read()
            if not found:
                return
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        camera.release()


_FORMATS = ",".join((FORMATS, "mjpeg,mpjpeg,rtsp,rtp,sdp"))
_ONE_CLOCK = ("mov", "matroska")  # containers that state when each frame is shown, on a clock without breaks
_PROTOCOLS = "http,https,httpproxy,tcp,tls,udp,rtp,rtmp,rtsp,crypto"
_WAIT = (20.0, 20.0)  # seconds for a connection, and for more data
# Over UDP, lost packets spoil pictures: TCP first, and UDP where a server refuses it (status 461).
_RTSP = {"rtsp_flags": "prefer_tcp"}


class NotStreamableError(DataError):
    """A file at an address that can only be read after all of it was fetched."""


class NetworkVideo:
    """An open address.

    Attributes:
        name: the address.
        container, stream: what FFmpeg opened, and the video in it.
        duration: seconds, as its header states them; else 0.

    Raises:
        DataError: it cannot be read, or holds no video.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": _PROTOCOLS}
        if name.startswith(("rtsp://", "rtsps://")):
            options |= _RTSP
        try:
            self.container = av.open(name, options=options, timeout=_WAIT, metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError) as error:
            if getattr(error, "errno", None) == errno.EIO:
                raise NotStreamableError(
                    "cannot be read: it breaks off, or its server gives no parts", name
                ) from None
            raise url_error(name, error) from None
        stream = choose_stream(self.container)
        if stream is None or stream.codec_context is None:
            self.container.close()
            raise DataError("holds no video stream", name)
        stream.codec_context.thread_count = 1
        self.stream = stream
        own, whole = stream.duration, self.container.duration or 0
        self.duration = float(own * stream.time_base) if own else whole / av.time_base

    @property
    def has_end(self) -> bool:
        """Whether it is a file, and no camera: its header or its server states its length."""
        if self.duration or self.container.size > 0:
            return True
        warn_once(self.name, "states no length, so it is read as a live stream, by the clock of this machine")
        return False

    @property
    def tells_times(self) -> bool:
        """Whether frames can be timed while they come in, as a reader of the whole file would."""
        return self.container.format.name.startswith(_ONE_CLOCK)

    def pictures(self) -> Iterator[tuple[int | None, np.ndarray]]:
        """Time stamps and frames as players show them, uint8 RGB (H, W, 3), all of the first one's size.

        What cannot be decoded is skipped. The address is closed at the end.

        Raises:
            DataError: nothing more can be read.
        """
        size = None
        try:
            for packet in self.container.demux(self.stream):
                try:
                    frames = packet.decode()
                except av.InvalidDataError:
                    continue
                for frame in frames:
                    if size is None:
                        size = square_pixel_size(self.stream, frame.width, frame.height)
                        warn_if_hdr(self.name, frame.color_trc)
                    image = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
                    yield frame.pts, np.ascontiguousarray(orientation_of(frame).apply(image))
        except (av.FFmpegError, OSError) as error:
            raise url_error(self.name, error) from None
        finally:
            self.container.close()

    def images(self) -> Iterator[np.ndarray]:
        """The frames of `pictures` alone."""
        for _, image in self.pictures():
            yield image


def url_error(address: str, error: Exception) -> DataError:
    """The error of an address that cannot be read, or not any further."""
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, av.ExitError):
        reason = f"nothing came for {_WAIT[1]:.0f} seconds"
    return DataError(f"cannot be read: {' '.join(str(reason).split())[:160]}", address)
