"""CSV files of boxes: lines `video_id,timestamp[,x1,y1,x2,y2,label[,value]]` without a header, gzip or plain.

There are two readers. `try_read_columns` reads a regular file with polars, fast, and returns None for any
other file. `iterate_rows` reads line by line; its rows raise errors that name the line and the problem. Only
the second one rejects a file.
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

# Seconds; larger ones are frame numbers or noise, and keyframe_keys relies on it.
MAX_TIMESTAMP = 1e9
# How far outside [0, 1] a coordinate may lie to be clipped by a fix; further out something else is wrong.
MAX_CLIP = 0.1
COORDINATES = ("x1", "y1", "x2", "y2")
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True)
class BoxRule:
    """Which boxes a file may hold: how far outside [0, 1] they may reach, and whether their area may be 0."""

    slack: float
    allow_empty: bool

    def accepts(self, boxes: np.ndarray) -> bool:
        """Whether all boxes (R, 4), xyxy relative to the frame, are good. NaN and infinity are not."""
        left, top, right, bottom = boxes.T
        inside = all(((side >= -self.slack) & (side <= 1 + self.slack)).all() for side in boxes.T)
        if self.allow_empty:
            return inside and bool(((left <= right) & (top <= bottom)).all())
        return inside and bool(((left < right) & (top < bottom)).all())


@dataclass(frozen=True)
class CsvRow:
    """One line of a CSV file, taken apart; each method raises DataError naming file and line."""

    path: Path
    line: int
    fields: list[str]

    def error(self, problem: str) -> DataError:
        """The error that says `problem` of this line."""
        return DataError(problem, self.path, self.line)

    def number(self, column: int, name: str) -> float:
        """The finite number in a column."""
        text = self.fields[column]
        try:
            if (
                "_" in text or not text.isascii()
            ):  # Python alone would read 1_000 and the digits of any script
                raise ValueError
            value = float(text)
        except ValueError:
            hint = ""
            if self.line == 1 and any(character.isalpha() for character in self.fields[-1]):
                hint = "; a header line? AVA's files have none, remove it"
            raise self.error(f"{name} must be a number, got {quoted(text)}{hint}") from None
        if not math.isfinite(value):
            raise self.error(f"{name} must be a finite number, got {quoted(text)}")
        return value

    def whole_number(self, column: int, name: str) -> int:
        """The whole number of at most 31 bits in a column."""
        text = self.fields[column]
        # Python refuses to read thousands of digits, and leading zeros may be as many.
        digits = text.lstrip("+-0") or "0"
        if not _WHOLE_NUMBER.fullmatch(text) or len(digits) > 10 or int(digits) >= 2**31:
            raise self.error(f"{name} must be a whole number, got {quoted(text)}")
        return -int(digits) if text[0] == "-" else int(digits)

    def keyframe(self) -> tuple[str, float]:
        """Video id and seconds, the first two columns."""
        video = self.fields[0]
        if not is_video_name(video):
            raise self.error(f"the video id must be plain text without quotes, got {quoted(video)}")
        timestamp = self.number(1, "the timestamp")
        if not 0 <= timestamp <= MAX_TIMESTAMP:
            raise self.error(f"the timestamp must be in seconds, 0 or later, got {quoted(self.fields[1])}")
        return video, timestamp

    def box(self, rule: BoxRule) -> tuple[float, float, float, float]:
        """The box in columns 2 to 5."""
        box = tuple(self.number(2 + i, name) for i, name in enumerate(COORDINATES))
        problem = box_problem(box, rule)
        if problem:
            raise self.error(problem)
        return box


def box_problem(box: tuple[float, float, float, float], rule: BoxRule) -> str:
    """What is wrong with a box of finite numbers, or ''."""
    for name, value in zip(COORDINATES, box):
        if not -rule.slack <= value <= 1 + rule.slack:
            guess = ", looks like pixels" if value > 1.5 else ", which is outside the frame"
            if -MAX_CLIP <= value <= 1 + MAX_CLIP:
                guess += "; `vmae-det check-data DATASET --fix OUTPUT` clips it"
            return f"coordinates must be in [0, 1] (AVA's relative form); got {name}={value:g}{guess}"
    for low, high in ((0, 2), (1, 3)):
        if box[low] > box[high] or (box[low] == box[high] and not rule.allow_empty):
            got = f"{COORDINATES[low]}={box[low]:g}, {COORDINATES[high]}={box[high]:g}"
            guess = "the box is empty" if box[low] == box[high] else "looks like x,y,w,h or swapped corners"
            return f"{COORDINATES[low]} must be smaller than {COORDINATES[high]}, got {got}; {guess}"
    return ""


def is_video_name(text: str) -> bool:
    """Whether text can be a video id."""
    return bool(text) and text.isprintable() and '"' not in text and text == text.strip()


def iterate_rows(path: str | Path) -> Iterator[CsvRow]:
    """The lines of a CSV file that hold more than commas and spaces, spaces around the fields removed.

    Spreadsheets pad lines with empty columns: without any text such a line is blank, and with two columns of
    text it names a keyframe.

    Raises:
        DataError: as of `open_input`; or not UTF-8 text.
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


