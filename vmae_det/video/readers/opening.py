"""A path, of whatever kind, to an open video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from vmae_det.utils.paths import local_path
from vmae_det.utils.registry import lookup
from vmae_det.video.readers.image_folder import is_pattern
from vmae_det.video.readers.interface import READER_REGISTRY, Source, VideoReader, missing, unreadable
from vmae_det.video.readers.tar_shard import find_in_shard


def open_video(
    path: str | Path | Source,
    reader: str = "auto",
    *,
    short_side: int | None = None,
    rate: Fraction | float | None = None,
) -> VideoReader:
    """Open a video with the reader of that name.

    Args:
        path: a video file, an address that iopath knows, `shard.tar/KEY.mp4` for a video in a tar shard, or a
            folder of frames or a printf pattern of them such as `frames/img_%05d.jpg`, which the reader
            "images" reads whatever `reader` says; or what `find_source` gave.
        reader: "auto" is PyAV.
        short_side: pixels; larger frames come reduced to it, their aspect kept, and smaller ones as they are.
        rate: frames per second of a folder of frames that has no rate.txt.

    Raises:
        DataError: there is no such video, or it cannot be read.
        ConfigError: there is no such reader.
    """
    opened = lookup(READER_REGISTRY, "pyav" if reader == "auto" else reader, "DATALOADER.READER")
    known_rate = None if rate is None else Fraction(rate).limit_denominator(1001)
    try:
        source = path if isinstance(path, Source) else find_source(path, known_rate)
        if source.file.is_dir():
            opened = READER_REGISTRY.get("images")
        return opened(source, short_side)
    except OSError as error:
        raise unreadable(getattr(path, "path", path), error) from None


def find_source(path: str | Path, rate: Fraction | None = None) -> Source:
    """Where the bytes of a video lie; DataError if there is no such video."""
    path = local_path(path)
    if path.exists():
        return Source(path, path, rate=rate)
    if is_pattern(path.name) and path.parent.is_dir():
        return Source(path, path.parent, rate=rate, pattern=path.name)
    shard = next((parent for parent in path.parents if parent.suffix == ".tar" and parent.is_file()), None)
    if shard is None:
        raise missing(path)
    start, size = find_in_shard(shard, path.relative_to(shard).as_posix())
    return Source(path, shard, start, size)
