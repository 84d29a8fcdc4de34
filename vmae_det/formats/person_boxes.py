"""Person boxes (proposals): detected persons in keyframes, in the three formats that AVA's detectors publish.

- CSV of SlowFast: `video_id,0902,x1,y1,x2,y2,label,score`, plain or gzipped. The label is ignored and may be
  empty or missing.
- JSON of AlphAction (AIA), in COCO's results format: `[{"image_id": 9020902, "bbox": [x, y, width, height],
  "score": 0.9}]` with boxes in pixels. The image ids are defined by a COCO annotation file, `"images":
  [{"id": 9020902, "movie": "video_id", "timestamp": 902, "width": 640, "height": 360}]`. One file may contain
  both lists, with the boxes under "annotations".
- Pickle of mmaction2 (proposals): `{"video_id,0902": array of (N, 5)}` with x1, y1, x2, y2, score.

Repeated boxes of a keyframe, such as one line per label, are merged into one person. Boxes of other
categories than person are dropped.

See SlowFast's ava_helper.py, AlphAction's dataset/datasets/ava.py and tools/ava/csv2COCO.py, and mmaction2's
ava_dataset.py.
"""

from __future__ import annotations

import json
import logging
import pickle
from array import array
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from vmae_det.formats.box_csv import (
    COORDINATES,
    MAX_TIMESTAMP,
    BoxRule,
    CsvRow,
    box_problem,
    is_video_name,
    iterate_rows,
    try_read_columns,
)
from vmae_det.formats.keyframes import keyframe_keys
from vmae_det.utils.errors import DataError, quoted
from vmae_det.utils.input_files import read_text
from vmae_det.utils.output_files import atomic_write
from vmae_det.utils.safe_pickle import PickledArray, describe_value, safe_load_pickle

logger = logging.getLogger(__name__)

# Names of person classes, in lower case.
PERSON_NAMES = frozenset(("person", "persons", "people", "pedestrian", "pedestrians", "human", "humans"))
_EMPTY_FILE_PROBLEMS = {
    ".json": "expected a list of boxes (image_id, bbox, score), got none",
    **dict.fromkeys(
        (".pkl", ".pickle"), "expected a dict from 'video_id,timestamp' to arrays (N, 5), got no box"
    ),
}
NON_CSV_SUFFIXES = frozenset(_EMPTY_FILE_PROBLEMS)
MAX_PERSONS = 2000  # per keyframe; tracking and matching compare all pairs
PERSON_BOX_RULE = BoxRule(tolerance=0.05, allow_empty=False)