@dataclass(frozen=True)
class BoxColumns:
    """A file of boxes, in columns. Lines that only name a keyframe have NaN boxes and values, null labels."""

    videos: np.ndarray  # unique names, sorted
    video: np.ndarray  # (R,) int32, index in videos
    timestamp: np.ndarray  # (R,) float64, seconds
    boxes: np.ndarray  # (R, 4) float64
    label: pl.Series
    value: np.ndarray  # (R,) as read; float64 where lines only name a keyframe
    bare: np.ndarray  # (R,) bool, True where the line names a keyframe only


def try_read_columns(
    path: str | Path, label: type[pl.DataType], value: type[pl.DataType] = pl.Float64
) -> BoxColumns | None:
    """Read a regular file: lines of 8 columns, some perhaps of 2, and sound video ids. None of any other.

    The numbers themselves are not checked here. Labels of type String may be empty.

    Args:
        label, value: types of the last two columns.
    """
    path = Path(path)
    numbers = {"timestamp": pl.Float64, **dict.fromkeys(COORDINATES, pl.Float64)}
    schema = {"video": pl.Categorical, **numbers, "label": label, "value": value}
    try:
        if not path.is_file():
            return None
        source = _source(path)
        if source is None:
            return None
        frame = pl.read_csv(source, has_header=False, schema=schema, quote_char=None, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        return None
    except TypeError:  # of polars, for a path that is not UTF-8
        return None
    if frame["timestamp"].null_count():
        frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))  # blank lines
    if frame.is_empty() or frame["timestamp"].null_count() or frame["video"].null_count():
        return None
    bare = np.zeros(len(frame), dtype=bool)
    required = [*COORDINATES, "value"] + (["label"] if label != pl.String else [])
    if any(frame[name].null_count() for name in required):
        null = frame["x1"].is_null()
        if any((frame[name].is_null() != null).any() for name in required):
            return None
        bare = null.to_numpy()
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
    # Four columns that lie apart: they are filled and used one by one. Each leaves the frame as it is copied.
    boxes = np.empty((4, len(frame))).T
    for i, name in enumerate(COORDINATES):
        boxes[:, i] = frame.drop_in_place(name).to_numpy()
    timestamp, values = (frame.drop_in_place(name).to_numpy() for name in ("timestamp", "value"))
    return BoxColumns(videos, video, timestamp, boxes, frame["label"], values, bare)


def _source(path: Path) -> Path | bytes | None:
    """What polars reads: a plain file, or what a gzipped one holds; None of those that polars would unpack by
    itself, zlib and zstd."""
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] in (b"x\x01", b"x\x9c", b"x\xda") or start == b"\x28\xb5\x2f\xfd":
        return None
    if start[:2] != GZIP:
        return path
    with open_input(path) as stream:
        return stream.read()


def keyframe_keys(video: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
    """One int64 for each keyframe (R,), ordered by video index, then time; times differ from 1 ms on."""
    # 2^40 ms are more than MAX_TIMESTAMP. In place: there are millions of rows.
    milliseconds = timestamp * 1000.0
    np.rint(milliseconds, out=milliseconds)
    keys = video.astype(np.int64)
    keys <<= 40
    keys += milliseconds.astype(np.int64)
    return keys
