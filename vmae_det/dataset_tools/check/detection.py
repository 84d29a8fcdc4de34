"""The check of a detection dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from vmae_det.data.catalog import DatasetSpec
from vmae_det.dataset_tools.check.boxes import box_findings, mark_bad_boxes
from vmae_det.dataset_tools.check.case import Case
from vmae_det.dataset_tools.check.classes import rows_by_class, unknown_action_findings, unseen_class_findings
from vmae_det.dataset_tools.check.findings import Finding, finding_of_rows
from vmae_det.dataset_tools.check.persons import (
    annotated_persons,
    compare_persons,
    low_score_findings,
    recall_table,
)
from vmae_det.dataset_tools.check.tables import Table, read_table
from vmae_det.dataset_tools.check.times import add_starts, mark_times, time_findings
from vmae_det.dataset_tools.check.videos import files_by_id, missing_findings, real_paths, sizes_of
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

_SAME_ROW = {
    "annotations": ["video", "ms", *COORDINATES, "action", "person"],
    "person_boxes": ["video", "ms", *COORDINATES],
}
_REPEATED = {
    "annotations": ("duplicate_row", "remove the copies: each counts as one more person"),
    "person_boxes": ("person_boxes_repeated", "they count once, with the highest score"),
}


def check_detection(case: Case) -> None:
    """Annotations, person boxes, label map and videos of a detection dataset, each and together."""
    spec = case.spec
    label_map = case.read_label_map()
    case.compare_classes(label_map)
    annotations = case.read(spec.annotations, "annotations")
    boxes = case.read(spec.person_boxes, "person_boxes")
    excluded = case.read(spec.excluded, "excluded")

    files = files_by_id(spec.videos)
    tables = [table for table in (annotations, boxes) if table is not None]
    named = {name for table in tables for name in table.rows["video"].unique()}
    facts = case.probe(files[name] for name in named & files.keys())
    videos = sizes_of({name: facts[files[name]] for name in named & files.keys()})

    truth = None
    if annotations is not None:
        case.found += missing_findings(annotations.rows, annotations.path, files, spec.videos)
        truth = _check_rows(case, annotations, videos)
        _check_classes(case, truth, annotations.path, label_map)
        case.keyframes = _describe_keyframes(truth, videos)
        shared = _check_shared(case, annotations)
    if boxes is not None:
        start_fits = truth is not None and (truth["time_fault"] == "wrong_video_start").sum() == 0
        shifted = "person_boxes_wrong_time" if start_fits else "wrong_video_start"
        detected = _check_rows(case, boxes, videos, shifted)
        case.found += _score_findings(detected, boxes.path)
        # As read_person_boxes has it: a line for each label of a box is one person.
        same = _SAME_ROW["person_boxes"]
        detected = detected.with_columns(pl.col("score").max().over(same)).unique(
            same, keep="first", maintain_order=True
        )
        case.counts["person boxes"] = len(detected)
    if boxes is not None and _most_in_a_keyframe(detected) > MAX_PERSONS:
        case.found.append(
            Finding(
                "too_many_person_boxes",
                1,
                f"a keyframe has {_most_in_a_keyframe(detected)} person boxes, "
                f"expected at most {MAX_PERSONS}",
                (),
                "drop the boxes of low scores",
            )
        )
    elif boxes is not None and truth is not None and len(truth) and len(detected):
        kept = _sound(truth).filter(~pl.col("video").is_in(list(shared)))
        if excluded is not None:
            kept = kept.join(excluded.rows, on=["video", "ms"], how="anti", maintain_order="left")
        persons, sound = annotated_persons(kept), _sound(detected)
        with_file = persons.filter(pl.col("video").is_in(list(files)))
        case.found += compare_persons(
            with_file, sound, detected, boxes.path, set(truth["video"].unique()), set(files)
        )
        case.recall = recall_table(persons, sound)
        case.found += low_score_findings(case.recall, boxes.path)
    _ask_strict_readers(case, annotations, boxes)


def _most_in_a_keyframe(rows: pl.DataFrame) -> int:
    return rows.group_by("video", "ms").len()["len"].max() or 0


def _describe_keyframes(rows: pl.DataFrame, videos: pl.DataFrame) -> str:
    """By the example of the first row that lies in its video."""
    sound = pl.col("time_fault").is_null() & pl.col("start").is_not_null()
    good = rows.filter(sound).join(videos, on="video", maintain_order="left")
    if good.is_empty():
        return ""
    columns = ("video", "timestamp", "start", "frames", "seconds")
    video, timestamp, start, frames, seconds = good.select(columns).row(0)
    return describe_keyframe(video, timestamp, start, frames / seconds)


def _shared_keys(spec: DatasetSpec) -> set[str]:
    """The annotated videos of a set, as `_video_keys` names them; DataError where it cannot be read."""
    return set(_video_keys(read_table(spec.annotations, "annotations").rows, spec.videos)["key"])


def _video_keys(rows: pl.DataFrame, videos: Path | Shards) -> pl.DataFrame:
    """`rows` with `key`, a video's file without suffix: another folder may have the same id again."""
    if isinstance(videos, Shards):
        keys = dict(zip(videos_by_id(videos), (key_of(path) for path in real_paths(videos))))
        return rows.with_columns(key=pl.col("video").replace_strict(keys, default=pl.col("video")))
    return rows.with_columns(key=pl.lit(f"{videos.resolve()}/") + pl.col("video"))


