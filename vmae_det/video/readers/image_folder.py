"""Reader for a folder of frames, such as those that SlowFast extracts from AVA."""

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
_ORIENTATION, _TRANSPOSED = 0x0112, (5, 6, 7, 8)  # EXIF tag, and its values that swap width and height
DEFAULT_RATE = Fraction(30)  # SlowFast extracts AVA's frames with ffmpeg -r 30


@READER_REGISTRY.register_as("images")
class ImageFolderReader(VideoReader):
    """Reads the images of a folder as frames, in the natural order of their names (2 before 10).

    If some numbers are missing in a sequence of numbered images, the remaining images keep the times
    of their numbers. The frame rate is read from the folder's rate.txt, a number or a fraction such as
    30000/1001. The default is the rate of the location, or 30.
    """

    def __init__(self, location: VideoLocation, short_side: int | None = None) -> None:
        folder = location.file
        if not folder.is_dir():
            raise ConfigError(f"DATALOADER.READER: images reads folders, but {location.path} is a file")
        self.path = location.path
        files = [path for path in folder.iterdir() if _is_image(path)]
        if location.pattern is not None:
            regex = pattern_regex(location.pattern)
            files = [path for path in files if regex.fullmatch(path.name)]
        if not files:
            raise DataError(
                "no image matches this pattern" if location.pattern else "contains no images", self.path
            )
        self.files = sorted(files, key=lambda path: natural_key(path.name))
        _check_unique_stems(self.files, self.path)
        self.rate = _read_rate(folder / "rate.txt") or location.rate or DEFAULT_RATE
        self.times = _frame_numbers(self.files, self.path) / float(self.rate)
        self._short_side = short_side

    def _read(self, wanted: np.ndarray) -> np.ndarray:
        frames = None
        for position, index in enumerate(wanted):
            size, image = _read_image(self.files[index], self._short_side)
            if frames is None:
                first, frames = size, np.empty((len(wanted), *image.shape), dtype=np.uint8)
            if size != first:
                raise DataError(
                    f"got {size[0]} x {size[1]} pixels, expected {first[0]} x {first[1]} as in other frames",
                    self.files[index],
                )
            frames[position] = image
        return frames


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _check_unique_stems(files: list[Path], folder: Path) -> None:
    """Raise DataError if a frame exists twice, such as 1.jpg and 1.png."""
    by_stem = {}
    for file in files:
        other = by_stem.setdefault(file.stem, file)
        if other is not file:
            raise DataError(f"{other.name} and {file.name} are the same frame; keep one of each pair", folder)


def _frame_numbers(files: list[Path], folder: Path) -> np.ndarray:
    """Return the frame number of each image (n,), relative to the first one.

    Numbers in the file names are used if the names differ only in their last number. They are not used if
    they increase by a constant step, or if more numbers are missing than present, as in times of day. Then
    images are counted in order.
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
            folder, f"{missing} numbers are missing in its image names; frame times follow the image order"
        )
        return order
    warn_once(
        folder, f"{missing} images are missing among its {count}; frame times follow the numbers in the names"
    )
    return np.array([number - numbers[0] for number in numbers])


def pattern_regex(pattern: str) -> re.Pattern[str]:
    """Return the regular expression for a printf pattern such as img_%05d.jpg."""
    before, width, after = FRAME_NUMBER.split(pattern, maxsplit=1)
    digits = rf"\d{{{int(width)},}}" if width else r"\d+"
    return re.compile(re.escape(before) + digits + re.escape(after))


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Return a sort key that compares the numbers in names by value."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def image_size(path: Path) -> tuple[int, int]:
    """Return the width and height of an image as displayed."""
    try:
        with Image.open(path) as image:
            return _displayed_size(image)
    except _IMAGE_ERRORS as error:
        raise _image_error(path, error) from None


def _image_error(path: Path, error: Exception) -> DataError:
    return DataError(f"cannot be read as an image: {str(error).replace(str(path), 'it')}", path)


def _displayed_size(image: Image.Image) -> tuple[int, int]:
    transposed = image.getexif().get(_ORIENTATION) in _TRANSPOSED
    return image.size[::-1] if transposed else image.size


def _read_image(path: Path, short_side: int | None) -> tuple[tuple[int, int], np.ndarray]:
    """Return the size (width, height) in the file, and the reduced image as uint8 RGB (H, W, 3).

    The EXIF orientation is applied to both.
    """
    try:
        with Image.open(path) as image:
            size = _displayed_size(image)
            stored = reduced_size(*image.size, short_side)
            if stored != image.size:
                image.draft("RGB", stored)  # JPEG: decode at 1/2, 1/4 or 1/8 if that is large enough
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I"):  # 16-bit gray, which Pillow would clip to 8 bits
                rgb = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            else:
                rgb = image.convert("RGB")
    except _IMAGE_ERRORS as error:
        raise _image_error(path, error) from None
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
