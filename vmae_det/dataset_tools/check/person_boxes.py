"""Person box checks: recall of the annotated persons, and the likely cause if it is low."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from vmae_det.dataset_tools.check.report import (
    IOU_THRESHOLD,
    MAX_EXAMPLES,
    Example,
    Finding,
    RecallRow,
    rows_finding,
)
from vmae_det.formats.box_csv import COORDINATES

THRESHOLDS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
USUAL_THRESHOLD = 0.8  # default of TEST.PERSON_BOX_SCORE
LOW_RECALL = 0.1  # the person boxes of a video with a lower recall are considered wrong
_FEW = 3  # a video can have this many keyframes, or persons, without a box by chance
_SAMPLE_VIDEOS = 10  # from which the time shift is estimated
_MAX_CANDIDATES = 200  # videos that are tried for exchanged ids
_DETECTED = [f"{name}_found" for name in COORDINATES]


def annotated_persons(rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each annotated person: `video`, `ms`, `x1` ... `y2`."""
    boxed = rows.filter(pl.col("x1").is_not_null()).select("video", "ms", *COORDINATES)
    return boxed.unique(["video", "ms", *COORDINATES], keep="first", maintain_order=True)


def _pairs(persons: pl.DataFrame, boxes: pl.DataFrame) -> pl.DataFrame:
    """Return all pairs of a person and a box in one keyframe.

    Columns: `person` and `box` (row numbers), `video`, `score`, `iou`.
    """
    left = persons.with_row_index("person").select("person", "video", "ms", *COORDINATES)
    right = boxes.with_row_index("box").select(
        "box", "video", "ms", "score", *(pl.col(n).alias(f) for n, f in zip(COORDINATES, _DETECTED))
    )
    return left.join(right, on=["video", "ms"], how="inner").select(
        "person", "box", "video", "score", _iou(COORDINATES, _DETECTED).alias("iou")
    )


def _iou(first: tuple[str, ...], second: list[str]) -> pl.Expr:
    x1, y1, x2, y2 = map(pl.col, first)
    u1, v1, u2, v2 = map(pl.col, second)
    width = (pl.min_horizontal(x2, u2) - pl.max_horizontal(x1, u1)).clip(0)
    height = (pl.min_horizontal(y2, v2) - pl.max_horizontal(y1, v1)).clip(0)
    intersection = width * height
    return intersection / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - intersection)


def recall_table(persons: pl.DataFrame, boxes: pl.DataFrame) -> list[RecallRow]:
    """Return a row for each of `THRESHOLDS`; none without persons."""
    if persons.is_empty():
        return []
    keyframes = persons.select("video", "ms").unique()
    boxes = boxes.join(keyframes, on=["video", "ms"], how="semi", maintain_order="left")
    matches = _pairs(persons, boxes).filter(pl.col("iou") >= IOU_THRESHOLD)
    table = []
    for threshold in THRESHOLDS:
        number = int((boxes["score"] >= threshold).sum())
        kept = matches.filter(pl.col("score") >= threshold)
        covered, correct = kept["person"].n_unique(), kept["box"].n_unique()
        precision = correct / number if number else 0.0
        table.append(RecallRow(threshold, covered / len(persons), precision, number / len(keyframes)))
    return table


def compare_persons(
    persons: pl.DataFrame,
    boxes: pl.DataFrame,
    all_boxes: pl.DataFrame,
    path: Path,
    annotated: set[str],
    with_file: set[str],
) -> list[Finding]:
    """Return findings about person boxes that do not match the annotated persons, video by video.

    Args:
        persons: from `annotated_persons`, of valid rows.
        boxes: valid rows of person boxes.
        all_boxes: all rows of person boxes that can be parsed.
        path: the file of person boxes.
        annotated: ids of all annotated videos, including those with invalid rows.
        with_file: ids of the videos that have a file.
    """
    found = _wrong_video_findings(persons, all_boxes, path, annotated, with_file)
    judged = persons.filter(pl.col("video").is_in(list(set(boxes["video"].unique()))))
    wrong_times, timed = _wrong_time_findings(judged, boxes, path)
    return found + wrong_times + _misplaced_findings(timed, boxes, path)