def _check_shared(case: Case, annotations: Table) -> set[str]:
    """Note the videos that the other set has as well; gives their ids."""
    rows = _video_keys(annotations.rows, case.spec.videos)
    shared = case.add_shared(rows, annotations.path, _shared_keys)
    return {key.rpartition("/")[2] for key in shared}


def _check_rows(
    case: Case, table: Table, videos: pl.DataFrame, shifted: str = "wrong_video_start"
) -> pl.DataFrame:
    """The rows of annotations or person boxes with their faults, which are noted; `shifted` as of
    `mark_times`."""
    start = case.spec.video_start
    has_table = isinstance(start, VideoStarts)
    rows = add_starts(mark_bad_boxes(table.rows, table.holds), start)
    unknown = rows.filter(pl.col("start").is_null())["video"].unique(maintain_order=True)
    if len(unknown):
        case.add_broken(start.path, DataError(f"no line for {len(unknown)} videos, such as '{unknown[0]}'"))
    rows = mark_times(rows, videos, None if has_table else shifted)
    case.found += box_findings(rows, table.path, videos, table.holds)
    case.found += time_findings(rows, table.path, videos, start)
    same = _SAME_ROW[table.holds]
    again = rows.filter(pl.col("x1").is_not_null()).with_columns(first=pl.col("line").first().over(same))
    again = again.filter(~pl.struct(same).is_first_distinct()).with_columns(
        shown=pl.when(pl.col("first").is_null())
        .then("text")
        .otherwise(pl.concat_str("text", pl.lit("  (as in line "), "first", pl.lit(")")))
    )
    kind, advice = _REPEATED[table.holds]
    case.found += finding_of_rows(
        kind, again, table.path, f"of {len(rows)} rows stand there already", advice, "shown"
    )
    return rows


def _sound(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows without a fault."""
    return rows.filter(pl.col("fault").is_null() & pl.col("time_fault").is_null())


def _check_classes(case: Case, rows: pl.DataFrame, path: Path, label_map: LabelMap | None) -> None:
    case.counts |= {
        "videos": rows["video"].n_unique(),
        "keyframes": rows.select("video", "ms").n_unique(),
        "persons": len(annotated_persons(rows)),
        "labels": int(rows["action"].is_not_null().sum()),
    }
    if label_map is None:
        return
    labels = case.spec.label_map
    case.found += unknown_action_findings(rows, path, list(label_map.ids), labels)
    counts = rows_by_class(rows, label_map)
    case.class_rows = {name: counts[number] for number, name in zip(label_map.ids, label_map.names)}
    if counts and len(rows):
        case.found += unseen_class_findings(counts, label_map, path, case.training)


def _score_findings(rows: pl.DataFrame, path: Path) -> list[Finding]:
    bad = rows.filter(~pl.col("score").is_between(0, 1))
    share = len(bad) / max(len(rows), 1)
    guess = "scores are logits or per cent, or this is ground truth, whose last column is the person id"
    advice = "the last column is the score, from 0 to 1" + (f": {guess}?" if share > 0.5 else "")
    what = f"of {len(rows)} person boxes have a score that is not in [0, 1]"
    return finding_of_rows("score_outside_range", bad, path, what, advice)


def _ask_strict_readers(case: Case, annotations: Table | None, boxes: Table | None) -> None:
    """Where nothing was found, the readers that training uses have the last word."""
    if any(not finding.is_warning for finding in case.found):
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
            case.add_broken(table.path, error)
