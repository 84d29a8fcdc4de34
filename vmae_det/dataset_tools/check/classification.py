"""Checks of classification datasets and of unlabeled videos."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from vmae_det.data.catalog import DatasetSpec
from vmae_det.dataset_tools.check.classes import rows_by_class, unknown_action_findings, unseen_class_findings
from vmae_det.dataset_tools.check.context import CheckContext
from vmae_det.dataset_tools.check.report import Finding, rows_finding
from vmae_det.dataset_tools.check.tables import read_table
from vmae_det.dataset_tools.check.videos import resolved_paths
from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.errors import DataError
from vmae_det.video.discovery import find_videos
from vmae_det.video.shards import Shards


def check_classification(context: CheckContext) -> None:
    """Check the list of videos, its labels and the videos."""
    spec = context.spec
    label_map = context.read_label_map()
    context.compare_classes(label_map)
    if spec.annotations is None:
        rows, source = _shard_rows(spec.videos), str(spec.videos)
    else:
        table = context.read_table(spec.annotations, "video list")
        if table is None:
            return
        rows, source = _add_video_keys(table.rows, spec.videos), table.path
    paths = {Path(key) for key in rows["key"].unique()}
    if isinstance(spec.videos, Shards):
        existing = paths & set(map(Path, resolved_paths(spec.videos)))
    else:
        existing = {path for path in paths if path.is_file()}
    absent = rows.filter(pl.col("key").is_in([str(path) for path in paths - existing]))
    advice = f"paths in the list are relative to {spec.videos}"
    if isinstance(spec.videos, Shards):
        advice = f"paths in the list are SHARD.tar/KEY.mp4, with shards of {spec.videos}"
    what = f"of {len(rows)} rows name a file that does not exist"
    context.findings += rows_finding("missing_video", absent, source, what, advice)
    context.probe(existing)
    repeated = rows.filter(~pl.col("key").is_first_distinct())
    context.findings += rows_finding(
        "duplicate_row",
        repeated,
        source,
        f"of {len(rows)} rows repeat a video of the list",
        "keep one row for each video; it has one class",
    )
    context.check_shared_videos(rows, source, _all_keys)
    context.counts = {"videos": len(paths), "rows": len(rows), "classes": rows["action"].n_unique()}
    if len(rows):
        _check_labels(context, rows, source, label_map)


def check_videos(context: CheckContext) -> None:
    """Check a folder of videos, or shards without labels."""
    try:
        files = find_videos(context.spec.videos)
    except DataError as error:
        context.findings.append(
            Finding("no_rows", 1, str(error), (), "pass the folder that contains the videos")
        )
        return
    context.counts = {"videos": len(files)}
    context.probe(files)
    rows = pl.DataFrame({"text": [str(file) for file in files], "key": _resolved_files(context.spec)})
    rows = rows.with_columns(line=pl.lit(None, dtype=pl.UInt32))
    context.check_shared_videos(rows, str(context.spec.videos), lambda spec: set(_resolved_files(spec)))


def _all_keys(spec: DatasetSpec) -> set[str]:
    """Return the keys of all videos of a dataset; DataError if it cannot be read."""
    if spec.annotations is None:
        return set(_resolved_files(spec))
    return set(_add_video_keys(read_table(spec.annotations, "video list").rows, spec.videos)["key"])


def _resolved_files(spec: DatasetSpec) -> list[str]:
    if isinstance(spec.videos, Shards):
        return resolved_paths(spec.videos)
    return [str(path.resolve()) for path in find_videos(spec.videos)]


def _add_video_keys(rows: pl.DataFrame, videos: Path | Shards) -> pl.DataFrame:
    """Add the column `key`: the path of the video."""
    if isinstance(videos, Shards):
        keys = dict(zip(videos.videos.numbers_by_name(), resolved_paths(videos)))
        return rows.with_columns(key=pl.col("file").replace_strict(keys, default=pl.col("file")))
    return rows.with_columns(
        key=pl.Series([str((videos / f).resolve()) for f in rows["file"]], dtype=pl.String)
    )


def _shard_rows(shards: Shards) -> pl.DataFrame:
    """Return the rows that a video list would have: one for each video, with the label of its KEY.cls."""
    names, labels = list(shards.videos.numbers_by_name()), shards.videos.labels()
    return pl.DataFrame(
        {
            "line": pl.Series([None] * len(names), dtype=pl.UInt32),
            "text": [f"{name} {label}" for name, label in zip(names, labels)],
            "file": names,
            "action": labels,
            "key": resolved_paths(shards),
        }
    )


def _check_labels(
    context: CheckContext, rows: pl.DataFrame, path: Path | str, label_map: LabelMap | None
) -> None:
    """Check labels, which are indices into the label map. Without one, 0 to the highest label are classes."""
    number = len(label_map) if label_map else int(rows["action"].max()) + 1
    names = label_map.names if label_map else tuple(f"class {i}" for i in range(number))
    classes = LabelMap(tuple(range(number)), names, ("",) * number)
    if label_map:
        context.findings += unknown_action_findings(rows, path, list(classes.ids), context.spec.label_map)
    counts = rows_by_class(rows, classes)
    context.class_rows = {names[i]: count for i, count in counts.items()}
    context.findings += unseen_class_findings(counts, classes, path, context.training)
