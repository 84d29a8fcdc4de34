"""Check of detection datasets: annotations, person boxes, label map and videos, each and together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from vmae_det.data.catalog import DatasetSpec
from vmae_det.dataset_tools.check.boxes import box_findings, mark_bad_boxes
from vmae_det.dataset_tools.check.classes import rows_by_class, unknown_action_findings, unseen_class_findings
from vmae_det.dataset_tools.check.context import CheckContext
from vmae_det.dataset_tools.check.person_boxes import (
    annotated_persons,
    compare_persons,
    low_score_findings,
    recall_table,
)
from vmae_det.dataset_tools.check.report import Finding, rows_finding
from vmae_det.dataset_tools.check.tables import Table, read_table
from vmae_det.dataset_tools.check.timestamps import add_starts, mark_bad_timestamps, timestamp_findings
from vmae_det.dataset_tools.check.videos import files_by_id, missing_findings, resolved_paths, video_table
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.box_csv import COORDINATES
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import MAX_PERSONS, read_person_boxes
from vmae_det.formats.video_starts import VideoStarts
from vmae_det.utils.errors import DataError
from vmae_det.video.discovery import videos_by_id
from vmae_det.video.readers.tar_shard import key_of
from vmae_det.video.sampling import describe_keyframe
from vmae_det.video.shards import Shards

_ROW_KEYS = {
    "annotations": ["video", "ms", *COORDINATES, "action", "person"],
    "person_boxes": ["video", "ms", *COORDINATES],
}
_REPEATED = {
    "annotations": ("duplicate_row", "remove the copies: each counts as another person"),
    "person_boxes": ("person_boxes_repeated", "they count as one box, with the highest score"),
}


def check_detection(context: CheckContext) -> None:
    """Check annotations, person boxes, label map and videos of a detection dataset."""
    spec = context.spec
    label_map = context.read_label_map()
    context.compare_classes(label_map)
    annotations = context.read_table(spec.annotations, "annotations")
    boxes = context.read_table(spec.person_boxes, "person_boxes")
    excluded = context.read_table(spec.excluded, "excluded")

    files = files_by_id(spec.videos)
    tables = [table for table in (annotations, boxes) if table is not None]
    named = {name for table in tables for name in table.rows["video"].unique()}
    infos = context.probe(files[name] for name in named & files.keys())
    videos = video_table({name: infos[files[name]] for name in named & files.keys()})

    truth = None
    if annotations is not None:
        context.findings += missing_findings(annotations.rows, annotations.path, files, spec.videos)
        truth = _check_rows(context, annotations, videos)
        _check_classes(context, truth, annotations.path, label_map)
        context.keyframes = _describe_keyframes(truth, videos)
        shared = _check_shared_videos(context, annotations)
    if boxes is not None:
        start_fits = truth is not None and (truth["time_fault"] == "wrong_video_start").sum() == 0
        shifted_kind = "person_boxes_wrong_time" if start_fits else "wrong_video_start"
        detected = _check_rows(context, boxes, videos, shifted_kind)
        context.findings += _score_findings(detected, boxes.path)
        # As in read_person_boxes: several lines of one box (one for each label) are one person.
        same = _ROW_KEYS["person_boxes"]
        detected = detected.with_columns(pl.col("score").max().over(same)).unique(
            same, keep="first", maintain_order=True
        )
        context.counts["person boxes"] = len(detected)
    if boxes is not None and _max_per_keyframe(detected) > MAX_PERSONS:
        context.findings.append(
            Finding(
                "too_many_person_boxes",
                1,
                f"a keyframe has {_max_per_keyframe(detected)} person boxes, expected at most {MAX_PERSONS}",
                (),
                "remove boxes with low scores",
            )
        )
    elif boxes is not None and truth is not None and len(truth) and len(detected):
        kept = _valid_rows(truth).filter(~pl.col("video").is_in(list(shared)))
        if excluded is not None:
            kept = kept.join(excluded.rows, on=["video", "ms"], how="anti", maintain_order="left")
        persons, valid = annotated_persons(kept), _valid_rows(detected)
        with_file = persons.filter(pl.col("video").is_in(list(files)))
        context.findings += compare_persons(
            with_file, valid, detected, boxes.path, set(truth["video"].unique()), set(files)
        )
        context.recall = recall_table(persons, valid)
        context.findings += low_score_findings(context.recall, boxes.path)
    _run_strict_readers(context, annotations, boxes)


def _max_per_keyframe(rows: pl.DataFrame) -> int:
    return rows.group_by("video", "ms").len()["len"].max() or 0


def _describe_keyframes(rows: pl.DataFrame, videos: pl.DataFrame) -> str:
    """Describe which frame is the keyframe, with the first row inside its video as the example."""
    valid = pl.col("time_fault").is_null() & pl.col("start").is_not_null()
    good = rows.filter(valid).join(videos, on="video", maintain_order="left")
    if good.is_empty():
        return ""
    columns = ("video", "timestamp", "start", "frames", "seconds")
    video, timestamp, start, frames, seconds = good.select(columns).row(0)
    return describe_keyframe(video, timestamp, start, frames / seconds)


def _annotated_keys(spec: DatasetSpec) -> set[str]:
    """Return the keys of a dataset's annotated videos, see `_add_video_keys`; DataError if unreadable."""
    return set(_add_video_keys(read_table(spec.annotations, "annotations").rows, spec.videos)["key"])


