"""What the doctor finds, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

MAX_EXAMPLES = 5

KINDS = {
    "malformed_line": "a line that cannot be read: too few columns, words for numbers, a header",
    "no_rows": "a file or folder in which nothing usable is left",
    "broken_file": "a file that cannot be read at all",
    "missing_video": "annotations name a video that is not there",
    "unreadable_video": "a video file that is empty, cut off, without frames, or no video",
    "keyframe_outside_video": "a keyframe before the beginning or past the end of its video",
    "wrong_video_start": "keyframes lie outside the videos, and another video_start would mend it",
    "frame_number_as_timestamp": "timestamps that count frames; seconds are expected",
    "box_in_pixels": "a box in pixels; parts of the frame in [0, 1] are expected",
    "box_as_xywh": "a box as x, y, width, height; x1, y1, x2, y2 are expected",
    "box_reversed": "a box whose second corner comes before the first",
    "box_empty": "a box without area",
    "box_outside_frame": "a box that reaches outside the frame",
    "unknown_action": "an action id, or a class, that the label map lacks",
    "duplicate_row": "a line that stands in the file already",
    "too_many_person_boxes": "a keyframe with more person boxes than can be handled",
    "score_outside_range": "a person's score that is not in [0, 1]",
    "video_in_both_sets": "a video that the training and the validation set share",
    "person_boxes_wrong_video": "person boxes under a video id that is neither annotated nor has a file",
    "person_boxes_missing": "an annotated video without any person box",
    "person_boxes_wrong_time": "person boxes at other times than the annotations of their video",
    "person_boxes_misplaced": "person boxes at the right times that do not overlap the annotated persons",
    "class_not_trained": "a class of the validation set that the training set's label map lacks",
    "class_ids_differ": "a class with another id, or place, in the label map of the other set",
    "class_without_training_rows": "a class of the label map that the training set never shows",
    "class_without_rows": "a class of the label map that the validation set never shows",
    "person_boxes_low_scores": "person boxes that find the people, but with scores below the usual threshold",
    "person_boxes_not_annotated": "person boxes of a video that has a file and no annotations",
    "person_boxes_repeated": "a person box that its keyframe has already",
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
    """One place: a file, its line where it has lines, and what stands there."""

    path: str
    line: int | None
    text: str

    def __str__(self) -> str:
        return f"{self.path}{'' if self.line is None else f':{self.line}'}: {self.text}"


@dataclass(frozen=True)
class Finding:
    """Something wrong.

    Args:
        kind: a key of `KINDS`.
        count: how many (rows, videos, classes: `what` says which).
        what: the finding in one sentence.
        examples: the first few.
        advice: what to do about it.
    """

    kind: str
    count: int
    what: str
    examples: tuple[Example, ...]
    advice: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"'{self.kind}' is no kind of finding")

    @property
    def is_warning(self) -> bool:
        """Whether the dataset can be used all the same."""
        return self.kind in WARNINGS

    def to_json(self) -> dict[str, Any]:
        """The finding as plain data."""
        return {
            "kind": self.kind,
            "severity": "warning" if self.is_warning else "error",
            "count": self.count,
            "what": self.what,
            "examples": [{"file": e.path, "line": e.line, "text": e.text} for e in self.examples],
            "advice": self.advice,
        }


def finding_of_rows(
    kind: str, rows: pl.DataFrame, path: Path | str, what: str, advice: str, text: str = "text"
) -> list[Finding]:
    """The finding that all `rows` (with `line` and the column named by `text`) are; none without rows."""
    if rows.is_empty():
        return []
    first = rows.head(MAX_EXAMPLES).select("line", text).iter_rows()
    examples = tuple(Example(str(path), line, shorten(content)) for line, content in first)
    return [Finding(kind, len(rows), f"{len(rows)} {what}", examples, advice)]


def shorten(text: str, width: int = 90) -> str:
    """The text on one line, unprintable characters escaped, cut when long."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= width else text[: width - 3] + "..."
