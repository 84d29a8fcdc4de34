"""Video files opened through FFmpeg: which formats are read, and which of a file's streams is its video."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import av

from vmae_det.video.readers.interface import Source, unreadable

# Bare streams of a codec, without the times and sizes that a container keeps.
RAW_FORMATS = ("h264", "hevc", "m4v", "mpegvideo")
# Demuxers of video files. FFmpeg knows more, some of which open other files, or take a picture for a video.
FORMATS = ",".join(("mov,matroska,avi,mpegts,mpeg,asf,flv,ogg", *RAW_FORMATS))
# To open a file that is known: FFmpeg shall look at no packet, and decode none, to find out about streams.
_HASTE, _NO_DECODING, _MAX_STREAMS = {"probesize": "32"}, {"skip_frame": "all"}, 8
_READ_ERRORS = (av.FFmpegError, OSError, ValueError)
_Disposition = av.stream.Disposition
_PICTURES = _Disposition.attached_pic | _Disposition.timed_thumbnails | _Disposition.still_image


class VideoFile:
    """An open file: `container`, and `stream`, its video, which decodes on one thread.

    Args:
        reorder_depth: of the stream, where it is known; spares the decoding by which FFmpeg finds out about a
            file.

    Raises:
        DataError: it cannot be read, or holds no video.
    """

    def __init__(self, source: Source, reorder_depth: int | None = None) -> None:
        self._source = source
        if reorder_depth is not None:
            self.container, self.stream = _open(source, _HASTE, [_NO_DECODING] * _MAX_STREAMS)
            if self.stream.codec_context.reorder_depth == reorder_depth:
                return
            self.container.close()
        self.container, self.stream = _open(source)

    def rewind(self) -> None:
        """Back to the first byte: anew, as not every container can seek to its beginning."""
        before = self.container
        self.container, self.stream = _open(self._source)
        before.close()

    def packets(self) -> Iterator[av.Packet]:
        """Packets up to the end, or to where the file cannot be read further, and an empty one."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except av.InvalidDataError:
                return
            if packet is None:
                return
            yield packet

    def __del__(self) -> None:
        # Containers and their streams hold each other: without this, memory grows until Python collects.
        if hasattr(self, "container"):
            self.container.close()


def choose_stream(
    container: av.container.InputContainer, pictures: Collection[int] = ()
) -> av.VideoStream | None:
    """The video that players show: no cover or thumbnail, the default one, the largest; None if there is
    none.

    Args:
        pictures: indices of streams that hold one picture, where the file does not state numbers of frames.
    """
    streams = _videos(container)
    return max(streams, key=lambda stream: _rank(stream, stream.index in pictures), default=None)


def _videos(container: av.container.InputContainer) -> list[av.VideoStream]:
    return [stream for stream in container.streams.video if not stream.disposition & _PICTURES]


def _rank(stream: av.VideoStream, is_picture: bool) -> tuple[bool, bool, bool, int]:
    context = stream.codec_context
    if context is None:
        return False, False, False, 0
    is_default = bool(stream.disposition & _Disposition.default)
    return True, stream.frames != 1 and not is_picture, is_default, context.width * context.height


def _open(
    source: Source, options: dict[str, str] | None = None, stream_options: list[dict[str, str]] | None = None
) -> tuple[av.container.InputContainer, av.VideoStream]:
    if size_of(source) == 0:
        raise unreadable(source.path, "it is empty")
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file,subfile"} | (options or {})

    def opened() -> av.container.InputContainer:
        try:
            return av.open(
                source.address, options=options, stream_options=stream_options, metadata_errors="replace"
            )
        except _READ_ERRORS as error:
            raise unreadable(source.path, _cause(source, error)) from None

    container = opened()
    pictures: set[int] = set()
    videos = _videos(container)
    if len(videos) > 1 and not all(stream.frames for stream in videos):
        pictures = _find_pictures(container, videos)
        container.close()
        container = opened()
    stream = choose_stream(container, pictures)
    if stream is None or stream.codec_context is None:
        container.close()
        raise unreadable(
            source.path, "its video is of an unknown codec" if stream else "holds no video stream"
        )
    stream.codec_context.thread_count = 1
    return container, stream


def _find_pictures(container: av.container.InputContainer, videos: list[av.VideoStream]) -> set[int]:
    """Indices of those videos that have fewer than two packets; reads up to the second one of each."""
    counts = {stream.index: 0 for stream in videos}
    try:
        for packet in container.demux(videos):
            counts[packet.stream.index] += packet.size > 0
            if min(counts.values()) > 1:
                break
    except _READ_ERRORS:
        pass  # the file breaks off here, for those who read its frames too
    return {index for index, count in counts.items() if count < 2}


def size_of(source: Source) -> int:
    """Bytes; DataError if the file is not there."""
    try:
        return source.file.stat().st_size if source.size is None else source.size
    except OSError as error:
        raise unreadable(source.path, error) from None


def _cause(source: Source, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, av.ArgumentError):  # a format that is not in the list
        reason = "not a format of video files that is read here; if it is a video, convert it to mp4"
    return f"{reason} ({size_of(source)} bytes)"
