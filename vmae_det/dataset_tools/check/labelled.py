"""The checks of classification datasets and of folders of videos."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from vmae_det.data.catalog import DatasetSpec
from vmae_det.dataset_tools.check.case import Case
from vmae_det.dataset_tools.check.classes import rows_by_class, unknown_action_findings, unseen_class_findings
from vmae_det.dataset_tools.check.findings import Finding, finding_of_rows
from vmae_det.dataset_tools.check.tables import read_table
from vmae_det.dataset_tools.check.videos import real_paths
from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.errors import DataError
from vmae_det.video.discovery import find_videos
from vmae_det.video.shards import Shards


def check_classification(case: Case) -> None:
    """The list of videos, its labels and the videos."""
    spec = case.spec
    label_map = case.read_label_map()
    case.compare_classes(label_map)
    if spec.annotations is None:
        rows, source = _rows_of_shards(spec.videos), str(spec.videos)
    else:
        table = case.read(spec.annotations, "video list")
        if table is None:
            return
        rows, source = _with_keys(table.rows, spec.videos), table.path
    paths = {Path(key) for key in rows["key"].unique()}
    if isinstance(spec.videos, Shards):
        there = paths & set(map(Path, real_paths(spec.videos)))
    else:
        there = {path for path in paths if path.is_file()}
    absent = rows.filter(pl.col("key").is_in([str(path) for path in paths - there]))
    advice = f"paths in the list start from {spec.videos}"
    if isinstance(spec.videos, Shards):
        advice = f"paths in the list are SHARD.tar/KEY.mp4, with shards of {spec.videos}"
    what = f"of {len(rows)} rows name a file that is not there"
    case.found += finding_of_rows("missing_video", absent, source, what, advice)
    case.probe(there)
    again = rows.filter(~pl.col("key").is_first_distinct())
    case.found += finding_of_rows(
        "duplicate_row",
        again,
        source,
        f"of {len(rows)} rows name a video that the list has already",
        "remove all rows of a video but one; it has one class",
    )
    case.add_shared(rows, source, _files_of)
    case.counts = {"videos": len(paths), "rows": len(rows), "classes": rows["action"].n_unique()}
    if len(rows):
        _check_labels(case, rows, source, label_map)


def check_videos(case: Case) -> None:
    """A folder of videos, or shards without labels."""
    try:
        files = find_videos(case.spec.videos)
    except DataError as error:
        case.found.append(Finding("no_rows", 1, str(error), (), "give the folder that holds the videos"))
        return
    case.counts = {"videos": len(files)}
    case.probe(files)
    rows = pl.DataFrame({"text": [str(file) for file in files], "key": _real_files(case.spec)})
    case.add_shared(rows.with_columns(line=pl.lit(None, dtype=pl.UInt32)), str(case.spec.videos), _files_of)


def _files_of(spec: DatasetSpec) -> set[str]:
    """The files of a classification set or of a folder; DataError where it cannot be read."""
    if spec.annotations is None:
        return set(_real_files(spec))
    return set(_with_keys(read_table(spec.annotations, "video list").rows, spec.videos)["key"])


def _real_files(spec: DatasetSpec) -> list[str]:
    if isinstance(spec.videos, Shards):
        return real_paths(spec.videos)
    return [str(path.resolve()) for path in find_videos(spec.videos)]


def _with_keys(rows: pl.DataFrame, videos: Path | Shards) -> pl.DataFrame:
    """`rows` with `key`, the video's file."""
    if isinstance(videos, Shards):
        keys = dict(zip(videos.videos.numbers_by_name(), real_paths(videos)))
        return rows.with_columns(key=pl.col("file").replace_strict(keys, default=pl.col("file")))
    return rows.with_columns(
        key=pl.Series([str((videos / f).resolve()) for f in rows["file"]], dtype=pl.String)
    )


def _rows_of_shards(shards: Shards) -> pl.DataFrame:
    """As of a list: a row for each video, labelled by its KEY.cls."""
    names, labels = list(shards.videos.numbers_by_name()), shards.videos.labels()
    return pl.DataFrame(
        {
            "line": pl.Series([None] * len(names), dtype=pl.UInt32),
            "text": [f"{name} {label}" for name, label in zip(names, labels)],
            "file": names,
            "action": labels,
            "key": real_paths(shards),
        }
    )


def _check_labels(case: Case, rows: pl.DataFrame, path: Path | str, label_map: LabelMap | None) -> None:
    """Labels count the label map's entries from 0; without a label map, all up to the highest are classes."""
    number = len(label_map) if label_map else int(rows["action"].max()) + 1
    names = label_map.names if label_map else tuple(f"class {i}" for i in range(number))
    classes = LabelMap(tuple(range(number)), names, ("",) * number)
    if label_map:
        found = unknown_action_findings(rows, path, list(classes.ids), case.spec.label_map)
        case.found += found
    counts = rows_by_class(rows, classes)
    case.class_rows = {names[i]: count for i, count in counts.items()}
    case.found += unseen_class_findings(counts, classes, path, case.training)
