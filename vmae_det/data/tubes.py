"""Tubes: the boxes of one person and action, frame by frame; ground truth and detections alike, in CSV.

A header line names the columns, in any order, and a line is a box:

    video_id,tube_id,label,score,frame,x1,y1,x2,y2
    Basketball/v_Basketball_g01_c01,0,Basketball,0.93,17,103,54,161,190

- A tube is a video_id, tube_id and label; its lines may stand anywhere, its frames may have gaps, and none
  may come twice. The label is text. Ids and labels hold neither commas nor quotes.
- Ground truth may leave the score out; what stands there does not count.
- Frames are whole numbers, from 0 or from 1, the same in both files.
- Coordinates have any unit, the same in both files. A box of ground truth has an area.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from vmae_det.data.box_rows import COORDINATES, MAX_TIMESTAMP, Row, is_video_name, iterate_rows, shown
from vmae_det.utils.errors import DataError

_NAMES = ("video_id", "tube_id", "label")
_COLUMNS = (*_NAMES, "score", "frame", *COORDINATES)
_MAX_FRAME = int(MAX_TIMESTAMP)


@dataclass(frozen=True)
class Tubes:
    """Tubes, a row for each box, by tube and frame.

    Args:
        videos: (V,) unique video ids, sorted.
        labels: (L,) unique labels, sorted.
        video: (R,) int32, index in videos.
        label: (R,) int32, index in labels.
        tube: (R,) int64, from 0 on, by video id, tube id and label.
        frame: (R,) int32.
        boxes: (R, 4) float64, xyxy.
        score: (R,) float64; 1 in ground truth.
    """

    videos: np.ndarray
    labels: np.ndarray
    video: np.ndarray
    label: np.ndarray
    tube: np.ndarray
    frame: np.ndarray
    boxes: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.tube)

    def select(self, rows: np.ndarray) -> Tubes:
        """The rows that a mask (R,) chooses; `videos`, `labels` and the numbers of the tubes stay."""
        columns = ("video", "label", "tube", "frame", "boxes", "score")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})


def read_tubes(path: str | Path, kind: str = "ground_truth") -> Tubes:
    """Read a CSV of tubes, plain or gzipped; `kind` is "ground_truth" or "detections".

    Raises:
        DataError: names the file and the line, what was got and what was expected.
    """
    path = Path(path)
    rows = iterate_rows(path)
    header = next(rows, None)
    if header is None:
        raise DataError("holds no rows", path)
    _check_header(header, kind)
    frame = _read_regular(path, header, kind)
    if frame is None:
        frame = _read_line_by_line(rows, header, kind)
    if frame.is_empty():
        raise DataError("holds no rows after its header", path)
    return _tubes(frame)


def _check_header(header: Row, kind: str) -> None:
    names = header.fields
    missing = [name for name in _COLUMNS if name not in names]
    if kind == "ground_truth" and missing == ["score"]:
        missing = []
    unknown = [name for name in names if name not in _COLUMNS]
    if missing or unknown or len(set(names)) < len(names):
        expected = ",".join(_COLUMNS) + (" (score may be left out)" if kind == "ground_truth" else "")
        raise header.error(f"expected a header line with {expected}, got {shown(','.join(names))}")


def _read_regular(path: Path, header: Row, kind: str) -> pl.DataFrame | None:
    """The columns of a file that has no fault, at the speed of polars; None of any other."""
    types = dict.fromkeys(_COLUMNS, pl.Float64) | dict.fromkeys(_NAMES, pl.String) | {"frame": pl.Int32}
    if kind == "ground_truth":
        types["score"] = pl.String
    schema = {name: types[name] for name in header.fields}
    try:
        frame = pl.read_csv(path, schema=schema, quote_char=None, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        return None
    frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))  # blank lines
    if kind == "ground_truth":
        frame = frame.with_columns(score=pl.lit(1.0))
    if frame.is_empty() or any(frame[name].null_count() for name in _COLUMNS):
        return None
    if not all(is_video_name(text) for name in _NAMES for text in frame[name].unique()):
        return None
    low, high = (pl.col("x1"), pl.col("y1")), (pl.col("x2"), pl.col("y2"))
    ordered = [(a < b) if kind == "ground_truth" else (a <= b) for a, b in zip(low, high)]
    good = [pl.col(*COORDINATES, "score").is_finite(), pl.col("frame").is_between(0, _MAX_FRAME), *ordered]
    if not frame.select(pl.all_horizontal(good).all()).item():
        return None
    if frame.select(pl.struct(*_NAMES, "frame").is_duplicated().any()).item():
        return None
    return frame.select(_COLUMNS)


def _read_line_by_line(rows: list[Row], header: Row, kind: str) -> pl.DataFrame:
    """The columns of any file, or the DataError of its first bad line."""
    place = {name: i for i, name in enumerate(header.fields)}
    first: dict[tuple, int] = {}
    values = []
    for row in rows:
        if len(row.fields) != len(place):
            got = f"got {len(row.fields)}"
            raise row.error(f"expected {len(place)} columns, as in the header, {got}")
        names = tuple(row.fields[place[name]] for name in _NAMES)
        for name, text in zip(_NAMES, names):
            if not is_video_name(text):
                raise row.error(f"the {name} must be plain text without quotes, got {shown(text)}")
        frame = row.whole_number(place["frame"], "the frame")
        if not 0 <= frame <= _MAX_FRAME:
            raise row.error(f"frames are numbered from 0 to {_MAX_FRAME}, got {frame}")
        seen = first.setdefault((*names, frame), row.line)
        if seen != row.line:
            raise row.error(f"frame {frame} of tube {names[1]!r} comes twice, first in line {seen}")
        score = 1.0 if kind == "ground_truth" else row.number(place["score"], "the score")
        values.append((*names, score, frame, *_box(row, place, kind)))
    types = [*[pl.String] * 3, pl.Float64, pl.Int32, *[pl.Float64] * 4]
    return pl.DataFrame(values, schema=dict(zip(_COLUMNS, types)), orient="row")


def _box(row: Row, place: dict[str, int], kind: str) -> list[float]:
    box = [row.number(place[name], name) for name in COORDINATES]
    for low, high in ((0, 2), (1, 3)):
        if box[low] > box[high] or (box[low] == box[high] and kind == "ground_truth"):
            a, b = COORDINATES[low], COORDINATES[high]
            raise row.error(f"{a} must be smaller than {b}, got {a}={box[low]:g}, {b}={box[high]:g}")
    return box


def _tubes(frame: pl.DataFrame) -> Tubes:
    """Names as numbers, rows by tube and frame."""
    names, codes = {}, {}
    for name in _NAMES:
        known = frame[name].unique().sort()
        names[name] = np.array(known.to_list(), dtype=object)
        codes[name] = frame[name].cast(pl.Enum(known)).to_physical().to_numpy().astype(np.int64)
    key = codes["video_id"] * len(names["tube_id"]) + codes["tube_id"]
    key = key * len(names["label"]) + codes["label"]
    _, tube = np.unique(key, return_inverse=True)
    numbers = frame["frame"].to_numpy()
    order = np.lexsort((numbers, tube))
    return Tubes(
        names["video_id"],
        names["label"],
        codes["video_id"][order].astype(np.int32),
        codes["label"][order].astype(np.int32),
        tube[order],
        numbers[order],
        frame.select(COORDINATES).to_numpy()[order],
        frame["score"].to_numpy()[order],
    )
