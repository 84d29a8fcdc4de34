"""Fix a detection dataset where there is no doubt how. New files are written elsewhere, all changes listed.

Fixed are byte order marks, line ends, tabs or semicolons between columns, quotes, empty columns, ids such
as 1.0, comments and a header line. Boxes that reach a little outside the frame are clipped; repeated rows and
keyframes outside of their videos are dropped. What has several possible meanings stays as it is, and
`check_dataset` names it.
"""

from __future__ import annotations

import codecs
import os
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
from vmae_det.dataset_tools.check.times import add_starts, mark_times
from vmae_det.dataset_tools.check.videos import files_by_id, probe_videos, sizes_of
from vmae_det.formats.box_csv import COORDINATES, MAX_CLIP
from vmae_det.formats.label_map import LabelMap, write_label_map
from vmae_det.formats.video_starts import VideoStarts
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.input_files import decode, open_input
from vmae_det.utils.output_files import write_text
from vmae_det.utils.paths import is_address
from vmae_det.video.shards import Shards

CHANGES = "changes.csv"
_WHOLE = re.compile(r"^([0-9]{1,9})\.0{1,9}$")
_QUOTED = re.compile(r'"[^"]*"|[^"]*')
_BOXES = ("annotations", "person_boxes")
_TABLES = (*_BOXES, "excluded")
_LABEL_MAPS = ("label_map", "scored_classes")


@dataclass
class Fixed:
    """What was mended: the new dataset file, and (file, line, change, before, after) of each change."""

    dataset: Path
    changes: list[tuple[str, int, str, str, str]] = field(default_factory=list)

    def as_text(self) -> str:
        """For people: how many changes of each kind there are in each file."""
        counts = Counter((file, change) for file, _, change, _, _ in self.changes)
        lines = [f"{file}: {count} x {change}" for (file, change), count in counts.items()]
        return "\n".join([*(lines or ["nothing to fix"]), f"each change: {self.dataset.parent / CHANGES}"])