def _wrong_video_findings(
    persons: pl.DataFrame, all_boxes: pl.DataFrame, path: Path, annotated: set[str], with_file: set[str]
) -> list[Finding]:
    present, wanted = (set(rows["video"].unique()) for rows in (all_boxes, persons))
    missing = sorted(wanted - present)
    unknown = all_boxes.filter(~pl.col("video").is_in(list(annotated | with_file)))
    unannotated = all_boxes.filter(
        ~pl.col("video").is_in(list(annotated)) & pl.col("video").is_in(list(with_file))
    ).unique("video", keep="first", maintain_order=True)
    found = []
    if len(unknown):
        advice = "person boxes must have the same video ids as the annotations" + _similar_video(
            unknown["video"].unique().to_list(), missing
        )
        text = f"of {len(all_boxes)} person boxes are of videos that are neither annotated nor have a file"
        found += rows_finding("person_boxes_wrong_video", unknown, path, text, advice)
    elif missing:
        examples = tuple(Example(str(path), None, f"no box of {name}") for name in missing[:MAX_EXAMPLES])
        text = f"{len(missing)} of {len(wanted)} annotated videos have no person boxes"
        advice = "no action can be detected in them: run the person detector on them"
        found.append(Finding("person_boxes_missing", len(missing), text, examples, advice))
    text = f"of {len(present)} videos with person boxes have no annotations"
    advice = "detections in them cannot be evaluated; use only person boxes of this set"
    return found + rows_finding("person_boxes_not_annotated", unannotated, path, text, advice)


def _similar_video(unknown: list[str], missing: list[str]) -> str:
    """Return which annotated video without boxes an unknown id may be."""
    for name in sorted(unknown):
        for other in missing:
            if other.lower() in name.lower() or name.lower() in other.lower():
                return f"; '{name}' may be '{other}'"
    if len(missing) == 1:
        return f"; '{missing[0]}' has no boxes"
    return f"; {len(missing)} annotated videos have no boxes, such as '{missing[0]}'" if missing else ""


def _wrong_time_findings(
    persons: pl.DataFrame, boxes: pl.DataFrame, path: Path
) -> tuple[list[Finding], pl.DataFrame]:
    """Find videos whose person boxes are at none of their annotated keyframes.

    Returns:
        The finding, and the persons of the keyframes that have boxes.
    """
    keys = ["video", "ms"]
    keyframes = persons.select(keys).unique()
    detected = boxes.select(keys).unique()
    matched = keyframes.join(detected, on=keys, how="semi")
    timed = persons.join(detected, on=keys, how="semi", maintain_order="left")
    unmatched = keyframes.join(matched.select("video").unique(), on="video", how="anti")
    counts = unmatched.group_by("video").len()
    videos = counts if matched.is_empty() else counts.filter(pl.col("len") >= _FEW)
    wrong = boxes.filter(pl.col("video").is_in(videos["video"].to_list()))
    sample = videos.head(_SAMPLE_VIDEOS)
    pairs = unmatched.join(sample, on="video", how="semi").join(detected, on="video", suffix="_found")
    shift = _common_shift(pairs, int(sample["len"].sum()))
    guess = f"; they come {abs(shift):g} s {'later' if shift > 0 else 'earlier'}" if shift else ""
    text = (
        f"person boxes, all boxes of {len(videos)} videos, are at none of the annotated keyframes of their "
        "video"
    )
    advice = f"write the annotations' timestamps, in seconds on the same clock{guess}"
    return rows_finding("person_boxes_wrong_time", wrong, path, text, advice), timed


def _common_shift(pairs: pl.DataFrame, keyframes: int) -> float:
    """Return the seconds by which person boxes come later in most keyframes; 0 if it is ambiguous."""
    shifts = pairs.select(((pl.col("ms_found") - pl.col("ms")) / 1000).alias("shift"))["shift"].value_counts()
    if shifts.is_empty():
        return 0.0
    best = shifts.filter(pl.col("count") == pl.col("count").max())
    shift, count = best.row(0)
    return shift if len(best) == 1 and count >= 0.5 * keyframes else 0.0


def _misplaced_findings(persons: pl.DataFrame, boxes: pl.DataFrame, path: Path) -> list[Finding]:
    """Return the finding of videos in which almost no person is covered."""
    recall = _recall_by_video(persons, boxes)
    wrong = recall.filter((pl.col("recall") < LOW_RECALL) & (pl.col("persons") > _FEW))
    if (
        recall["persons"].sum()
        and (recall["recall"] * recall["persons"]).sum() < LOW_RECALL * recall["persons"].sum()
    ):
        wrong = recall.filter(pl.col("recall") < LOW_RECALL)
    names = wrong["video"].to_list()
    bad = boxes.filter(pl.col("video").is_in(names))
    if bad.is_empty():
        return []
    advice = _misplaced_advice(persons.filter(pl.col("video").is_in(names)), bad, boxes)
    text = f"person boxes, in {len(names)} of {len(recall)} videos, overlap almost no annotated person"
    return rows_finding("person_boxes_misplaced", bad, path, text, advice)


