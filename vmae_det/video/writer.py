"""H.264 video files from RGB frames, at their true times and with the sound of the video they came from."""

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
from vmae_det.utils.paths import is_address

logger = logging.getLogger(__name__)

# Of the file's clock, at least: a frame's period is a whole number of ticks, so that a constant rate is met
# exactly, and a varying one to half a tick.
TICKS_PER_SECOND = 10_000
_BT709 = 1  # the code of this colour space in H.264 (Rec. ITU-T H.264, table E-3)
_LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG


class VideoWriter:
    """Writes frames to an mp4 file that every player opens: H.264, 4:2:0, index at the front.

    Use it as a context manager. The file appears under its name when the block ends, and not at all when the
    block raises or writes no frame.

    Args:
        path: the mp4 file; its folder is made if needed.
        width, height: of the frames. Odd sizes, which 4:2:0 cannot hold, gain a repeated column or row.
        fps: frames a second.
        audio_from: a media file, or its address, whose sound is copied as it is, over the span of the frames
            written. A file without sound gives a silent video; so does, with a warning, a coding that mp4
            cannot hold.
        key_every: frames from one key frame to the next, at most.

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
    ) -> None:
        self.path = Path(path)
        self.key_every = key_every
        self.width, self.height = width, height
        # Holds every standard rate; averages over uneven files have terms too long for the clock of an mp4.
        self.fps = Fraction(fps).limit_denominator(1001)
        self._period = math.ceil(TICKS_PER_SECOND / self.fps)  # of a frame, in ticks
        self._tick = 1 / (self.fps * self._period)  # seconds
        self._start: Fraction | None = None  # of the first frame, on the source's clock
        self._last: int | None = None  # of the last frame, in ticks
        self._sound: _SoundCopy | None = None
        with ExitStack() as stack:
            part = stack.enter_context(atomic_write(self.path))
            with self._naming_path():
                self._file = av.open(
                    _local(part), "w", format="mp4", container_options={"movflags": "+faststart"}
                )
            stack.callback(self._close)
            self._stream = self._add_video_stream()
            if audio_from is not None:
                self._sound = _SoundCopy.open(audio_from, self._file)
            self._stack = stack.pop_all()

    def _add_video_stream(self) -> av.VideoStream:
        # Quality nearly that of the source; "veryfast" keeps pace with 1080p on two cores.
        options = {"crf": "20", "preset": "veryfast", "g": str(self.key_every)}
        stream = self._file.add_stream("libx264", rate=self.fps, options=options)
        stream.width, stream.height = self.width + self.width % 2, self.height + self.height % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = self._tick
        # Said explicitly: players guess the colour space of an untagged file from its size.
        stream.codec_context.colorspace = _BT709
        stream.codec_context.color_primaries = _BT709
        stream.codec_context.color_trc = _BT709
        stream.codec_context.color_range = _LIMITED_RANGE
        return stream

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Append a frame.

        Args:
            frame: uint8 RGB (height, width, 3).
            time: seconds on the clock of `audio_from` at which the frame is shown; without it, one frame
                period after the frame before (the first: at 0). A time that does not grow is moved up.

        Raises:
            DataError: the frame has another size than the video.
            UserError: the file cannot be written, for instance because the disk is full.
        """
        if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
            raise DataError(
                f"a frame is {frame.dtype} {frame.shape}, expected uint8 {(self.height, self.width, 3)}: "
                "all frames of a video must have one size",
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
            if self._sound is not None:
                self._sound.copy(self._start, self._start + (ticks + self._period) * self._tick)

    def _encode(self, picture: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(picture):
            packet.duration = self._period  # else the last frame has none, and the rate seems higher
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
                raise DataError("no frame was given to write", self.path)
            with self._naming_path():
                self._encode(None)
                self._file.close()

    def _close(self) -> None:
        """Close what is open. Errors of the file do not matter here: it is complete, or thrown away."""
        if self._sound is not None:
            self._sound.close()
        with suppress(av.FFmpegError):
            self._file.close()

    @contextmanager
    def _naming_path(self) -> Iterator[None]:
        """Orientation an error of the file system into one that names the file and what to look at."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror or error}); "
                "check that the folder may be written to and that the disk has room"
            ) from error


def _local(path: str | Path) -> str:
    """A path as FFmpeg takes it for one: what comes before a colon is else a protocol."""
    return str(path) if is_address(path) else str(Path(path).absolute())


class _SoundCopy:
    """The packets of a file's first audio stream, passed on to another file without decoding them."""

    def __init__(self, source: av.container.InputContainer, target: av.container.OutputContainer) -> None:
        self._source, self._target = source, target
        self._packets = source.demux(source.streams.audio[0])
        self._stream = target.add_stream_from_template(source.streams.audio[0])
        self._waiting: av.Packet | None = None
        self._last: int | None = None  # decoding time of the last packet passed on, as in the source

    @classmethod
    def open(cls, path: str | Path, target: av.container.OutputContainer) -> _SoundCopy | None:
        """Ready to copy the sound of `path`; None where it has none, or none that fits into `target`."""
        try:
            source = av.open(_local(path))
        except av.FFmpegError as error:
            raise DataError(f"cannot be opened for its sound ({error.strerror or error})", path) from error
        if source.streams.audio:
            coding = source.streams.audio[0].codec_context.name
            if coding in target.supported_codecs:
                return cls(source, target)
            logger.warning("%s: its sound (%s) does not fit into mp4; the video is silent", path, coding)
        source.close()
        return None

    def copy(self, start: Fraction, end: Fraction) -> None:
        """Pass on the packets that begin before `end`, less those over before `start`, the new time 0."""
        while packet := self._next():
            begin = packet.pts * packet.time_base
            if begin >= end:
                self._waiting = packet
                return
            over = begin + (packet.duration or 0) * packet.time_base <= start
            if not over and (
                self._last is None or packet.dts > self._last
            ):  # damaged files jump back in time
                self._last = packet.dts
                shift = round(start / packet.time_base)
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = self._stream
                self._target.mux(packet)

    def _next(self) -> av.Packet | None:
        """The next packet with a time; None at the end, or where the file is damaged."""
        packet, self._waiting = self._waiting, None
        try:
            while packet is None or packet.pts is None or packet.dts is None:
                packet = next(self._packets)
        except StopIteration:
            return None
        except av.FFmpegError:
            logger.warning("%s: the rest of its sound is damaged and left out", self._source.name)
            return None
        return packet

    def close(self) -> None:
        self._source.close()
