"""Findings of a dataset check, and the report as text and JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

MAX_EXAMPLES = 5
IOU_THRESHOLD = 0.5  # at which a person box covers an annotated person

KINDS = {
    "malformed_line": "a line that cannot be parsed: missing columns, text instead of numbers, a header",
    "no_rows": "a file or folder without usable content",
    "broken_file": "a file that cannot be read",
    "missing_video": "annotations of a video that does not exist",
    "unreadable_video": "a video file that is empty, truncated, without frames, or not a video",
    "keyframe_outside_video": "a keyframe before the start or after the end of its video",
    "wrong_video_start": "keyframes outside their videos that another video_start would move into them",
    "frame_number_as_timestamp": "timestamps that are frame numbers; expected seconds",
    "box_in_pixels": "a box in pixels; expected coordinates relative to the frame, in [0, 1]",
    "box_as_xywh": "a box as x, y, width, height; expected x1, y1, x2, y2",
    "box_reversed": "a box whose second corner comes before the first",
    "box_empty": "a box without area",
    "box_outside_frame": "a box that reaches outside the frame",
    "unknown_action": "an action id, or a class, that is not in the label map",
    "duplicate_row": "a line that repeats another line of the file",
    "too_many_person_boxes": "a keyframe with more person boxes than supported",
    "score_outside_range": "a person score outside [0, 1]",
    "video_in_both_sets": "a video that is in the training and in the validation set",
    "person_boxes_wrong_video": "person boxes of a video that is neither annotated nor has a file",
    "person_boxes_missing": "an annotated video without person boxes",
    "person_boxes_wrong_time": "person boxes at other timestamps than the annotations of their video",
    "person_boxes_misplaced": "person boxes at the right timestamps that do not overlap the annotated "
    "persons",
    "class_not_trained": "a class of the validation set that is not in the training set's label map",
    "class_ids_differ": "a class with another id, or position, in the label map of the other set",
    "class_without_training_rows": "a class of the label map without rows in the training set",
    "class_without_rows": "a class of the label map without rows in the validation set",
    "person_boxes_low_scores": "person boxes that cover the persons, but with scores below the usual "
    "threshold",
    "person_boxes_not_annotated": "person boxes of a video that has a file but no annotations",
    "person_boxes_repeated": "a person box that repeats another box of its keyframe",
}
WARNINGS = frozenset(
    (
        "class_ids_differ",
        "class_without_rows",
        "person_boxes_low_scores",
        "person_boxes_not_annotated",
        "person_boxes_repeated",
    )
)


@dataclass(frozen=True)
class Example:
    """One occurrence of a finding: the file, its line if it has lines, and the content."""

    path: str
    line: int | None
    text: str

    def __str__(self) -> str:
        return f"{self.path}{'' if self.line is None else f':{self.line}'}: {self.text}"


@dataclass(frozen=True)
class Finding:
    """A problem of the dataset.

    Args:
        kind: a key of `KINDS`.
        count: number of occurrences (rows, videos or classes, see `what`).
        what: the problem in one sentence.
        examples: the first occurrences, at most `MAX_EXAMPLES`.
        advice: how to fix it.
    """

    kind: str
    count: int
    what: str
    examples: tuple[Example, ...]
    advice: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"expected a key of KINDS as the kind of a finding, got '{self.kind}'")

    @property
    def is_warning(self) -> bool:
        """Whether the dataset can be used without fixing this."""
        return self.kind in WARNINGS

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain data."""
        return {
            "kind": self.kind,
            "severity": "warning" if self.is_warning else "error",
            "count": self.count,
            "what": self.what,
            "examples": [{"file": e.path, "line": e.line, "text": e.text} for e in self.examples],
            "advice": self.advice,
        }


def rows_finding(
    kind: str, rows: pl.DataFrame, path: Path | str, what: str, advice: str, text: str = "text"
) -> list[Finding]:
    """Return one finding about all `rows` of a file, or none without rows.

    Args:
        rows: with a column `line`, and a column called `text` with the content to show.
        what: continues the number of rows, as in "of 80 boxes are in pixels".
    """
    if rows.is_empty():
        return []
    first = rows.head(MAX_EXAMPLES).select("line", text).iter_rows()
    examples = tuple(Example(str(path), line, _shorten(content)) for line, content in first)
    return [Finding(kind, len(rows), f"{len(rows)} {what}", examples, advice)]


