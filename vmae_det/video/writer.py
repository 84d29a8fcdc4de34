"""Write H.264 video files from RGB frames, at their exact times and with the audio of the original video."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np
from av.video.reformatter import Colorspace

from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.output_files import atomic_write
from vmae_det.utils.paths import is_url

logger = logging.getLogger(__name__)

# Minimum clock rate. A frame period is an integer number of ticks, so that a constant rate is exact, and
# times of a variable rate are exact to half a tick.
TICKS_PER_SECOND = 10_000
_BT709 = 1  # code of this color space in H.264 (Rec. ITU-T H.264, table E-3)
_LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG


class VideoWriter:
    """Writes frames to an mp4 file that every player opens: H.264, 4:2:0, index at the front.

    Use it as a context manager. The file appears under its name when the block ends. It does not appear if
    the block raises an error or writes no frame.

    Args:
        path: the mp4 file. Its folder is created if needed.
        width, height: size of the frames. Odd sizes, which 4:2:0 does not support, get an extra column or
            row.
        fps: frames per second.
        audio_from: path or URL of a media file. Its audio is copied without re-encoding, for the time span of
            the written frames. If it has no audio, or (with a warning) an audio codec that mp4 does not
            support, the video is silent.
        key_every: maximum number of frames from one key frame to the next.
        crf: quality, from 0 (lossless) to 51; 6 more halve the size. The default is close to the source.

    Raises:
        UserError: the file cannot be written.
        DataError: `audio_from` cannot be read.
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        fps: Fraction,
        audio_from: str | Path | None = None,
        key_every: int = 250,
        crf: int = 20,
    ) -> None:
        self.path = Path(path)
        self.key_every = key_every
        self.crf = crf
        self.width, self.height = width, height
        # Represents every standard rate. Measured averages may have terms too large for the clock of an mp4.
        self.fps = Fraction(fps).limit_denominator(1001)
        self._period = math.ceil(TICKS_PER_SECOND / self.fps)  # of a frame, in ticks
        self._tick = 1 / (self.fps * self._period)  # seconds
        self._start: Fraction | None = None  # time of the first frame on the clock of the audio
        self._last: int | None = None  # time of the last frame, in ticks
        self._audio: _AudioCopy | None = None
        with ExitStack() as stack:
            part = stack.enter_context(atomic_write(self.path))
            with self._naming_path():
                self._file = av.open(
                    _ffmpeg_name(part), "w", format="mp4", container_options={"movflags": "+faststart"}
                )
            stack.callback(self._close)
            self._stream = self._add_video_stream()
            if audio_from is not None:
                self._audio = _AudioCopy.open(audio_from, self._file)
            self._stack = stack.pop_all()

    def _add_video_stream(self) -> av.VideoStream:
        # "veryfast" encodes 1080p in real time on two cores.
        options = {"crf": str(self.crf), "preset": "veryfast", "g": str(self.key_every)}
        stream = self._file.add_stream("libx264", rate=self.fps, options=options)
        stream.width, stream.height = self.width + self.width % 2, self.height + self.height % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = self._tick
        # Tagged explicitly, because players guess the color space of an untagged file from its size.
        stream.codec_context.colorspace = _BT709
        stream.codec_context.color_primaries = _BT709
        stream.codec_context.color_trc = _BT709
        stream.codec_context.color_range = _LIMITED_RANGE
        return stream

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Append a frame.

        Args:
            frame: uint8 RGB (height, width, 3).
            time: time of the frame in seconds on the clock of `audio_from`. The default is one frame period
                after the previous frame, and 0 for the first. A time that does not increase is moved up.

        Raises:
            DataError: the size of the frame differs from that of the video.
            UserError: the file cannot be written, for example because the disk is full.
        """
        if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
            raise DataError(
                f"got a frame {frame.dtype} {frame.shape}, expected uint8 {(self.height, self.width, 3)}: "
                "all frames of a video must have the same size",
                self.path,
            )
        if self._start is None:
            self._start = Fraction(0 if time is None else time)
        if time is None:
            ticks = 0 if self._last is None else self._last + self._period
        else:
            ticks = round((Fraction(time) - self._start) / self._tick)
            ticks = ticks if self._last is None else max(ticks, self._last + 1)
        self._last = ticks

        bottom, right = self.height % 2, self.width % 2
        if bottom or right:
            frame = cv2.copyMakeBorder(frame, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
        picture.pts, picture.time_base = ticks, self._tick
        with self._naming_path():
            self._encode(picture)
            if self._audio is not None:
                self._audio.copy(self._start, self._start + (ticks + self._period) * self._tick)

    def _encode(self, picture: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(picture):
            packet.duration = self._period  # otherwise the last frame has none, and the rate seems higher
            self._file.mux(packet)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            if self._last is None:
                raise DataError("no frame was written", self.path)
            with self._naming_path():
                self._encode(None)
                self._file.close()

    def _close(self) -> None:
        """Close the open files. Errors do not matter here: the file is complete, or discarded."""
        if self._audio is not None:
            self._audio.close()
        with suppress(av.FFmpegError):
            self._file.close()

    @contextmanager
    def _naming_path(self) -> Iterator[None]:
        """Convert an error of the file system to one that names the file and a remedy."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror or error}); "
                "check the permissions of the folder and the free space of the disk"
            ) from error


def _ffmpeg_name(path: str | Path) -> str:
    """Return an absolute path. FFmpeg interprets the part of a name before a colon as a protocol."""
    return str(path) if is_url(path) else str(Path(path).absolute())


class _AudioCopy:
    """Copies the packets of a file's first audio stream to another file, without decoding."""

    def __init__(self, source: av.container.InputContainer, target: av.container.OutputContainer) -> None:
        self._source, self._target = source, target
        self._packets = source.demux(source.streams.audio[0])
        self._stream = target.add_stream_from_template(source.streams.audio[0])
        self._pending: av.Packet | None = None
        self._last: int | None = None  # DTS of the last copied packet, in the source

    @classmethod
    def open(cls, path: str | Path, target: av.container.OutputContainer) -> _AudioCopy | None:
        """Open `path`. Returns None if it has no audio, or none that `target` supports."""
        try:
            source = av.open(_ffmpeg_name(path))
        except av.FFmpegError as error:
            raise DataError(f"cannot be opened for its audio ({error.strerror or error})", path) from error
        if source.streams.audio:
            codec = source.streams.audio[0].codec_context.name
            if codec in target.supported_codecs:
                return cls(source, target)
            logger.warning("%s: mp4 does not support its audio codec (%s); the video is silent", path, codec)
        source.close()
        return None

    def copy(self, start: Fraction, end: Fraction) -> None:
        """Copy the packets that start before `end` and stop after `start`, which becomes time 0."""
        while packet := self._next():
            begin = packet.pts * packet.time_base
            if begin >= end:
                self._pending = packet
                return
            is_over = begin + (packet.duration or 0) * packet.time_base <= start
            # Timestamps of damaged files may go back.
            if not is_over and (self._last is None or packet.dts > self._last):
                self._last = packet.dts
                shift = round(start / packet.time_base)
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = self._stream
                self._target.mux(packet)

    def _next(self) -> av.Packet | None:
        """Return the next packet with timestamps; None at the end, or where the file is damaged."""
        packet, self._pending = self._pending, None
        try:
            while packet is None or packet.pts is None or packet.dts is None:
                packet = next(self._packets)
        except StopIteration:
            return None
        except av.FFmpegError:
            logger.warning("%s: the rest of its audio is damaged and skipped", self._source.name)
            return None
        return packet

    def close(self) -> None:
        self._source.close()
