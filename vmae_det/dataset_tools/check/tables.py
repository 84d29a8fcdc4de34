"""Lenient readers of annotation tables, which keep every line: valid ones as columns, others with a problem.

The strict readers of annotations and person boxes stop at the first error. These continue, and check only
whether a line can be parsed. Other modules check the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from vmae_det.dataset_tools.check.report import Finding, rows_finding
from vmae_det.formats.box_csv import COORDINATES, MAX_TIMESTAMP, is_video_name
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.utils.input_files import open_input

# Valid numbers of columns, by the content of the file.
WIDTHS = {"annotations": (2, 7, 8), "person_boxes": (7, 8), "excluded": (2,)}
_LINE_FORMATS = {
    "annotations": "video_id,timestamp,x1,y1,x2,y2,action_id,person_id",
    "person_boxes": "video_id,timestamp,x1,y1,x2,y2,,score",
    "excluded": "video_id,timestamp",
    "video list": "FILE LABEL",
}
_SUFFIXES_WITHOUT_LINES = (".json", ".pkl", ".pickle")


@dataclass(frozen=True)
class Table:
    """The lines of a file.

    Args:
        path: the file.
        content: "annotations", "person_boxes", "excluded" or "video list".
        rows: valid lines: `line` (null if the file has no lines) and `text`. Tables of boxes also have
            `video`, `timestamp` (seconds), `ms` (integer milliseconds), `x1` ... `y2` (null if the line names
            only a keyframe), and `action` and `person` (Int64) of annotations, or `score` of person boxes.
            Video lists have `file` and `action`.
        malformed: the other lines: `line`, `text`, `problem`.
    """

    path: Path
    content: str
    rows: pl.DataFrame
    malformed: pl.DataFrame

    def findings(self) -> list[Finding]:
        """Return findings about malformed lines, and about a table without valid lines."""
        shown = self.malformed.with_columns(pl.concat_str("problem", pl.lit(": "), "text").alias("shown"))
        advice = f"expected lines {_LINE_FORMATS[self.content]}. {_guess_cause(self.malformed)}".rstrip()
        found = rows_finding(
            "malformed_line",
            shown,
            self.path,
            f"of {len(self.rows) + len(shown)} lines cannot be parsed",
            advice,
            "shown",
        )
        if self.rows.is_empty() and self.content != "excluded":
            what = f"{self.path} has no valid lines"
            found.append(Finding("no_rows", 1, what, (), f"expected lines {_LINE_FORMATS[self.content]}"))
        return found


def _guess_cause(malformed: pl.DataFrame) -> str:
    """Return why lines cannot be parsed; '' if unknown."""
    if malformed.is_empty():
        return ""
    first = malformed.row(0, named=True)
    if first["line"] == 1 and sum(c.isalpha() for c in first["text"]) > len(first["text"]) / 3:
        header = "Line 1 looks like a header: remove it."
        return header if len(malformed) == 1 else header + " " + _guess_cause(malformed[1:])
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if first["text"].count(separator) > 1:
            return f"Columns are separated by {name}; expected commas."
    return ""


def read_table(path: Path, content: str) -> Table:
    """Read a file leniently: CSV, plain or gzipped; person boxes also as JSON or pickle.

    Args:
        content: as of `Table`.

    Raises:
        DataError: the file cannot be read at all.
    """
    if path.suffix.lower() in _SUFFIXES_WITHOUT_LINES and content == "person_boxes":
        return _read_person_boxes_strictly(path)
    if content == "video list":
        return _read_video_list(path)
    widths = WIDTHS[content]
    fields = pl.col("fields").list
    frame = (
        _read_lines(path)
        .with_columns(fields=pl.col("text").str.split(","))
        .with_columns(columns=fields.len(), video=_field(0), timestamp=_number(1))
    )
    has_box = pl.col("columns") >= 7
    has_value = (pl.col("columns") == 8) | (has_box if content == "person_boxes" else False)
    frame = frame.with_columns(
        **{name: _number(2 + i) for i, name in enumerate(COORDINATES)},
        action=_integer(6),
        person=_integer(7),
        score=fields.last().str.strip_chars().cast(pl.Float64, strict=False),
    )
    names = frame["video"].drop_nulls().unique()
    bad_names = [name for name in names if not is_video_name(name)]
    problems = [
        (
            ~pl.col("columns").is_in(widths),
            pl.concat_str(
                pl.lit(f"expected {' or '.join(map(str, widths))} columns, got "), pl.col("columns")
            ),
        ),
        (pl.col("video").is_in(bad_names), pl.lit("expected a video id")),
        (_is_not_finite("timestamp"), pl.lit("the timestamp is not a number")),
        (
            ~pl.col("timestamp").is_between(0, MAX_TIMESTAMP),
            pl.lit("expected a timestamp in seconds, not negative"),
        ),
        *((has_box & _is_not_finite(name), pl.lit(f"{name} is not a number")) for name in COORDINATES),
    ]
    if content == "annotations":
        problems.append((has_box & pl.col("action").is_null(), pl.lit("the action id is not an integer")))
        problems.append((has_value & pl.col("person").is_null(), pl.lit("the person id is not an integer")))
    elif content == "person_boxes":
        problems.append((_is_not_finite("score"), pl.lit("the score is not a number")))
    problem = pl.coalesce(*(pl.when(condition).then(text) for condition, text in problems))
    frame = frame.with_columns(problem=problem, ms=_milliseconds().cast(pl.Int64, strict=False))
    kept = ["line", "text", "video", "timestamp", "ms"]
    kept += {"annotations": [*COORDINATES, "action", "person"], "person_boxes": [*COORDINATES, "score"]}.get(
        content, []
    )
    return _make_table(path, content, frame, kept)


def _read_video_list(path: Path) -> Table:
    """Read a list with a line `FILE LABEL` for each video."""
    line = pl.col("text").str
    frame = _read_lines(path).with_columns(
        file=line.extract(r"^(.*[^\s,])[\s,]+[^\s,]+$"), label=line.extract(r"[^\s,][\s,]+([^\s,]+)$")
    )
    frame = frame.with_columns(
        action=pl.when(pl.col("label").str.contains(r"^[0-9]{1,9}$"))
        .then("label")
        .cast(pl.Int64, strict=False)
    )
    problem = pl.coalesce(
        pl.when(pl.col("file").is_null()).then(pl.lit("expected a file and a label")),
        pl.when(pl.col("action").is_null()).then(pl.lit("the label is not a non-negative integer")),
    )
    frame = frame.with_columns(problem=problem)
    return _make_table(path, "video list", frame, ["line", "text", "file", "action"])


def _read_lines(path: Path) -> pl.DataFrame:
    """Return `line` and stripped `text` of all lines that are not blank."""
    with open_input(path) as stream:
        content = stream.read()
    lines = content.decode("utf-8-sig", errors="replace").split("\n")
    frame = pl.DataFrame({"text": lines}, schema={"text": pl.String}).with_row_index("line", offset=1)
    return frame.with_columns(pl.col("text").str.strip_chars()).filter(pl.col("text") != "")


def _make_table(path: Path, content: str, frame: pl.DataFrame, kept: list[str]) -> Table:
    """Split lines into valid ones, with the columns `kept`, and malformed ones."""
    is_valid = pl.col("problem").is_null()
    rows = frame.filter(is_valid).select(kept)
    return Table(path, content, rows, frame.filter(~is_valid).select("line", "text", "problem"))


def _field(index: int) -> pl.Expr:
    return pl.col("fields").list.get(index, null_on_oob=True).str.strip_chars()


def _number(index: int) -> pl.Expr:
    return _field(index).cast(pl.Float64, strict=False)


def _integer(index: int) -> pl.Expr:
    """An integer of at most 31 bits, as the strict readers expect."""
    text = _field(index)
    number = pl.when(text.str.contains(r"^[+-]?[0-9]{1,11}$")).then(text.str.strip_prefix("+"))
    number = number.cast(pl.Int64, strict=False)
    return pl.when(number.abs() < 2**31).then(number)


def _is_not_finite(name: str) -> pl.Expr:
    return pl.col(name).is_null() | ~pl.col(name).is_finite()


def _milliseconds() -> pl.Expr:
    return (pl.col("timestamp") * 1000).round()


def _read_person_boxes_strictly(path: Path) -> Table:
    """Read person boxes of a format without lines, with the strict reader."""
    boxes = read_person_boxes(path)
    frame = pl.DataFrame(
        {
            "line": pl.Series([None] * len(boxes), dtype=pl.UInt32),
            "video": [str(boxes.videos[i]) for i in boxes.video],
            "timestamp": boxes.timestamp,
            **{name: boxes.boxes[:, i] for i, name in enumerate(COORDINATES)},
            "score": boxes.score,
        }
    )
    frame = frame.with_columns(
        pl.concat_str("video", "timestamp", *COORDINATES, "score", separator=",").alias("text"),
        _milliseconds().cast(pl.Int64).alias("ms"),
    )
    empty = pl.DataFrame(schema={"line": pl.UInt32, "text": pl.String, "problem": pl.String})
    return Table(path, "person_boxes", frame, empty)