@dataclass(frozen=True)
class PersonBoxes:
    """Detected persons, as columns.

    Args:
        videos: (V,) unique video ids.
        video: (R,) int32, index into `videos`.
        timestamp: (R,) float64, seconds on the dataset's clock.
        boxes: (R, 4) float64, xyxy in [0, 1] of the frame.
        score: (R,) float64 in [0, 1].
    """

    videos: np.ndarray
    video: np.ndarray
    timestamp: np.ndarray
    boxes: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.video)

    def select(self, rows: np.ndarray) -> PersonBoxes:
        """Return the rows selected by a mask (R,) or by indices. `videos` is unchanged."""
        columns = ("video", "timestamp", "boxes", "score")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def at(self, video: str, timestamp: float) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes (N, 4) and scores (N,) of one keyframe, in file order. N may be 0."""
        index = self._index_of_video.get(video, -1)
        order, keys = self._by_keyframe
        key = keyframe_keys(np.array([index]), np.array([timestamp]))[0]
        first, last = np.searchsorted(keys, [key, key + 1])
        rows = order[first:last]
        return self.boxes[rows], self.score[rows]

    @cached_property
    def _index_of_video(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.videos)}

    @cached_property
    def _by_keyframe(self) -> tuple[np.ndarray, np.ndarray]:
        keys = keyframe_keys(self.video, self.timestamp)
        order = np.argsort(keys, kind="stable")
        return order, keys[order]


def read_person_boxes(
    path: str | Path, images: str | Path | None = None, allow_empty: bool = False
) -> PersonBoxes:
    """Read person boxes: JSON (suffix .json), pickle (.pkl, .pickle) or CSV (any other suffix).

    Args:
        images: COCO annotation file that defines the image ids of an AlphAction JSON.
        allow_empty: whether to accept a file without boxes.

    Raises:
        DataError: with the file, the line or entry, what was got and what was expected.
    """
    path = Path(path)
    readers = {".json": lambda file: _read_json(file, images), ".pkl": _read_pickle, ".pickle": _read_pickle}
    persons = readers.get(path.suffix.lower(), _read_csv)(path)
    if not len(persons) and not allow_empty:
        raise DataError(
            _EMPTY_FILE_PROBLEMS.get(path.suffix.lower(), "expected at least one row, got none"), path
        )
    return _merge_duplicates(persons, path)


def _merge_duplicates(persons: PersonBoxes, path: Path) -> PersonBoxes:
    """Keep the first of identical boxes in a keyframe, with their highest score."""
    frame = pl.DataFrame(persons.boxes, schema=list(COORDINATES), orient="row").with_columns(
        key=pl.Series(keyframe_keys(persons.video, persons.timestamp)), score=pl.Series(persons.score)
    )
    merged = (
        frame.with_row_index("row")
        .group_by("key", *COORDINATES, maintain_order=True)
        .agg(pl.first("row"), pl.max("score"))
    )
    keys, counts = np.unique(merged["key"].to_numpy(), return_counts=True)
    if counts.max(initial=0) > MAX_PERSONS:
        row = merged.filter(pl.col("key") == keys[counts.argmax()])["row"][0]
        keyframe = f"{persons.videos[persons.video[row]]},{persons.timestamp[row]:g}"
        raise DataError(
            f"keyframe {keyframe}: expected at most {MAX_PERSONS} person boxes, got {counts.max()}; drop "
            "boxes with low scores",
            path,
        )
    if len(merged) == len(persons):
        return persons
    logger.warning(
        "%s: merged %d of %d person boxes into an identical box of their keyframe, with the highest score",
        path,
        len(persons) - len(merged),
        len(persons),
    )
    return replace(persons.select(merged["row"].to_numpy()), score=merged["score"].to_numpy())


def format_person_boxes(video: str, timestamp: float, boxes: np.ndarray, scores: np.ndarray) -> list[str]:
    """Return lines of SlowFast's CSV for one keyframe. Boxes that rounding makes empty are dropped.

    Args:
        timestamp: seconds; written with a precision of 1 ms, and integer seconds with AVA's four digits.
        boxes: xyxy in [0, 1] of the frame, (N, 4).
        scores: (N,) in [0, 1].
    """
    seconds = f"{timestamp:.3f}".rstrip("0").rstrip(".")
    keyframe = f"{video},{seconds.zfill(4) if '.' not in seconds else seconds}"
    rounded = np.round(np.asarray(boxes, dtype=np.float64), 6)
    return [
        f"{keyframe},{x1:.6f},{y1:.6f},{x2:.6f},{y2:.6f},,{score:.6f}\n"
        for (x1, y1, x2, y2), score in zip(rounded, scores)
        if x1 < x2 and y1 < y2
    ]


def write_person_boxes(path: Path, boxes: PersonBoxes) -> None:
    """Write person boxes as SlowFast's CSV; timestamps are rounded to milliseconds."""
    columns = dict(zip(COORDINATES, boxes.boxes.T))
    frame = pl.DataFrame(
        {
            "video": boxes.videos[boxes.video].tolist(),
            "timestamp": boxes.timestamp.round(3),
            **columns,
            "label": pl.Series([None] * len(boxes), dtype=pl.String),
            "score": boxes.score,
        },
        schema_overrides={"video": pl.String},
    )
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        frame.with_columns(pl.col(COORDINATES).round(6)).write_csv(file, include_header=False)


# ---------------------------------------------------------------- CSV


def _read_csv(path: Path) -> PersonBoxes:
    columns = try_read_columns(path, pl.String)
    if columns is not None and not columns.is_boxless.any():
        timestamp, score = columns.timestamp, columns.value
        in_range = [
            ((values >= 0) & (values <= top)).all()
            for values, top in ((timestamp, MAX_TIMESTAMP), (score, 1))
        ]
        if all(in_range) and PERSON_BOX_RULE.accepts(columns.boxes):
            return PersonBoxes(columns.videos, columns.video, timestamp, columns.boxes, score)
    return _read_line_by_line(path)


def _read_line_by_line(path: Path) -> PersonBoxes:
    """Read any file; raise DataError for its first invalid line."""
    keyframes, boxes, scores = [], array("d"), array("d")
    for row in iterate_rows(path):
        if len(row.fields) not in (7, 8):
            expected = "video_id,timestamp,x1,y1,x2,y2[,label],score"
            raise row.error(f"expected 7 or 8 columns ({expected}), got {len(row.fields)}")
        keyframes.append(row.keyframe())
        boxes.extend(row.box(PERSON_BOX_RULE))
        scores.append(_csv_score(row))
    return _person_boxes(keyframes, np.array(boxes).reshape(-1, 4), np.array(scores))


def _csv_score(row: CsvRow) -> float:
    score = row.number(len(row.fields) - 1, "the score")
    if not 0 <= score <= 1:
        raise row.error(f"the person score must be in [0, 1], got {score:g}; is this ground truth?")
    return score


