"""Person boxes against annotated persons: recall, and why there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from vmae_det.dataset_tools.check.findings import MAX_EXAMPLES, Example, Finding, finding_of_rows
from vmae_det.formats.box_csv import COORDINATES

IOU = 0.5
THRESHOLDS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
USUAL_THRESHOLD = 0.8  # TEST.PERSON_BOX_SCORE
LOW_RECALL = 0.1  # below it a video's person boxes are taken for wrong ones
_FEW = 3  # keyframes; so few of a video may go without a box by chance
_SAMPLE = 10  # videos on which a guess is made
_MOST_VIDEOS = 200  # that are looked through for mixed up ids
_DETECTED = [f"{name}_found" for name in COORDINATES]


@dataclass(frozen=True)
class RecallRow:
    """Person boxes of at least one score, in annotated keyframes.

    Args:
        threshold: the score.
        recall: share of the annotated persons that a box covers at IoU 0.5.
        precision: share of the boxes that cover a person.
        boxes_per_keyframe: how many there are.
    """

    threshold: float
    recall: float
    precision: float
    boxes_per_keyframe: float

    def to_json(self) -> dict[str, float]:
        """The row as plain data."""
        return {name: round(value, 6) for name, value in vars(self).items()}


def annotated_persons(rows: pl.DataFrame) -> pl.DataFrame:
    """One row for each annotated person: `video`, `ms`, `x1` ... `y2`."""
    boxed = rows.filter(pl.col("x1").is_not_null()).select("video", "ms", *COORDINATES)
    return boxed.unique(["video", "ms", *COORDINATES], keep="first", maintain_order=True)


def _pairs(persons: pl.DataFrame, boxes: pl.DataFrame) -> pl.DataFrame:
    """Pairs of a person and a box (row numbers `person`, `box`) of one keyframe, with `iou` and `score`."""
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
    shared = width * height
    return shared / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared)


def recall_table(persons: pl.DataFrame, boxes: pl.DataFrame) -> list[RecallRow]:
    """A row for each of `THRESHOLDS`; none without persons."""
    if persons.is_empty():
        return []
    keyframes = persons.select("video", "ms").unique()
    boxes = boxes.join(keyframes, on=["video", "ms"], how="semi", maintain_order="left")
    good = _pairs(persons, boxes).filter(pl.col("iou") >= IOU)
    table = []
    for threshold in THRESHOLDS:
        number = int((boxes["score"] >= threshold).sum())
        kept = good.filter(pl.col("score") >= threshold)
        found, right = kept["person"].n_unique(), kept["box"].n_unique()
        precision = right / number if number else 0.0
        table.append(RecallRow(threshold, found / len(persons), precision, number / len(keyframes)))
    return table


def compare_persons(
    persons: pl.DataFrame,
    boxes: pl.DataFrame,
    all_boxes: pl.DataFrame,
    path: Path,
    annotated: set[str],
    with_file: set[str],
) -> list[Finding]:
    """What is wrong with person boxes, video by video.

    Args:
        persons: of `annotated_persons`, of videos and times that are sound.
        boxes: sound rows of person boxes.
        all_boxes: all rows that can be read.
        path: the file of person boxes.
        annotated: ids of all videos that have annotations, sound or not.
        with_file: ids that have a video file.
    """
    found = _wrong_videos(persons, all_boxes, path, annotated, with_file)
    judged = persons.filter(pl.col("video").is_in(list(set(boxes["video"].unique()))))
    late, timed = _wrong_times(judged, boxes, path)
    return found + late + _misplaced(timed, boxes, path)


def _wrong_videos(
    persons: pl.DataFrame, all_boxes: pl.DataFrame, path: Path, annotated: set[str], with_file: set[str]
) -> list[Finding]:
    present, wanted = (set(rows["video"].unique()) for rows in (all_boxes, persons))
    missing = sorted(wanted - present)
    strange = all_boxes.filter(~pl.col("video").is_in(list(annotated | with_file)))
    surplus = all_boxes.filter(
        ~pl.col("video").is_in(list(annotated)) & pl.col("video").is_in(list(with_file))
    ).unique("video", keep="first", maintain_order=True)
    found = []
    if len(strange):
        advice = "person boxes must carry the same video ids as the annotations" + _same_video(
            strange["video"].unique().to_list(), missing
        )
        text = f"of {len(all_boxes)} person boxes are of videos that are neither annotated nor have a file"
        found += finding_of_rows("person_boxes_wrong_video", strange, path, text, advice)
    elif missing:
        examples = tuple(Example(str(path), None, f"no box of {name}") for name in missing[:MAX_EXAMPLES])
        text = f"{len(missing)} of {len(wanted)} annotated videos have no person boxes"
        advice = "no action can be detected there: run the person detector on them"
        found.append(Finding("person_boxes_missing", len(missing), text, examples, advice))
    text = f"of {len(present)} videos with person boxes have no annotations"
    advice = "detections there have nothing to be compared with; use person boxes of this set alone"
    return found + finding_of_rows("person_boxes_not_annotated", surplus, path, text, advice)


def _same_video(strange: list[str], missing: list[str]) -> str:
    """Which annotated video without boxes a strange id may mean."""
    for name in sorted(strange):
        for other in missing:
            if other.lower() in name.lower() or name.lower() in other.lower():
                return f"; '{name}' may be '{other}'"
    if len(missing) == 1:
        return f"; '{missing[0]}' has none"
    return f"; {len(missing)} annotated videos have none, such as '{missing[0]}'" if missing else ""


def _wrong_times(
    persons: pl.DataFrame, boxes: pl.DataFrame, path: Path
) -> tuple[list[Finding], pl.DataFrame]:
    """The finding of videos whose keyframes never meet, and the persons of keyframes that have boxes."""
    keys = ["video", "ms"]
    keyframes = persons.select(keys).unique()
    detected = boxes.select(keys).unique()
    met = keyframes.join(detected, on=keys, how="semi")
    timed = persons.join(detected, on=keys, how="semi", maintain_order="left")
    never = keyframes.join(met.select("video").unique(), on="video", how="anti")
    counts = never.group_by("video").len()
    enough = counts if met.is_empty() else counts.filter(pl.col("len") >= _FEW)
    wrong = boxes.filter(pl.col("video").is_in(enough["video"].to_list()))
    few = enough.head(_SAMPLE)
    pairs = never.join(few, on="video", how="semi").join(detected, on="video", suffix="_found")
    shift = _common_shift(pairs, int(few["len"].sum()))
    guess = f"; they come {abs(shift):g} s {'later' if shift > 0 else 'earlier'}" if shift else ""
    text = f"person boxes, all those of {len(enough)} videos, are at no annotated keyframe of their video"
    advice = f"write the annotations' timestamps, in seconds on the same clock{guess}"
    return finding_of_rows("person_boxes_wrong_time", wrong, path, text, advice), timed


def _common_shift(pairs: pl.DataFrame, keyframes: int) -> float:
    """The seconds by which person boxes come later in most keyframes; 0 where two answers are as good."""
    shifts = pairs.select(((pl.col("ms_found") - pl.col("ms")) / 1000).alias("shift"))["shift"].value_counts()
    if shifts.is_empty():
        return 0.0
    best = shifts.filter(pl.col("count") == pl.col("count").max())
    shift, count = best.row(0)
    return shift if len(best) == 1 and count >= 0.5 * keyframes else 0.0


def _misplaced(persons: pl.DataFrame, boxes: pl.DataFrame, path: Path) -> list[Finding]:
    """The finding of videos in which next to no person is covered."""
    share = _found_by_video(persons, boxes)
    wrong = share.filter((pl.col("recall") < LOW_RECALL) & (pl.col("persons") > _FEW))
    if (
        share["persons"].sum()
        and (share["recall"] * share["persons"]).sum() < LOW_RECALL * share["persons"].sum()
    ):
        wrong = share.filter(pl.col("recall") < LOW_RECALL)
    names = wrong["video"].to_list()
    bad = boxes.filter(pl.col("video").is_in(names))
    if bad.is_empty():
        return []
    advice = _place_advice(persons.filter(pl.col("video").is_in(names)), bad, boxes)
    text = f"person boxes, those of {len(names)} of {len(share)} videos, overlap next to no annotated person"
    return finding_of_rows("person_boxes_misplaced", bad, path, text, advice)


def _found_by_video(persons: pl.DataFrame, boxes: pl.DataFrame) -> pl.DataFrame:
    """`video`, `persons` and the share `recall` of them that a box of any score covers."""
    good = _pairs(persons, boxes).filter(pl.col("iou") >= IOU).select("person").unique()
    seen = persons.with_row_index("person").with_columns(
        pl.col("person").is_in(good["person"].implode()).alias("ok")
    )
    return seen.group_by("video", maintain_order=True).agg(
        pl.len().alias("persons"), pl.col("ok").mean().alias("recall")
    )


# What boxes may have been meant as: (x1, y1, x2, y2) of the columns as they stand.
_READINGS: dict[str, Callable[[Any, Any, Any, Any], tuple[Any, Any, Any, Any]]] = {
    "x, y, width, height": lambda a, b, c, d: (a, b, a + c, b + d),
    "centre x, centre y, width, height": lambda a, b, c, d: (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    "y1, x1, y2, x2": lambda a, b, c, d: (b, a, d, c),
    "x1, x2, y1, y2": lambda a, b, c, d: (a, c, b, d),
    "mirrored, left for right": lambda a, b, c, d: (1 - c, b, 1 - a, d),
    "measured from the lower border": lambda a, b, c, d: (a, 1 - d, c, 1 - b),
}


def _place_advice(persons: pl.DataFrame, bad: pl.DataFrame, boxes: pl.DataFrame) -> str:
    """The reading, scale or video by which half of the persons are covered."""
    for name, reading in _READINGS.items():
        if _cover(persons, _placed(bad, *reading(*map(pl.col, COORDINATES)))):
            return f"they fit when read as {name}; x1, y1, x2, y2 are expected"
    x, y = (_scale(persons, bad, *axis) for axis in (("x1", "x2"), ("y1", "y2")))
    x1, y1, x2, y2 = map(pl.col, COORDINATES)
    if _cover(persons, _placed(bad, x * x1, y * y1, x * x2, y * y2)):
        return f"they fit when x is multiplied by {x:.3g} and y by {y:.3g}: was another size divided by?"
    name = persons["video"].min()
    own = persons.filter(pl.col("video") == name)
    for other in boxes["video"].unique().sort().head(_MOST_VIDEOS):
        moved = boxes.filter(pl.col("video") == other).with_columns(pl.lit(name).alias("video"))
        if other != name and _cover(own, moved):
            return f"the boxes of '{other}' fit the persons of '{name}': are video ids mixed up?"
    return "look at them with --sheets: another video's boxes, another scale, or another order of columns?"


def _placed(boxes: pl.DataFrame, *coordinates: pl.Expr) -> pl.DataFrame:
    return boxes.with_columns(**dict(zip(COORDINATES, coordinates)))


def _cover(persons: pl.DataFrame, boxes: pl.DataFrame) -> bool:
    """Whether boxes cover half of the persons."""
    good = _pairs(persons, boxes).filter(pl.col("iou") >= IOU)
    return good["person"].n_unique() >= 0.5 * len(persons)


def _scale(persons: pl.DataFrame, boxes: pl.DataFrame, low: str, high: str) -> float:
    """Median centre of the persons over that of the boxes, along one axis."""
    truth, found = (((rows[low] + rows[high]) / 2).median() for rows in (persons, boxes))
    return truth / found if truth and found else 1.0


def low_score_findings(table: list[RecallRow], path: Path) -> list[Finding]:
    """A warning where the usual threshold loses half of the persons that the boxes cover."""
    recall = {row.threshold: row.recall for row in table}
    if not table or recall[USUAL_THRESHOLD] >= 0.5 * recall[0.0]:
        return []
    what = (
        f"person boxes cover {recall[0.0]:.1%} of the annotated persons, and {recall[USUAL_THRESHOLD]:.1%} "
        f"with a score of {USUAL_THRESHOLD:g} or more"
    )
    advice = f"set TEST.PERSON_BOX_SCORE (usually {USUAL_THRESHOLD:g}) by the table of recall"
    return [Finding("person_boxes_low_scores", 1, what, (Example(str(path), None, what),), advice)]
