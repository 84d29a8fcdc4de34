"""Kinetics-400, -600 or -700, from the official CSV files and a folder of clips.

CSV files: https://github.com/cvdfoundation/kinetics-dataset. A clip is named YOUTUBE-ID_START_END.mp4, with
seconds in six digits. Labels are indices into the sorted class names, as in published models.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

from vmae_det.dataset_tools.prepare.classification import (
    ListedVideo,
    add_classification_arguments,
    class_count_remark,
    prepare_classification,
)
from vmae_det.dataset_tools.prepare.files import require_file
from vmae_det.dataset_tools.prepare.preparers import Outcome
from vmae_det.utils.errors import DataError
from vmae_det.utils.input_files import read_text

_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
# Folder in which the host of the clips keeps intact versions of broken files, with the same names.
_REPLACEMENTS = "replacement_for_corrupted_k400"
_FOLDERS = {"train": ("train",), "val": ("val", "validate", "validation")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the paths of the official files."""
    add_classification_arguments(
        parser,
        "folder of train.csv and val.csv (or validate.csv)",
        "folder of the clips, directly or in subfolders",
    )


def prepare(name: str, folder: Path, args: argparse.Namespace) -> Outcome:
    """Write `folder`; `name` ends in the number of classes."""
    files = {
        "train": require_file(args.annotations, "train.csv"),
        "val": require_file(args.annotations, "val.csv", "validate.csv"),
    }
    clips = {split: read_kinetics_csv(path) for split, path in files.items()}
    classes = sorted({label for label, _, _ in clips["train"]})
    ids = {label: number for number, label in enumerate(classes)}
    for label, _, line in clips["val"]:
        if label not in ids:
            raise DataError(f"the class '{label}' is not in {files['train'].name}", files["val"], line)
    lists = {
        split: [ListedVideo(stems, ids[label], (_REPLACEMENTS, *_FOLDERS[split])) for label, stems, _ in rows]
        for split, rows in clips.items()
    }
    remarks = class_count_remark(classes, int(name.removeprefix("kinetics")))
    return prepare_classification(folder, lists, classes, args, missing_is_normal=True, remarks=remarks)


def read_kinetics_csv(path: Path) -> list[tuple[str, tuple[str, ...], int]]:
    """Return class, possible file names (without suffix), and line of each clip.

    Raises:
        DataError: columns are missing, or a line has no class, no id, or no times.
    """
    clips = []
    reader = csv.DictReader(io.StringIO(read_text(path, "a CSV file"), newline=""))
    try:
        absent = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if absent:
            got = ",".join(reader.fieldnames or ())
            raise DataError(f"expected the columns {','.join(_COLUMNS)}, got '{got}'", path, 1)
        for row in reader:
            clips.append((*_read_clip(row, path, reader.line_num), reader.line_num))
    except csv.Error as error:
        raise DataError(f"cannot be read as CSV: {error}", path) from None
    if not clips:
        raise DataError("the file lists no clips", path)
    return clips


def _read_clip(row: dict[str, str | None], path: Path, line: int) -> tuple[str, tuple[str, ...]]:
    label, video, start, end = ((row[column] or "").strip() for column in _COLUMNS)
    try:
        start, end = round(float(start)), round(float(end))
    except (ValueError, OverflowError):
        raise DataError(
            f"expected time_start and time_end in seconds, got '{start}', '{end}'", path, line
        ) from None
    if not label or not video or "/" in video:
        raise DataError(f"expected a class and a YouTube id, got '{label}', '{video}'", path, line)
    return label, (f"{video}_{start:06d}_{end:06d}", video)