def _person_boxes(keyframes: list[tuple[str, float]], boxes: np.ndarray, scores: np.ndarray) -> PersonBoxes:
    names = np.array([video for video, _ in keyframes], dtype=object)
    videos, video = np.unique(names, return_inverse=True)
    timestamp = np.array([time for _, time in keyframes], dtype=np.float64)
    return PersonBoxes(videos, video.astype(np.int32), timestamp, boxes, scores)


# ---------------------------------------------------------------- JSON


def _read_json(path: Path, images: str | Path | None) -> PersonBoxes:
    content = _load_json(path)
    if content == []:  # no image ids to look up
        return _person_boxes([], np.zeros((0, 4)), np.zeros(0))
    if isinstance(content, dict):
        entries, image_list, image_path = content.get("annotations"), content.get("images"), path
    elif images is None:
        problem = "the keyframes of its image ids are unknown; pass the COCO annotation file as `images`"
        raise DataError(f"{problem}, or put both lists into one file as 'images' and 'annotations'", path)
    else:
        image_path = Path(images)
        content, entries = _load_json(image_path), content
        image_list = content.get("images") if isinstance(content, dict) else None
    if not isinstance(image_list, list):
        raise DataError("expected a list under 'images' (id, movie, timestamp, width, height)", image_path)
    if not isinstance(entries, list):
        raise DataError("expected a list of boxes (image_id, bbox, score)", path)

    entries = _persons_only(entries, content.get("categories"), path)
    keyframe_of, size_of = {}, {}
    for i, image in enumerate(image_list):
        where = f"image {i}"
        number, video = (_entry(image, key, (int, str), image_path, where) for key in ("id", "movie"))
        time, width, height = (
            _finite_number(_entry(image, key, (int, float, str), image_path, where), key, image_path, where)
            for key in ("timestamp", "width", "height")
        )
        keyframe = _keyframe(str(video), time, image_path, where)
        if keyframe_of.setdefault(number, keyframe) != keyframe:
            first = "{},{:g}".format(*keyframe_of[number])
            raise DataError(
                f"{where}: duplicate id {_show_id(number)}, first used for keyframe {first}", image_path
            )
        if width <= 0 or height <= 0:
            raise DataError(
                f"{where}: width and height must be positive, got {width:g} x {height:g}", image_path
            )
        size_of[number] = (width, height)
    keyframes, boxes, scores, largest = [], array("d"), array("d"), 0.0
    for i, entry in entries:
        where = f"box {i}"
        number = _entry(entry, "image_id", (int, str), path, where)
        if number not in keyframe_of:
            raise DataError(
                f"{where}: image id {_show_id(number)} is not among the images of {image_path}", path
            )
        bbox = _entry(entry, "bbox", (list,), path, where)
        if len(bbox) != 4:
            raise DataError(
                f"{where}: bbox must be [x, y, width, height] in pixels, got {len(bbox)} values", path
            )
        x, y, w, h = (_finite_number(value, "bbox", path, where) for value in bbox)
        width, height = size_of[number]
        largest = max(largest, x + w, y + h)
        box = (x / width, y / height, (x + w) / width, (y + h) / height)
        score = _finite_number(_entry(entry, "score", (int, float), path, where), "score", path, where)
        _check_box(box, score, path, where)
        keyframes.append(keyframe_of[number])
        boxes.extend(box)
        scores.append(score)
    if keyframes and largest <= 1 + PERSON_BOX_RULE.tolerance:
        raise DataError(
            f"expected bbox [x, y, width, height] in pixels, got no coordinate above {largest:g}", path
        )
    return _person_boxes(keyframes, np.array(boxes).reshape(-1, 4), np.array(scores))


def _persons_only(entries: list[Any], categories: Any, path: Path) -> list[tuple[int, Any]]:
    """Return (index, entry) of the boxes of persons, or of all boxes if none has a category."""
    numbered = list(enumerate(entries))
    if not any(isinstance(entry, dict) and "category_id" in entry for entry in entries):
        return numbered
    persons = {1}  # category id of persons in COCO
    if categories:
        names = [c for c in categories if isinstance(c, dict)] if isinstance(categories, list) else []
        persons = {
            _entry(category, "id", (int,), path, f"category {str(category['name'])!r}")
            for category in names
            if str(category.get("name")).strip().lower() in PERSON_NAMES
        }
        if not persons:
            names_text = ", ".join(str(c.get("name")) for c in names[:10])
            raise DataError(f"expected a person category, got {quoted(names_text)}", path)
    kept, other = [], Counter()
    for i, entry in numbered:
        number = _entry(entry, "category_id", (int,), path, f"box {i}")
        if number in persons:
            kept.append((i, entry))
        else:
            other[number] += 1
    if other:
        ids = ", ".join(f"{_show_id(number)}: {count}" for number, count in other.most_common(5))
        text = f"{other.total()} of {len(entries)} boxes have other categories than person ({ids})"
        if not kept:
            raise DataError(f"{text}; the category id of persons is {_show_id(min(persons))}", path)
        logger.warning("%s: dropped boxes: %s", path, text)
    return kept