def _shorten(text: str, width: int = 90) -> str:
    """Return the text on one line, with unprintable characters escaped, truncated to `width`."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= width else text[: width - 3] + "..."


@dataclass(frozen=True)
class RecallRow:
    """Precision and recall of the person boxes with a minimum score, in annotated keyframes.

    Args:
        threshold: the minimum score.
        recall: fraction of the annotated persons that a box covers at an IoU of 0.5.
        precision: fraction of the boxes that cover a person.
        boxes_per_keyframe: mean number of boxes in a keyframe.
    """

    threshold: float
    recall: float
    precision: float
    boxes_per_keyframe: float

    def to_json(self) -> dict[str, float]:
        """Return the row as plain data."""
        return {name: round(value, 6) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Report:
    """Result of a dataset check.

    Args:
        dataset: name of the dataset, or its file.
        type: "detection", "classification" or "videos".
        training: whether the dataset was checked as a training set.
        against: the dataset that must not share videos with it; '' if there is none.
        counts: number of videos, rows and so on.
        findings: errors first.
        class_rows: number of rows by class name.
        recall: precision and recall of the person boxes, by score.
        keyframes: which frame is the keyframe, as an example.
    """

    dataset: str
    type: str
    training: bool
    against: str
    counts: dict[str, int]
    findings: list[Finding]
    class_rows: dict[str, int] = field(default_factory=dict)
    recall: list[RecallRow] = field(default_factory=list)
    keyframes: str = ""

    @property
    def errors(self) -> list[Finding]:
        """Findings that must be fixed."""
        return [finding for finding in self.findings if not finding.is_warning]

    @property
    def warnings(self) -> list[Finding]:
        """Findings that need not be fixed."""
        return [finding for finding in self.findings if finding.is_warning]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "dataset": self.dataset,
            "type": self.type,
            "training": self.training,
            "against": self.against,
            "ok": not self.errors,
            "counts": self.counts,
            "findings": [finding.to_json() for finding in self.findings],
            "class_rows": self.class_rows,
            "person_box_recall": [row.to_json() for row in self.recall],
            "keyframes": self.keyframes,
        }

    def as_text(self) -> str:
        """Return the report as text for the terminal."""
        kind = f"{self.type}, {'training' if self.training else 'validation'} set"
        if self.type == "videos":
            kind = "videos without labels"
        elif self.type not in ("classification", "detection"):
            kind += "; only the videos of a custom type are checked"
        lines = [f"{self.dataset}: {kind}"]
        lines.append("  " + ", ".join(f"{count} {name}" for name, count in self.counts.items()))
        if self.against:
            lines.append(f"  compared with {self.against}")
        if self.keyframes:
            lines.append(f"  {self.keyframes}")
        for finding in self.findings:
            lines += ["", *_finding_lines(finding)]
        if self.recall:
            lines += ["", *_recall_lines(self.recall)]
        return "\n".join([*lines, "", self.verdict])

    @property
    def verdict(self) -> str:
        """Number of errors and warnings."""
        return f"{_count(self.errors, 'error')}, {_count(self.warnings, 'warning')}"


def _count(findings: list[Finding], name: str) -> str:
    return f"{len(findings) or 'no'} {name}{'' if len(findings) == 1 else 's'}"


def _finding_lines(finding: Finding) -> list[str]:
    severity = "warning" if finding.is_warning else "ERROR"
    lines = [f"{severity} {finding.kind}: {finding.what}"]
    lines += [f"    {example}" for example in finding.examples]
    if finding.count > len(finding.examples) > 0:
        lines.append(f"    ... and {finding.count - len(finding.examples)} more")
    return [*lines, f"  -> {finding.advice}"]


def _recall_lines(table: list[RecallRow]) -> list[str]:
    return [
        f"person boxes compared with annotated persons, at IoU {IOU_THRESHOLD:g}, in annotated keyframes",
        "  score >=   recall   precision   boxes per keyframe",
        *(
            f"  {row.threshold:8.2f} {row.recall:8.1%} {row.precision:11.1%} {row.boxes_per_keyframe:20.2f}"
            for row in table
        ),
    ]