def fix_dataset(spec: DatasetSpec, output: Path, decode: str = "ends", workers: int | None = None) -> Fixed:
    """Write the mended files of a detection dataset, and a dataset file that names them, into a folder.

    Raises:
        ConfigError: the dataset is of another type, or a file would be overwritten.
        DataError: a file cannot be read at all.
    """
    if spec.type != "detection":
        raise ConfigError(f"--fix: fixes detection datasets, and {spec.name} is of type '{spec.type}'")
    name = Path(spec.name).name
    fixed = Fixed(output / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"))
    paths = {key: getattr(spec, key) for key in (*_TABLES, *_LABEL_MAPS) if getattr(spec, key)}
    lined = {key: path for key, path in paths.items() if key in _LABEL_MAPS or _has_lines(path)}
    targets = {key: output / f"{key}{'.csv' if key in _TABLES else '.pbtxt'}" for key in lined}
    for target in (fixed.dataset, output / CHANGES, *targets.values()):
        if target.exists():
            raise ConfigError(f"--fix: {target} is there already; give a new folder")
    for key in _LABEL_MAPS:
        if key in targets:
            write_label_map(targets[key], LabelMap.from_file(paths[key]))
    texts = {key: _mend_text(paths[key], key, fixed) for key in _TABLES if key in targets}
    for key, lines in texts.items():
        write_text(targets[key], "\n".join(lines) + "\n")
    videos = _videos(spec, [targets[key] for key in _BOXES if key in texts], decode, workers)
    for key in _BOXES:
        if key in texts:
            _mend_rows(texts[key], targets[key], paths[key], key, spec, videos, fixed)
    for key, lines in texts.items():
        write_text(targets[key], "".join(f"{line}\n" for line in lines if line))
    _write_dataset(spec, paths, targets, fixed.dataset)
    listed = pl.DataFrame(fixed.changes, schema=["file", "line", "change", "before", "after"], orient="row")
    write_text(output / CHANGES, listed.write_csv())
    return fixed


def _has_lines(path: Path) -> bool:
    return path.suffix.lower() not in (".json", ".pkl", ".pickle")


def _mend_text(path: Path, holds: str, fixed: Fixed) -> list[str]:
    """The lines of a file, at their places, as the readers expect them; '' where a line is dropped."""
    with open_input(path) as file:
        content = file.read()
    if content.startswith(codecs.BOM_UTF8):
        fixed.changes.append((str(path), 1, "byte order mark removed", "", ""))
    for ends, system in ((b"\r\n", "Windows"), (b"\r", "old Macs")):
        if ends in content and (ends == b"\r\n" or b"\n" not in content):
            fixed.changes.append((str(path), 1, f"line ends of {system} replaced", "", ""))
            content = content.replace(ends, b"\n")
    lines = []
    for number, raw in enumerate(decode(content, path, "a CSV file").split("\n"), start=1):
        mended = raw.strip()
        for change, after in _mend_line(raw.strip("\r"), holds, number == 1):
            fixed.changes.append((str(path), number, change, mended, after))
            mended = after
        lines.append(mended)
    return lines


def _mend_line(line: str, holds: str, is_first: bool) -> Iterator[tuple[str, str]]:
    """What is changed in a line, one after the other, and the line after it; '' where it is dropped."""
    if line.lstrip().startswith("#") and "," not in line:
        yield "comment dropped", ""
        return
    widths = WIDTHS[holds]
    for separator, name in (("\t", "tabs"), (";", "semicolons")):
        if "," not in line and line.count(separator) + 1 in widths:
            line = ",".join(part.strip() for part in line.split(separator))
            yield f"{name} became commas", line
    fields = [field.strip() for field in line.split(",")]
    if '"' in line and all(map(_QUOTED.fullmatch, fields)):
        fields = [field.strip('"').strip() for field in fields]
        yield "quotes removed", ",".join(fields)
    if is_first and len(fields) in widths and all(_is_title(part) for part in fields[1:3]):
        yield "header dropped", ""
        return
    keep = max(widths)
    if holds == "annotations":  # the eighth column, a person's id, may be missing, or all but the keyframe
        keep = 2 if not any(fields[2:]) else 7 if not any(fields[7:]) else 8
    if len(fields) > keep and any(fields) and not any(fields[keep:]):
        fields = fields[:keep]
        yield "empty columns dropped", ",".join(fields)
    if holds == "annotations" and len(fields) in (7, 8):
        whole = [*fields[:6], *(_WHOLE.sub(r"\1", field) for field in fields[6:])]
        if whole != fields:
            yield "ids became whole numbers", ",".join(whole)


def _is_title(text: str) -> bool:
    return text.strip()[:1].isalpha() and text.strip().lower() not in ("nan", "inf", "infinity")


def _videos(spec: DatasetSpec, files: list[Path], decode: str, workers: int | None) -> pl.DataFrame:
    """Facts of the videos that the files name."""
    known = files_by_id(spec.videos)
    named = {name for file in files for name in read_table(file, file.stem).rows["video"].unique()}
    facts = probe_videos((known[name] for name in named & known.keys()), decode, workers)
    return sizes_of({name: facts[known[name]] for name in named & known.keys()})


def _mend_rows(
    lines: list[str],
    target: Path,
    path: Path,
    holds: str,
    spec: DatasetSpec,
    videos: pl.DataFrame,
    fixed: Fixed,
) -> None:
    """Change `lines` in place: clip boxes, drop repeated rows and keyframes outside of their videos."""
    is_table = isinstance(spec.video_start, VideoStarts)
    rows = add_starts(mark_bad_boxes(read_table(target, holds).rows, holds), spec.video_start)
    rows = mark_times(rows, videos, None if is_table else "wrong_video_start")
    late = "keyframe_outside_video"
    # Where most rows lie outside, the videos or the clock are wrong, not the rows.
    drops_late = ((rows["time_fault"] == late).fill_null(False).mean() or 0) < 0.5
    first: dict[tuple[Any, ...], int] = {}
    for row in rows.iter_rows(named=True):
        place = row["line"] - 1
        before = after = lines[place]
        if row["time_fault"] == late and drops_late:
            change, after = "keyframe outside of its video dropped", ""
        elif row["fault"] == "box_outside_frame" and (clipped := _clipped(row, before)):
            change, after = "box clipped to the frame", clipped
        if after != before:
            fixed.changes.append((str(path), row["line"], change, before, after))
            lines[place] = after
        if after and row["x1"] is not None:
            kept = first.setdefault(_key(after, row, holds), place)
            if kept != place:
                fixed.changes.append((str(path), row["line"], "repeated row dropped", after, ""))
                lines[place] = ""
                _keep_best_score(lines, kept, after, holds, path, fixed)


def _clipped(row: dict[str, float], line: str) -> str:
    """The line with its box clipped, '' where that is too far or leaves no box."""
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


def _key(line: str, row: dict[str, Any], holds: str) -> tuple[Any, ...]:
    """What rows that say the same have in common."""
    box = tuple(float(value) for value in line.split(",")[2:6])
    rest = (row["action"], row["person"]) if holds == "annotations" else ()
    return (row["video"], row["ms"], *box, *rest)


def _keep_best_score(lines: list[str], kept: int, dropped: str, holds: str, path: Path, fixed: Fixed) -> None:
    """Give the line that is kept of two person boxes the higher of their scores."""
    (*start, score), other = lines[kept].split(","), dropped.split(",")[-1]
    if holds == "person_boxes" and float(score) < float(other):
        better = ",".join([*start, other])
        fixed.changes.append((str(path), kept + 1, "score of a repeated row taken", lines[kept], better))
        lines[kept] = better


def _write_dataset(
    spec: DatasetSpec, paths: dict[str, Path], targets: dict[str, Path], dataset: Path
) -> None:
    start = spec.video_start
    videos = str(spec.videos)
    content = {
        "type": spec.type,
        "videos": videos if is_address(videos) else _seen_from(dataset.parent, videos),
        **{
            key: targets[key].name if key in targets else _seen_from(dataset.parent, path)
            for key, path in paths.items()
        },
        "video_start": _seen_from(dataset.parent, start.path) if isinstance(start, VideoStarts) else start,
    }
    write_text(dataset, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _seen_from(folder: Path, path: Path | str | Shards) -> str:
    return os.path.relpath(Path(path).resolve(), folder.resolve())