def _show_id(value: int | str) -> str:
    """Return an id for an error message, truncated if it is long."""
    return quoted(value) if isinstance(value, str) else quoted(str(value)).strip("'")


_JSON_TYPES = {int: "integer", float: "number", str: "string", list: "array"}


def _load_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path, "JSON"))
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg}", path, error.lineno) from None
    except (RecursionError, ValueError):
        raise DataError("not valid JSON", path) from None


def _entry(entry: Any, key: str, types: tuple[type, ...], path: Path, where: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise DataError(f"{where}: missing '{key}'", path)
    value = entry[key]
    if not isinstance(value, types) or isinstance(value, bool):
        expected = " or ".join(_JSON_TYPES[one] for one in types)
        got = quoted(value) if isinstance(value, str) else json.dumps(value)[:40]
        raise DataError(f"{where}: '{key}' must be of type {expected}, got {got}", path)
    return value


def _finite_number(value: Any, what: str, path: Path, where: str) -> float:
    try:
        number = np.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = np.nan
    if not np.isfinite(number):
        raise DataError(f"{where}: {what} must be a finite number, got {quoted(str(value))}", path)
    return number


def _keyframe(video: str, timestamp: float, path: Path, where: str) -> tuple[str, float]:
    if not is_video_name(video) or not 0 <= timestamp <= MAX_TIMESTAMP:
        problem = f"expected a video id and seconds, got {quoted(video)} and {timestamp:g}"
        raise DataError(f"{where}: {problem}", path)
    return video, timestamp


def _check_box(box: tuple[float, ...], score: float, path: Path, where: str) -> None:
    """Raise DataError for an invalid box, relative to the frame, or an invalid score."""
    if problem := box_problem(box, PERSON_BOX_RULE):
        raise DataError(f"{where}: {problem}", path)
    if not 0 <= score <= 1:
        raise DataError(f"{where}: the person score must be in [0, 1], got {score:g}", path)


# ---------------------------------------------------------------- pickle


def _read_pickle(path: Path) -> PersonBoxes:
    content = safe_load_pickle(path, "person boxes")
    expected = "expected a dict from 'video_id,timestamp' to arrays (N, 5) of x1, y1, x2, y2, score"
    if not isinstance(content, dict):
        raise DataError(f"{expected}, got {describe_value(content)}", path)
    keyframes, tables = [], []
    for key, value in content.items():
        if not isinstance(key, str) or "," not in key:
            raise DataError(f"{expected}, got {describe_value(content)}", path)
        where = f"entry {quoted(key)}"
        video, _, seconds = key.rpartition(",")
        keyframe = _keyframe(video, _finite_number(seconds, "the timestamp", path, where), path, where)
        table = _proposal_table(value, path, where)
        keyframes.extend([keyframe] * len(table))
        tables.append(table)
    rows = np.concatenate([np.zeros((0, 5)), *tables])
    boxes, scores = rows[:, :4], rows[:, 4]
    if not (PERSON_BOX_RULE.accepts(boxes) and ((scores >= 0) & (scores <= 1)).all()):
        for (video, time), row in zip(keyframes, rows):
            where = f"entry {quoted(f'{video},{time:04g}')}"
            _check_box(
                tuple(_finite_number(value, "a coordinate", path, where) for value in row[:4]),
                row[4],
                path,
                where,
            )
    return _person_boxes(keyframes, boxes, scores)


def _proposal_table(value: Any, path: Path, where: str) -> np.ndarray:
    """Return boxes and scores (N, 5) of one keyframe."""
    expected = "expected an array (N, 5) of x1, y1, x2, y2, score"
    if not isinstance(value, PickledArray):
        raise DataError(f"{where}: {expected}, got {describe_value(value)}", path)
    try:
        table = value.to_numpy()
    except pickle.UnpicklingError as error:
        raise DataError(f"{where}: {expected}, got {error}", path) from None
    if table.shape == (0,):  # np.array([]): no boxes
        table = np.zeros((0, 5))
    if table.ndim != 2 or table.shape[1] not in (4, 5):
        raise DataError(f"{where}: {expected}, got shape {table.shape}", path)
    if table.shape[1] == 4:  # ground truth as proposals has no scores
        table = np.column_stack([table, np.ones(len(table))])
    return table.astype(np.float64)
