"""Lenient readers: every line of a file, the sound ones in columns and the others with what is wrong.

The strict readers of annotations and person boxes stop at the first fault; these go on, and judge only
whether a line can be read. What its numbers mean is for others to judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from vmae_det.dataset_tools.check.findings import Finding, finding_of_rows
from vmae_det.formats.box_csv import COORDINATES, MAX_TIMESTAMP, is_video_name
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.utils.input_files import open_input

# Columns that a line may have, by what the file holds.
WIDTHS = {"annotations": (2, 7, 8), "person_boxes": (7, 8), "excluded": (2,)}
_FORMS = {
    "annotations": "video_id,timestamp,x1,y1,x2,y2,action_id,person_id",
    "person_boxes": "video_id,timestamp,x1,y1,x2,y2,,score",
    "excluded": "video_id,timestamp",
    "video list": "FILE LABEL",
}
_SUFFIXES_WITHOUT_LINES = (".json", ".pkl", ".pickle")


@dataclass(frozen=True)
class Table:
    """A file's lines.

    Args:
        path: the file.
        holds: "annotations", "person_boxes", "excluded" or "video list".
        rows: sound lines: `line` (null where the file has none) and `text`; of boxes also `video`,
            `timestamp` (seconds), `ms` (whole milliseconds), `x1` ... `y2` (null where the line names a
            keyframe only), `action` and `person` (Int64) of annotations, `score` of person boxes; of video
            lists `file` and `action`.
        malformed: the other lines: `line`, `text`, `problem`.
    """

    path: Path
    holds: str
    rows: pl.DataFrame
    malformed: pl.DataFrame

    def findings(self) -> list[Finding]:
        """What is wrong with the lines as lines."""
        shown = self.malformed.with_columns(pl.concat_str("problem", pl.lit(": "), "text").alias("shown"))
        advice = f"a line reads {_FORMS[self.holds]}. {_guess(self.malformed)}".rstrip()
        found = finding_of_rows(
            "malformed_line",
            shown,
            self.path,
            f"of {len(self.rows) + len(shown)} lines cannot be read",
            advice,
            "shown",
        )
        if self.rows.is_empty() and self.holds != "excluded":
            what = f"no line of {self.path} can be used"
            found.append(Finding("no_rows", 1, what, (), f"a line reads {_FORMS[self.holds]}"))
        return found


def _guess(malformed: pl.DataFrame) -> str:
    """Why lines cannot be read, where it can be told."""
    if malformed.is_empty():
        return ""
    first = malformed.row(0, named=True)
    if first["line"] == 1 and sum(c.isalpha() for c in first["text"]) > len(first["text"]) / 3:
        header = "Line 1 looks like a header: remove it."
        return header if len(malformed) == 1 else header + " " + _guess(malformed[1:])
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if first["text"].count(separator) > 1:
            return f"The columns are kept apart by {name}; commas are expected."
    return ""


def read_table(path: Path, holds: str) -> Table:
    """A file of the kind `Table.holds`: CSV, plain or gzipped; person boxes also as JSON or pickle.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    if path.suffix.lower() in _SUFFIXES_WITHOUT_LINES and holds == "person_boxes":
        return _strict_table(path)
    if holds == "video list":
        return _list_table(path)
    widths = WIDTHS[holds]
    fields = pl.col("fields").list
    frame = (
        _lines(path)
        .with_columns(fields=pl.col("text").str.split(","))
        .with_columns(columns=fields.len(), video=_field(0), timestamp=_number(1))
    )
    boxed = pl.col("columns") >= 7
    has_value = (pl.col("columns") == 8) | (boxed if holds == "person_boxes" else False)
    frame = frame.with_columns(
        **{name: _number(2 + i) for i, name in enumerate(COORDINATES)},
        action=_whole_number(6),
        person=_whole_number(7),
        score=fields.last().str.strip_chars().cast(pl.Float64, strict=False),
    )
    names = frame["video"].drop_nulls().unique()
    bad_names = [name for name in names if not is_video_name(name)]
    problems = [
        (
            ~pl.col("columns").is_in(widths),
            pl.concat_str(
                pl.lit(f"{' or '.join(map(str, widths))} columns expected, got "), pl.col("columns")
            ),
        ),
        (pl.col("video").is_in(bad_names), pl.lit("no video id")),
        (_is_no_number("timestamp"), pl.lit("the timestamp is no number")),
        (
            ~pl.col("timestamp").is_between(0, MAX_TIMESTAMP),
            pl.lit("the timestamp must be seconds from 0 on"),
        ),
        *((boxed & _is_no_number(name), pl.lit(f"{name} is no number")) for name in COORDINATES),
    ]
    if holds == "annotations":
        problems.append((boxed & pl.col("action").is_null(), pl.lit("the action id is no whole number")))
        problems.append((has_value & pl.col("person").is_null(), pl.lit("the person id is no whole number")))
    elif holds == "person_boxes":
        problems.append((_is_no_number("score"), pl.lit("the score is no number")))
    problem = pl.coalesce(*(pl.when(wrong).then(text) for wrong, text in problems))
    frame = frame.with_columns(problem=problem, ms=_milliseconds().cast(pl.Int64, strict=False))
    kept = ["line", "text", "video", "timestamp", "ms"]
    kept += {"annotations": [*COORDINATES, "action", "person"], "person_boxes": [*COORDINATES, "score"]}.get(
        holds, []
    )
    return _split(path, holds, frame, kept)


