"""Videos at addresses, through FFmpeg: files of the web, and streams that never end."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import av
import numpy as np

from vmae_det.utils.errors import DataError
from vmae_det.video.readers.geometry import square_size, turn_of
from vmae_det.video.readers.notices import warn, warn_of_colours
from vmae_det.video.readers.video_file import FORMATS, choose_stream

_FORMATS = ",".join((FORMATS, "mjpeg,mpjpeg,rtsp,rtp,sdp"))
_ONE_CLOCK = ("mov", "matroska")  # containers that state when each frame is shown, on a clock without breaks
_PROTOCOLS = "http,https,httpproxy,tcp,tls,udp,rtp,rtmp,rtsp,crypto"
_WAIT = (20.0, 20.0)  # seconds for a connection, and for more data
# Over UDP, lost packets spoil pictures: TCP first, and UDP where a server refuses it (status 461).
_RTSP = {"rtsp_flags": "prefer_tcp"}


class SeekError(DataError):
    """A file at an address that can only be read after all of it was fetched."""


class Address:
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
                raise SeekError("cannot be read: it breaks off, or its server gives no parts", name) from None
            raise unreachable(name, error) from None
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
        warn(self.name, "states no length, so it is read as a live stream, by the clock of this machine")
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
                        size = square_size(self.stream, frame.width, frame.height)
                        warn_of_colours(self.name, frame.color_trc)
                    image = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
                    yield frame.pts, np.ascontiguousarray(turn_of(frame).apply(image))
        except (av.FFmpegError, OSError) as error:
            raise unreachable(self.name, error) from None
        finally:
            self.container.close()

    def images(self) -> Iterator[np.ndarray]:
        """The frames of `pictures` alone."""
        for _, image in self.pictures():
            yield image


def unreachable(address: str, error: Exception) -> DataError:
    """The error of an address that cannot be read, or not any further."""
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, av.ExitError):
        reason = f"nothing came for {_WAIT[1]:.0f} seconds"
    return DataError(f"cannot be read: {' '.join(str(reason).split())[:160]}", address)
