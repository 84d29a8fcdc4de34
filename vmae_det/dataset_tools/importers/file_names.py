"""Video ids and frame numbers in file names, as annotation tools write them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from vmae_det.formats.box_csv import is_video_name
from vmae_det.utils.errors import DataError, quoted
from vmae_det.utils.file_types import VIDEO_SUFFIXES

_FRAME = re.compile(r"(?P<prefix>.*?)[_\-. ]?(?P<frame>[0-9]{1,9})")
_GENERIC = frozenset(("", "frame", "frames", "img", "image", "images"))
# Roboflow renames frame 12 of VIDEO.mp4 to VIDEO_mp4-0012_jpg.rf.HASH.jpg.
_ROBOFLOW = re.compile(r"(?P<name>.+)_(?:jpe?g|png|bmp|webp|tiff?)\.rf\.[0-9A-Za-z]{16,64}", re.IGNORECASE)
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?P<name>.+)")


def video_id(text: str) -> str:
    """Return the id of a video from its path or URL: the file name without suffix.

    Label Studio's forms are supported: `/data/local-files/?d=a/b.mp4` and `/data/upload/1/0123abcd-b.mp4`.

    Raises:
        DataError: the file name cannot be an id in AVA's CSV.
    """
    path = text.replace("\\", "/")
    if "?d=" in path or "://" in path:
        try:
            parts = urlsplit(path)
            path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
        except ValueError:  # such as http://[
            pass
    name = PurePosixPath(path).name
    uploaded = _UPLOADED.fullmatch(name) if "/upload/" in path else None
    name = uploaded["name"] if uploaded else name
    suffix = PurePosixPath(name).suffix
    stem = name.removesuffix(suffix) if suffix.lower() in VIDEO_SUFFIXES else name
    if not is_video_name(stem) or "," in stem:
        raise DataError(f"expected the name of a video file (without commas and quotes), got {quoted(text)}")
    return stem


def parse_image_name(text: str) -> tuple[str | None, int]:
    """Return video id and frame number of an image, VIDEO_000123.jpg or VIDEO/000123.jpg.

    VIDEO/frame_000123.jpg and Roboflow's names are supported. The id is None if the name contains only the
    number.

    Raises:
        DataError: the name does not end in a number.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    roboflow = _ROBOFLOW.fullmatch(path.stem)
    match = _FRAME.fullmatch(roboflow["name"] if roboflow else path.stem)
    if not match:
        raise DataError(f"expected an image named VIDEO_000123.jpg or VIDEO/000123.jpg, got {quoted(text)}")
    frame = int(match["frame"])
    prefix = match["prefix"]
    if roboflow:
        stem, _, suffix = prefix.rpartition("_")
        prefix = stem if f".{suffix.lower()}" in VIDEO_SUFFIXES else prefix
    if prefix.lower() not in _GENERIC:
        return video_id(prefix), frame
    folder = path.parent.name
    return (None if folder.lower() in _GENERIC else video_id(folder)), frame


class UniqueFiles:
    """Checks that each video, or each frame of a video, is one file, so that boxes of two are not mixed."""

    def __init__(self) -> None:
        self._files: dict[tuple[str | None, int | None], str] = {}

    def add(self, video: str | None, text: str, frame: int | None = None) -> None:
        """Record the file of a video, or the image of one of its frames.

        Raises:
            DataError: another file is the same video or frame.
        """
        path = text.replace("\\", "/")
        first = self._files.setdefault((video, frame), path)
        if first != path:
            what = "the video" if frame is None else f"frame {frame} of the video"
            name = "" if video is None else f" '{video}'"
            raise DataError(f"{quoted(path)} and {quoted(first)} are both {what}{name}; rename one of them")
