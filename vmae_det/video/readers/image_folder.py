"""A folder of frames as a video, such as those that SlowFast extracts from AVA."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.utils.file_types import IMAGE_SUFFIXES
from vmae_det.utils.input_files import read_text
from vmae_det.video.readers.base import (
    FRAME_NUMBER,
    READER_REGISTRY,
    VideoLocation,
    VideoReader,
    reduced_size,
    warn_once,
)

_LAST_NUMBER = re.compile(r"(?P<before>.*?)(?P<number>[0-9]+)(?P<after>[^0-9]*)")
_RATE = re.compile(r"[0-9]{1,6}(\.[0-9]{1,12})?|[0-9]{1,9}/[0-9]{1,9}")
_IMAGE_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # of EXIF: the tag, and values that exchange the sides
DEFAULT_RATE = Fraction(30)  # of SlowFast's frames of AVA: ffmpeg -r 30


@READER_REGISTRY.register_as("images")
class ImageFolderReader(VideoReader):
    """Reads the images of a folder in the natural order of their names (2 before 10) as frames.

    Where images are missing among those that are numbered one after the other, the others are shown when
    their numbers say. The rate is that of the folder's rate.txt, a number or a fraction such as 30000/1001,
    else the source's, else 30.
    """

    def __init__(self, source: VideoLocation, short_side: int | None = None) -> None:
        if not source.file.is_dir():
            raise ConfigError(f"DATALOADER.READER: images reads folders, and {source.path} is a file")
        self.path = source.path
        files = [p for p in source.file.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."]
        if source.pattern is not None:
            named = pattern_expression(source.pattern)
            files = [path for path in files if named.fullmatch(path.name)]
        if not files:
            what = "there are no images of this name" if source.pattern else "a folder without images"
            raise DataError(what, self.path)
        self.files = sorted(files, key=lambda path: natural_key(path.name))
        _check_names(self.files, self.path)
        self.rate = _read_rate(source.file / "rate.txt") or source.rate or DEFAULT_RATE
        self.times = _places(self.files, self.path) / float(self.rate)
        self._short_side = short_side

    def _read(self, wanted: np.ndarray) -> np.ndarray:
        frames = None
        for place, index in enumerate(wanted):
            size, image = _read_image(self.files[index], self._short_side)
            if frames is None:
                first, frames = size, np.empty((len(wanted), *image.shape), dtype=np.uint8)
            if size != first:
                raise DataError(
                    f"got {size[0]} x {size[1]} pixels, expected {first[0]} x {first[1]} as in others",
                    self.files[index],
                )
            frames[place] = image
        return frames


def _check_names(files: list[Path], folder: Path) -> None:
    """DataError where a frame is there twice, as 1.jpg and 1.png."""
    by_stem = {}
    for file in files:
        other = by_stem.setdefault(file.stem, file)
        if other is not file:
            raise DataError(f"{other.name} and {file.name} have one name; keep one of each two", folder)


def _places(files: list[Path], folder: Path) -> np.ndarray:
    """Numbers of frames (n,) from the first image on: those in their names less the first one's.

    Where the last number of the names is not all that differs, or leaves out more than there is, as times of
    day do, or keeps one step, it is the images' order.
    """
    order, count = np.arange(len(files)), len(files)
    names = [_LAST_NUMBER.fullmatch(path.stem) for path in files]
    if not all(names) or len({name["before"] + "\n" + name["after"] for name in names}) > 1:
        return order
    numbers = [int(name["number"]) for name in names]
    steps = {after - before for before, after in itertools.pairwise(numbers)}
    if min(steps, default=0) <= 0 or len(steps) == 1:
        return order
    missing = numbers[-1] - numbers[0] + 1 - count
    if missing > count:
        warn_once(
            folder,
            f"numbers of its images leave out {missing}, so their order alone says when they are shown",
        )
        return order
    warn_once(
        folder, f"{missing} images are missing among its {count}; the others are shown when their numbers say"
    )
    return np.array([number - numbers[0] for number in numbers])


def pattern_expression(pattern: str) -> re.Pattern[str]:
    """What a printf pattern such as img_%05d.jpg matches."""
    before, width, after = FRAME_NUMBER.split(pattern, maxsplit=1)
    digits = rf"\d{{{int(width)},}}" if width else r"\d+"
    return re.compile(re.escape(before) + digits + re.escape(after))


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """A sort key by which numbers in names count as numbers."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image, as it is shown."""
    try:
        with Image.open(path) as image:
            return _shown_size(image)
    except _IMAGE_ERRORS as error:
        raise _bad_image(path, error) from None


def _bad_image(path: Path, error: Exception) -> DataError:
    return DataError(f"cannot be read as an image: {str(error).replace(str(path), 'it')}", path)


def _shown_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE
    return image.size[::-1] if turned else image.size


def _read_image(path: Path, short_side: int | None) -> tuple[tuple[int, int], np.ndarray]:
    """Width and height in the file, and uint8 RGB (H, W, 3), reduced; both turned as EXIF says."""
    try:
        with Image.open(path) as image:
            size = _shown_size(image)
            stored = reduced_size(*image.size, short_side)
            if stored != image.size:
                image.draft("RGB", stored)  # JPEG: decodes at 1/2, 1/4 or 1/8 where that is still enough
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to 8
                rgb = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            else:
                rgb = image.convert("RGB")
    except _IMAGE_ERRORS as error:
        raise _bad_image(path, error) from None
    reduced = reduced_size(*size, short_side)
    if rgb.size != reduced:
        rgb = rgb.resize(reduced, Image.Resampling.BOX)
    return size, np.asarray(rgb)


def _read_rate(path: Path) -> Fraction | None:
    if not path.is_file():
        return None
    text = read_text(path, "frames per second").strip()
    try:
        rate = Fraction(text) if _RATE.fullmatch(text) else Fraction(0)
    except ZeroDivisionError:
        rate = Fraction(0)
    if rate <= 0:
        raise DataError(f"expected frames per second, such as 30 or 30000/1001, got '{text[:40]}'", path)
    return rate