def _list_table(path: Path) -> Table:
    """A list with a line `FILE LABEL` for each video."""
    line = pl.col("text").str
    frame = _lines(path).with_columns(
        file=line.extract(r"^(.*[^\s,])[\s,]+[^\s,]+$"), label=line.extract(r"[^\s,][\s,]+([^\s,]+)$")
    )
    frame = frame.with_columns(
        action=pl.when(pl.col("label").str.contains(r"^[0-9]{1,9}$"))
        .then("label")
        .cast(pl.Int64, strict=False)
    )
    problem = pl.coalesce(
        pl.when(pl.col("file").is_null()).then(pl.lit("a file and a label expected")),
        pl.when(pl.col("action").is_null()).then(pl.lit("the label is no whole number from 0 on")),
    )
    return _split(path, "video list", frame.with_columns(problem=problem), ["line", "text", "file", "action"])


def _lines(path: Path) -> pl.DataFrame:
    """`line` and `text` of all lines that are not blank, stripped."""
    with open_input(path) as stream:
        content = stream.read()
    lines = content.decode("utf-8-sig", errors="replace").split("\n")
    frame = pl.DataFrame({"text": lines}, schema={"text": pl.String}).with_row_index("line", offset=1)
    return frame.with_columns(pl.col("text").str.strip_chars()).filter(pl.col("text") != "")


def _split(path: Path, holds: str, frame: pl.DataFrame, kept: list[str]) -> Table:
    sound = pl.col("problem").is_null()
    return Table(
        path, holds, frame.filter(sound).select(kept), frame.filter(~sound).select("line", "text", "problem")
    )


def _field(index: int) -> pl.Expr:
    return pl.col("fields").list.get(index, null_on_oob=True).str.strip_chars()


def _number(index: int) -> pl.Expr:
    return _field(index).cast(pl.Float64, strict=False)


def _whole_number(index: int) -> pl.Expr:
    """Of at most 31 bits, as the strict readers ask."""
    text = _field(index)
    number = pl.when(text.str.contains(r"^[+-]?[0-9]{1,11}$")).then(text.str.strip_prefix("+"))
    number = number.cast(pl.Int64, strict=False)
    return pl.when(number.abs() < 2**31).then(number)


def _is_no_number(name: str) -> pl.Expr:
    return pl.col(name).is_null() | ~pl.col(name).is_finite()


def _milliseconds() -> pl.Expr:
    return (pl.col("timestamp") * 1000).round()


def _strict_table(path: Path) -> Table:
    """Person boxes of a format without lines, by the strict reader."""
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
