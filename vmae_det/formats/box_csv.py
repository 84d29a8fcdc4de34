"""CSV files of boxes, without a header, plain or gzipped.

A line is `video_id,timestamp[,x1,y1,x2,y2,label[,value]]`.

There are two parsers. `try_read_columns` parses valid files with polars, fast, and returns None for any other
file. `iterate_rows` parses line by line; its rows raise errors that name the line and the problem. Only
`iterate_rows` rejects a file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from vmae_det.utils.errors import DataError, quoted
from vmae_det.utils.input_files import GZIP, decode, open_input

# Seconds. Larger values are frame numbers or garbage, and would overflow `keyframe_keys`.
MAX_TIMESTAMP = 1e9
# Coordinates at most this far outside [0, 1] are clipped by `check-data --fix`. Others have another cause.
MAX_CLIP = 0.1
COORDINATES = ("x1", "y1", "x2", "y2")
_INTEGER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True)
class BoxRule:
    """Valid boxes of a file format.

    Args:
        tolerance: how far coordinates may extend outside [0, 1].
        allow_empty: whether boxes may have zero area.
    """

    tolerance: float
    allow_empty: bool

    def accepts(self, boxes: np.ndarray) -> bool:
        """Return whether all boxes (R, 4), xyxy relative to the frame, are valid. NaN and inf are not."""
        left, top, right, bottom = boxes.T
        inside = all(((side >= -self.tolerance) & (side <= 1 + self.tolerance)).all() for side in boxes.T)
        if self.allow_empty:
            return inside and bool(((left <= right) & (top <= bottom)).all())
        return inside and bool(((left < right) & (top < bottom)).all())


def box_problem(box: tuple[float, float, float, float], rule: BoxRule) -> str:
    """Return what is wrong with a box of finite numbers, or ''."""
    for name, value in zip(COORDINATES, box):
        if not -rule.tolerance <= value <= 1 + rule.tolerance:
            guess = ", looks like pixels" if value > 1.5 else ", which is outside the frame"
            if -MAX_CLIP <= value <= 1 + MAX_CLIP:
                guess += "; `vmae-det check-data DATASET --fix OUTPUT` clips it"
            return (
                f"coordinates must be in [0, 1], relative to the frame as in AVA, got {name}={value:g}{guess}"
            )
    for low, high in ((0, 2), (1, 3)):
        if box[low] > box[high] or (box[low] == box[high] and not rule.allow_empty):
            got = f"{COORDINATES[low]}={box[low]:g}, {COORDINATES[high]}={box[high]:g}"
            guess = "the box is empty" if box[low] == box[high] else "looks like x,y,w,h or swapped corners"
            return f"{COORDINATES[low]} must be smaller than {COORDINATES[high]}, got {got}; {guess}"
    return ""


def is_video_name(text: str) -> bool:
    """Return whether `text` is a valid video id."""
    return bool(text) and text.isprintable() and '"' not in text and text == text.strip()


# ---------------------------------------------------------------- line by line


@dataclass(frozen=True)
class CsvRow:
    """The fields of one line of a CSV file. Its methods raise DataError with the file and the line."""

    path: Path
    line: int
    fields: list[str]

    def error(self, problem: str) -> DataError:
        """Return a DataError about this line."""
        return DataError(problem, self.path, self.line)

    def number(self, column: int, name: str) -> float:
        """Return the finite number in a column."""
        text = self.fields[column]
        try:
            # float() also accepts 1_000 and digits of any script.
            if "_" in text or not text.isascii():
                raise ValueError
            value = float(text)
        except ValueError:
            hint = ""
            if self.line == 1 and any(character.isalpha() for character in self.fields[-1]):
                hint = "; if this is a header line, remove it: AVA's files have none"
            raise self.error(f"{name} must be a number, got {quoted(text)}{hint}") from None
        if not math.isfinite(value):
            raise self.error(f"{name} must be a finite number, got {quoted(text)}")
        return value

    def integer(self, column: int, name: str) -> int:
        """Return the integer of at most 31 bits in a column."""
        text = self.fields[column]
        # int() rejects strings of thousands of digits, even when most are leading zeros.
        digits = text.lstrip("+-0") or "0"
        if not _INTEGER.fullmatch(text) or len(digits) > 10 or int(digits) >= 2**31:
            raise self.error(f"{name} must be an integer, got {quoted(text)}")
        return -int(digits) if text[0] == "-" else int(digits)

    def keyframe(self) -> tuple[str, float]:
        """Return the video id and the seconds in the first two columns."""
        video = self.fields[0]
        if not is_video_name(video):
            raise self.error(f"the video id must be plain text without quotes, got {quoted(video)}")
        timestamp = self.number(1, "the timestamp")
        if not 0 <= timestamp <= MAX_TIMESTAMP:
            expected = f"the timestamp must be in seconds, from 0 to {MAX_TIMESTAMP:g}"
            raise self.error(f"{expected}, got {quoted(self.fields[1])}")
        return video, timestamp

    def box(self, rule: BoxRule) -> tuple[float, float, float, float]:
        """Return the box in columns 2 to 5, counted from 0."""
        box = tuple(self.number(2 + i, name) for i, name in enumerate(COORDINATES))
        problem = box_problem(box, rule)
        if problem:
            raise self.error(problem)
        return box


def iterate_rows(path: str | Path) -> Iterator[CsvRow]:
    """Iterate over the lines of a CSV file. Fields are stripped of surrounding spaces.

    Spreadsheets pad lines with empty columns, so lines of commas and spaces only count as blank and are
    skipped.

    Raises:
        DataError: see `open_input`; or the file is not UTF-8 text.
    """
    path = Path(path)
    with open_input(path) as stream:
        for line, raw in enumerate(stream, start=1):
            text = decode(raw, path, "a CSV file", line).strip()
            if text.strip(", \t"):
                row = CsvRow(path, line, [field.strip() for field in text.split(",")])
                if len(row.fields) == 1 and ("\t" in text or ";" in text):
                    got = "tabs" if "\t" in text else "semicolons"
                    raise row.error(f"expected columns separated by commas, got {got}")
                yield row


# ---------------------------------------------------------------- by column


@dataclass(frozen=True)
class BoxColumns:
    """A CSV file of boxes as columns. Rows without a box have NaN boxes and values, and null labels."""

    videos: np.ndarray  # unique names, sorted
    video: np.ndarray  # (R,) int32, index into videos
    timestamp: np.ndarray  # (R,) float64, seconds
    boxes: np.ndarray  # (R, 4) float64
    label: pl.Series
    value: np.ndarray  # (R,) in the requested type; float64 if any row has no box
    is_boxless: np.ndarray  # (R,) bool, True where the line only names a keyframe


def try_read_columns(
    path: str | Path, label: type[pl.DataType], value: type[pl.DataType] = pl.Float64
) -> BoxColumns | None:
    """Parse a file whose lines have 8 columns, or 2 columns, and valid video ids. Return None for any other.

    Numbers are parsed but not validated. Labels of type String may be empty.

    Args:
        label, value: types of the last two columns.
    """
    path = Path(path)
    numbers = {"timestamp": pl.Float64, **dict.fromkeys(COORDINATES, pl.Float64)}
    schema = {"video": pl.Categorical, **numbers, "label": label, "value": value}
    try:
        if not path.is_file():
            return None
        source = _polars_source(path)
        if source is None:
            return None
        frame = pl.read_csv(source, has_header=False, schema=schema, quote_char=None, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        return None
    except TypeError:  # polars rejects paths that are not UTF-8
        return None
    if frame["timestamp"].null_count():
        frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))  # blank lines
    if frame.is_empty() or frame["timestamp"].null_count() or frame["video"].null_count():
        return None
    is_boxless = np.zeros(len(frame), dtype=bool)
    required = [*COORDINATES, "value"] + (["label"] if label != pl.String else [])
    if any(frame[name].null_count() for name in required):
        null = frame["x1"].is_null()
        if any((frame[name].is_null() != null).any() for name in required):
            return None
        is_boxless = null.to_numpy()
    column = frame.drop_in_place("video")
    present = column.unique()
    names = present.cast(pl.String).to_list()
    if not all(map(is_video_name, names)):
        return None
    videos = np.array(sorted(names), dtype=object)
    codes = present.to_physical().to_numpy()
    index_of_code = np.zeros(int(codes.max()) + 1, dtype=np.int32)
    index_of_code[codes] = np.searchsorted(videos, np.array(names, dtype=object))
    video = index_of_code[column.to_physical().to_numpy()]
    # Column-major, because the columns are filled and used one by one. Each one is dropped from the frame as
    # it is copied, to limit the peak of memory.
    boxes = np.empty((4, len(frame))).T
    for i, name in enumerate(COORDINATES):
        boxes[:, i] = frame.drop_in_place(name).to_numpy()
    timestamp, values = (frame.drop_in_place(name).to_numpy() for name in ("timestamp", "value"))
    return BoxColumns(videos, video, timestamp, boxes, frame["label"], values, is_boxless)


def _polars_source(path: Path) -> Path | bytes | None:
    """Return what polars can parse: a plain file, or the content of a gzipped one.

    None for zlib and zstd files, which polars would decompress without a limit.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] in (b"x\x01", b"x\x9c", b"x\xda") or start == b"\x28\xb5\x2f\xfd":
        return None
    if start[:2] != GZIP:
        return path
    with open_input(path) as stream:
        return stream.read()