def _recall_by_video(persons: pl.DataFrame, boxes: pl.DataFrame) -> pl.DataFrame:
    """Return `video`, the number of `persons`, and the fraction `recall` that a box of any score covers."""
    matched = _pairs(persons, boxes).filter(pl.col("iou") >= IOU_THRESHOLD).select("person").unique()
    covered = persons.with_row_index("person").with_columns(
        pl.col("person").is_in(matched["person"].implode()).alias("covered")
    )
    return covered.group_by("video", maintain_order=True).agg(
        pl.len().alias("persons"), pl.col("covered").mean().alias("recall")
    )


# Other meanings of a box's four columns, converted to (x1, y1, x2, y2).
_BOX_FORMATS: dict[str, Callable[[Any, Any, Any, Any], tuple[Any, Any, Any, Any]]] = {
    "x, y, width, height": lambda a, b, c, d: (a, b, a + c, b + d),
    "center x, center y, width, height": lambda a, b, c, d: (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    "y1, x1, y2, x2": lambda a, b, c, d: (b, a, d, c),
    "x1, x2, y1, y2": lambda a, b, c, d: (a, c, b, d),
    "horizontally flipped": lambda a, b, c, d: (1 - c, b, 1 - a, d),
    "measured from the bottom edge": lambda a, b, c, d: (a, 1 - d, c, 1 - b),
}


def _misplaced_advice(persons: pl.DataFrame, bad: pl.DataFrame, boxes: pl.DataFrame) -> str:
    """Return the box format, scale or video with which half of the persons are covered."""
    for name, convert in _BOX_FORMATS.items():
        if _cover_half(persons, _with_coordinates(bad, *convert(*map(pl.col, COORDINATES)))):
            return f"they fit if interpreted as {name}; expected x1, y1, x2, y2"
    x, y = (_scale(persons, bad, *axis) for axis in (("x1", "x2"), ("y1", "y2")))
    x1, y1, x2, y2 = map(pl.col, COORDINATES)
    if _cover_half(persons, _with_coordinates(bad, x * x1, y * y1, x * x2, y * y2)):
        return (
            f"they fit if x is multiplied by {x:.3g} and y by {y:.3g}; were they divided by another frame "
            "size?"
        )
    name = persons["video"].min()
    persons_of_video = persons.filter(pl.col("video") == name)
    for other in boxes["video"].unique().sort().head(_MAX_CANDIDATES):
        moved = boxes.filter(pl.col("video") == other).with_columns(pl.lit(name).alias("video"))
        if other != name and _cover_half(persons_of_video, moved):
            return f"the boxes of '{other}' fit the persons of '{name}': are video ids exchanged?"
    return "look at them with --sheets: boxes of another video, another scale, or another column order?"


def _with_coordinates(boxes: pl.DataFrame, *coordinates: pl.Expr) -> pl.DataFrame:
    return boxes.with_columns(**dict(zip(COORDINATES, coordinates)))


def _cover_half(persons: pl.DataFrame, boxes: pl.DataFrame) -> bool:
    """Return whether boxes cover at least half of the persons."""
    matched = _pairs(persons, boxes).filter(pl.col("iou") >= IOU_THRESHOLD)
    return matched["person"].n_unique() >= 0.5 * len(persons)


def _scale(persons: pl.DataFrame, boxes: pl.DataFrame, low: str, high: str) -> float:
    """Return the median center of the persons divided by that of the boxes, along one axis."""
    truth, found = (((rows[low] + rows[high]) / 2).median() for rows in (persons, boxes))
    return truth / found if truth and found else 1.0


def low_score_findings(table: list[RecallRow], path: Path) -> list[Finding]:
    """Return a warning if the usual threshold drops half of the persons that the boxes cover."""
    recall = {row.threshold: row.recall for row in table}
    if not table or recall[USUAL_THRESHOLD] >= 0.5 * recall[0.0]:
        return []
    what = (
        f"person boxes cover {recall[0.0]:.1%} of the annotated persons, but {recall[USUAL_THRESHOLD]:.1%} "
        f"with a score of at least {USUAL_THRESHOLD:g}"
    )
    advice = f"set TEST.PERSON_BOX_SCORE (default {USUAL_THRESHOLD:g}) according to the recall table"
    return [Finding("person_boxes_low_scores", 1, what, (Example(str(path), None, what),), advice)]
