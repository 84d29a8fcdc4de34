"""The video of a page: as it is where browsers play it, else as H.264; in the page while it is small."""

from __future__ import annotations

import base64
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from tqdm import tqdm

from vmae_det.utils.errors import DataError
from vmae_det.utils.output_files import atomic_write
from vmae_det.video.readers import VideoReader
from vmae_det.video.readers.base import locate_video
from vmae_det.video.readers.video_file import VideoFile
from vmae_det.video.writer import VideoWriter

EMBED_BYTES = 16 * 2**20  # a page of this size can still be sent by mail

# What Chromium, Firefox and Safari all play: suffix, and codecs by the container's name in FFmpeg.
_PLAYED = {
    "mov,mp4,m4a,3gp,3g2,mj2": (".mp4", {"h264", "vp9", "av1"}),
    "matroska,webm": (".webm", {"vp8", "vp9", "av1"}),
}
_PIXELS = {"yuv420p", "yuvj420p"}


@dataclass(frozen=True)
class PageVideo:
    """A video as a page refers to it.

    Args:
        address: relative to the page, percent-encoded; '' where `content` holds the video.
        content: the file's bytes in base64, or ''.
        media_type: as browsers call it, such as video/mp4.
        start: second of the file's clock at which frame 0 of the reader is shown.
    """

    address: str
    content: str
    media_type: str
    start: float


def add_video(reader: VideoReader, page: Path, progress: bool = False) -> PageVideo:
    """Make the reader's video one that a browser plays from `page`.

    A small file goes into the page. A larger one is referred to where it lies in the page's folder already,
    and else copied there under the page's name,
    with _page where that would replace another video.

    Raises:
        DataError: the video has to be encoded anew, and none of its frames can be decoded.
        UserError: a file cannot be written.
    """
    suffix = played_suffix(reader.path)
    if suffix:
        return _refer(reader.path, reader.path, page, suffix, reader.start)
    with TemporaryDirectory() as folder:
        encoded = Path(folder) / "video.mp4"
        start = _encode(reader, encoded, progress)
        return _refer(encoded, reader.path, page, ".mp4", start)


def played_suffix(path: Path) -> str:
    """The suffix under which every browser plays this file as it is; '' if it must be encoded anew."""
    source = locate_video(path)
    if not source.file.is_file() or source.start is not None:
        return ""
    file = VideoFile(source)
    suffix, codecs = _PLAYED.get(file.container.format.name, ("", ()))
    if len(file.container.streams.video) > 1:
        return ""  # browsers may choose another one
    coding, pixels = file.stream.codec.canonical_name, file.stream.codec_context.pix_fmt
    return suffix if coding in codecs and pixels in _PIXELS else ""


def _refer(video: Path, source: Path, page: Path, suffix: str, start: float) -> PageVideo:
    """`video` is what browsers play of the user's `source`."""
    media_type = f"video/{suffix[1:]}"
    if video.stat().st_size <= EMBED_BYTES:
        return PageVideo("", base64.b64encode(video.read_bytes()).decode("ascii"), media_type, start)
    beside = page.with_suffix(suffix)
    if beside.exists() and (beside.samefile(source) or not page.exists()):  # not of an earlier page
        beside = page.with_name(f"{page.stem}_page{suffix}")
    if video.parent.resolve() == page.parent.resolve() and video.suffix.lower() == suffix:
        beside = video
    else:
        with atomic_write(beside) as temporary:
            shutil.copyfile(video, temporary)
    return PageVideo(quote(os.fsencode(beside.name), safe=""), "", media_type, start)


def _encode(reader: VideoReader, path: Path, progress: bool) -> float:
    """Write the frames as H.264, with their sound; gives the second of the new file that is frame 0's."""
    first, writer = 0.0, None
    with ExitStack() as stack:
        hidden = None if progress else True
        bar = stack.enter_context(tqdm(total=len(reader), desc="encoding", unit="frame", disable=hidden))
        for index, frame in reader.stream():
            time = float(reader.times[index])
            if writer is None:
                height, width = frame.shape[:2]
                # A key frame each second bounds how long a jump takes.
                second = max(round(reader.rate), 1)
                writer = stack.enter_context(
                    VideoWriter(path, width, height, reader.rate, reader.sound, second)
                )
                first = time  # where frames before it are damaged, not 0
            writer.write(frame, reader.start + time)
            bar.update(index + 1 - bar.n)
    if writer is None:
        raise DataError("none of its frames can be decoded", reader.path)
    return -first