def _add_video_keys(rows: pl.DataFrame, videos: Path | Shards) -> pl.DataFrame:
    """Add the column `key`: the path of the video without suffix. Ids of another folder can be the same."""
    if isinstance(videos, Shards):
        keys = dict(zip(videos_by_id(videos), (key_of(path) for path in resolved_paths(videos))))
        return rows.with_columns(key=pl.col("video").replace_strict(keys, default=pl.col("video")))
    return rows.with_columns(key=pl.lit(f"{videos.resolve()}/") + pl.col("video"))


def _check_shared_videos(context: CheckContext, annotations: Table) -> set[str]:
    """Add the finding of videos that the other dataset has too; return their ids."""
    rows = _add_video_keys(annotations.rows, context.spec.videos)
    shared = context.check_shared_videos(rows, annotations.path, _annotated_keys)
    return {key.rpartition("/")[2] for key in shared}


def _check_rows(
    context: CheckContext, table: Table, videos: pl.DataFrame, shifted_kind: str = "wrong_video_start"
) -> pl.DataFrame:
    """Check the rows of annotations or person boxes, and return them with their faults.

    Args:
        shifted_kind: as of `mark_bad_timestamps`.
    """
    start = context.spec.video_start
    has_table = isinstance(start, VideoStarts)
    rows = add_starts(mark_bad_boxes(table.rows, table.content), start)
    unknown = rows.filter(pl.col("start").is_null())["video"].unique(maintain_order=True)
    if len(unknown):
        error = DataError(f"no line for {len(unknown)} videos, such as '{unknown[0]}'")
        context.add_broken_file(start.path, error)
    rows = mark_bad_timestamps(rows, videos, None if has_table else shifted_kind)
    context.findings += box_findings(rows, table.path, videos, table.content)
    context.findings += timestamp_findings(rows, table.path, videos, start)
    same = _ROW_KEYS[table.content]
    repeated = rows.filter(pl.col("x1").is_not_null()).with_columns(first=pl.col("line").first().over(same))
    repeated = repeated.filter(~pl.struct(same).is_first_distinct()).with_columns(
        shown=pl.when(pl.col("first").is_null())
        .then("text")
        .otherwise(pl.concat_str("text", pl.lit("  (same as line "), "first", pl.lit(")")))
    )
    kind, advice = _REPEATED[table.content]
    context.findings += rows_finding(
        kind, repeated, table.path, f"of {len(rows)} rows repeat another row", advice, "shown"
    )
    return rows


def _valid_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows without a fault."""
    return rows.filter(pl.col("fault").is_null() & pl.col("time_fault").is_null())


def _check_classes(context: CheckContext, rows: pl.DataFrame, path: Path, label_map: LabelMap | None) -> None:
    context.counts |= {
        "videos": rows["video"].n_unique(),
        "keyframes": rows.select("video", "ms").n_unique(),
        "persons": len(annotated_persons(rows)),
        "labels": int(rows["action"].is_not_null().sum()),
    }
    if label_map is None:
        return
    label_file = context.spec.label_map
    context.findings += unknown_action_findings(rows, path, list(label_map.ids), label_file)
    counts = rows_by_class(rows, label_map)
    context.class_rows = {name: counts[number] for number, name in zip(label_map.ids, label_map.names)}
    if counts and len(rows):
        context.findings += unseen_class_findings(counts, label_map, path, context.training)


def _score_findings(rows: pl.DataFrame, path: Path) -> list[Finding]:
    bad = rows.filter(~pl.col("score").is_between(0, 1))
    fraction = len(bad) / max(len(rows), 1)
    guess = "Are the scores logits or percent, or is this ground truth, whose last column is the person id?"
    advice = "expected a score from 0 to 1 in the last column" + (f". {guess}" if fraction > 0.5 else "")
    what = f"of {len(rows)} person boxes have a score outside [0, 1]"
    return rows_finding("score_outside_range", bad, path, what, advice)


def _run_strict_readers(context: CheckContext, annotations: Table | None, boxes: Table | None) -> None:
    """Without errors so far, run the readers of training, which may still refuse a file."""
    if any(not finding.is_warning for finding in context.findings):
        return
    readers: list[tuple[Table | None, Callable[[Path], object]]] = [
        (annotations, read_action_csv),
        (boxes, read_person_boxes),
    ]
    for table, read in readers:
        try:
            if table is not None:
                read(table.path)
        except DataError as error:
            context.add_broken_file(table.path, error)
