"""Fix unambiguous problems of a detection dataset. Fixed files and a list of changes go to a new folder.

These are fixed: byte order marks, line endings, tabs or semicolons between columns, quotes, empty columns,
ids such as 1.0, comments and a header line. Boxes slightly outside the frame are clipped. Repeated rows, and
keyframes outside their videos, are dropped. Ambiguous problems are not changed; `check_dataset` reports them.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from vmae_det.data.catalog import DatasetSpec
from vmae_det.dataset_tools.check.boxes import mark_bad_boxes
from vmae_det.dataset_tools.check.tables import WIDTHS, read_table
from vmae_det.dataset_tools.check.timestamps import add_starts, mark_bad_timestamps
from vmae_det.dataset_tools.check.videos import files_by_id, probe_videos, video_table
from vmae_det.formats.box_csv import COORDINATES, MAX_CLIP
from vmae_det.formats.label_map import LabelMap, write_label_map
from vmae_det.formats.video_starts import VideoStarts
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.input_files import decode, open_input
from vmae_det.utils.output_files import write_text
from vmae_det.utils.paths import is_url, relative_path

CHANGES = "changes.csv"
_INTEGER_AS_FLOAT = re.compile(r"^([0-9]{1,9})\.0{1,9}$")
_QUOTED = re.compile(r'"[^"]*"|[^"]*')
_BOX_TABLES = ("annotations", "person_boxes")
_TABLES = (*_BOX_TABLES, "excluded")
_LABEL_MAPS = ("label_map", "scored_classes")


@dataclass
class FixReport:
    """The fixed dataset file, and all changes as (file, line, change, before, after)."""

    dataset: Path
    changes: list[tuple[str, int, str, str, str]] = field(default_factory=list)

    def as_text(self) -> str:
        """Return the number of changes of each kind in each file, as text for the terminal."""
        counts = Counter((file, change) for file, _, change, _, _ in self.changes)
        lines = [f"{file}: {count} x {change}" for (file, change), count in counts.items()]
        return "\n".join([*(lines or ["nothing to fix"]), f"all changes: {self.dataset.parent / CHANGES}"])


def fix_dataset(
    spec: DatasetSpec, output: Path, decode: str = "ends", workers: int | None = None
) -> FixReport:
    """Write the fixed files of a detection dataset, and a dataset file that names them, to a folder.

    Args:
        decode: how much of each video to decode: "none", "ends" or "all".
        workers: number of processes that read videos. None: one for each CPU.

    Raises:
        ConfigError: the dataset is of another type, or a file would be overwritten.
        DataError: a file cannot be read at all.
    """
    if spec.type != "detection":
        raise ConfigError(f"--fix: expected a detection dataset, got {spec.name} of type '{spec.type}'")
    name = Path(spec.name).name
    report = FixReport(output / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"))
    sources = {key: getattr(spec, key) for key in (*_TABLES, *_LABEL_MAPS) if getattr(spec, key)}
    fixable = {key: path for key, path in sources.items() if key in _LABEL_MAPS or _has_lines(path)}
    targets = {key: output / f"{key}{'.csv' if key in _TABLES else '.pbtxt'}" for key in fixable}
    for target in (report.dataset, output / CHANGES, *targets.values()):
        if target.exists():
            raise ConfigError(f"--fix: {target} already exists; choose a new folder")
    for key in _LABEL_MAPS:
        if key in targets:
            write_label_map(targets[key], LabelMap.from_file(sources[key]))
    tables = {key: _fix_text(sources[key], key, report) for key in _TABLES if key in targets}
    for key, lines in tables.items():
        write_text(targets[key], "\n".join(lines) + "\n")
    videos = _probe(spec, [targets[key] for key in _BOX_TABLES if key in tables], decode, workers)
    for key in _BOX_TABLES:
        if key in tables:
            _fix_rows(tables[key], targets[key], sources[key], key, spec, videos, report)
    for key, lines in tables.items():
        write_text(targets[key], "".join(f"{line}\n" for line in lines if line))
    _write_dataset_file(spec, sources, targets, report.dataset)
    listed = pl.DataFrame(report.changes, schema=["file", "line", "change", "before", "after"], orient="row")
    write_text(output / CHANGES, listed.write_csv())
    return report


def _has_lines(path: Path) -> bool:
    return path.suffix.lower() not in (".json", ".pkl", ".pickle")


def _fix_text(path: Path, content: str, report: FixReport) -> list[str]:
    """Return the lines of a file in the form that the readers expect; '' for a dropped line."""
    with open_input(path) as file:
        data = file.read()
    if data.startswith(codecs.BOM_UTF8):
        report.changes.append((str(path), 1, "byte order mark removed", "", ""))
    for ending, system in ((b"\r\n", "Windows"), (b"\r", "old Mac")):
        if ending in data and (ending == b"\r\n" or b"\n" not in data):
            report.changes.append((str(path), 1, f"{system} line endings replaced", "", ""))
            data = data.replace(ending, b"\n")
    lines = []
    for number, raw in enumerate(decode(data, path, "a CSV file").split("\n"), start=1):
        fixed = raw.strip()
        for change, after in _fix_line(raw.strip("\r"), content, number == 1):
            report.changes.append((str(path), number, change, fixed, after))
            fixed = after
        lines.append(fixed)
    return lines


def _fix_line(line: str, content: str, is_first: bool) -> Iterator[tuple[str, str]]:
    """Yield each change of a line, and the line after it; '' if it is dropped."""
    if line.lstrip().startswith("#") and "," not in line:
        yield "comment dropped", ""
        return
    widths = WIDTHS[content]
    for separator, name in (("\t", "tabs"), (";", "semicolons")):
        if "," not in line and line.count(separator) + 1 in widths:
            line = ",".join(part.strip() for part in line.split(separator))
            yield f"{name} replaced by commas", line
    fields = [field.strip() for field in line.split(",")]
    if '"' in line and all(map(_QUOTED.fullmatch, fields)):
        fields = [field.strip('"').strip() for field in fields]
        yield "quotes removed", ",".join(fields)
    if is_first and len(fields) in widths and all(_is_column_name(part) for part in fields[1:3]):
        yield "header dropped", ""
        return
    keep = max(widths)
    if content == "annotations":  # the person id is optional; so is everything after the keyframe
        keep = 2 if not any(fields[2:]) else 7 if not any(fields[7:]) else 8
    if len(fields) > keep and any(fields) and not any(fields[keep:]):
        fields = fields[:keep]
        yield "empty columns dropped", ",".join(fields)
    if content == "annotations" and len(fields) in (7, 8):
        integers = [*fields[:6], *(_INTEGER_AS_FLOAT.sub(r"\1", field) for field in fields[6:])]
        if integers != fields:
            yield "ids converted to integers", ",".join(integers)


def _is_column_name(text: str) -> bool:
    return text.strip()[:1].isalpha() and text.strip().lower() not in ("nan", "inf", "infinity")


def _probe(spec: DatasetSpec, files: list[Path], decode: str, workers: int | None) -> pl.DataFrame:
    """Probe the videos that the tables name; return them as of `video_table`."""
    known = files_by_id(spec.videos)
    named = {name for file in files for name in read_table(file, file.stem).rows["video"].unique()}
    infos = probe_videos((known[name] for name in named & known.keys()), decode, workers)
    return video_table({name: infos[known[name]] for name in named & known.keys()})


def _fix_rows(
    lines: list[str],
    target: Path,
    path: Path,
    content: str,
    spec: DatasetSpec,
    videos: pl.DataFrame,
    report: FixReport,
) -> None:
    """Clip boxes, and drop repeated rows and keyframes outside their videos, in `lines`, in place."""
    has_table = isinstance(spec.video_start, VideoStarts)
    rows = add_starts(mark_bad_boxes(read_table(target, content).rows, content), spec.video_start)
    rows = mark_bad_timestamps(rows, videos, None if has_table else "wrong_video_start")
    outside = "keyframe_outside_video"
    # If most rows are outside, the videos or the clock are wrong, not the rows.
    drop_outside = ((rows["time_fault"] == outside).fill_null(False).mean() or 0) < 0.5
    first: dict[tuple[Any, ...], int] = {}
    for row in rows.iter_rows(named=True):
        index = row["line"] - 1
        before = after = lines[index]
        if row["time_fault"] == outside and drop_outside:
            change, after = "keyframe outside of its video dropped", ""
        elif row["fault"] == "box_outside_frame" and (clipped := _clipped(row, before)):
            change, after = "box clipped to the frame", clipped
        if after != before:
            report.changes.append((str(path), row["line"], change, before, after))
            lines[index] = after
        if after and row["x1"] is not None:
            kept = first.setdefault(_row_key(after, row, content), index)
            if kept != index:
                report.changes.append((str(path), row["line"], "repeated row dropped", after, ""))
                lines[index] = ""
                _keep_best_score(lines, kept, after, content, path, report)


def _clipped(row: dict[str, float], line: str) -> str:
    """Return the line with its box clipped; '' if the box is too far outside or nothing is left of it."""
    box = [row[name] for name in COORDINATES]
    if not all(-MAX_CLIP <= value <= 1 + MAX_CLIP for value in box):
        return ""
    inside = [min(max(value, 0.0), 1.0) for value in box]
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        return ""
    fields = line.split(",")
    for column, (value, kept) in enumerate(zip(box, inside), start=2):
        fields[column] = fields[column] if value == kept else f"{kept:g}"
    return ",".join(fields)


def _row_key(line: str, row: dict[str, Any], content: str) -> tuple[Any, ...]:
    """Return the values by which a row is a repetition of another."""
    box = tuple(float(value) for value in line.split(",")[2:6])
    rest = (row["action"], row["person"]) if content == "annotations" else ()
    return (row["video"], row["ms"], *box, *rest)


def _keep_best_score(
    lines: list[str], kept: int, dropped: str, content: str, path: Path, report: FixReport
) -> None:
    """Set the score of the kept one of two repeated person boxes to the higher of the two."""
    (*start, score), other = lines[kept].split(","), dropped.split(",")[-1]
    if content == "person_boxes" and float(score) < float(other):
        better = ",".join([*start, other])
        report.changes.append((str(path), kept + 1, "score of a repeated row taken", lines[kept], better))
        lines[kept] = better


def _write_dataset_file(
    spec: DatasetSpec, sources: dict[str, Path], targets: dict[str, Path], dataset: Path
) -> None:
    start = spec.video_start
    videos = str(spec.videos)
    content = {
        "type": spec.type,
        "videos": videos if is_url(videos) else relative_path(videos, dataset.parent),
        **{
            key: targets[key].name if key in targets else relative_path(path, dataset.parent)
            for key, path in sources.items()
        },
        "video_start": relative_path(start.path, dataset.parent) if isinstance(start, VideoStarts) else start,
        **({} if spec.complete_persons else {"complete_persons": False}),
    }
    write_text(dataset, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
