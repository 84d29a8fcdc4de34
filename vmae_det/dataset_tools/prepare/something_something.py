"""Something-Something V2, from the official JSON files and the folder of WebM videos.

labels.json contains the number of each class. train.json and validation.json list videos with a template; the
template without brackets is the class.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

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

NUM_CLASSES = 174
_PREFIX = "something-something-v2-"  # of the files' names in the first release


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the paths of the official files."""
    add_classification_arguments(
        parser,
        "folder of labels.json, train.json and validation.json",
        "folder 20bn-something-something-v2, or a parent of it",
    )


def prepare(name: str, folder: Path, args: argparse.Namespace) -> Outcome:
    """Write `folder`."""
    classes = read_labels(_file(args.annotations, "labels"))
    lists = {
        split: read_videos(_file(args.annotations, official), classes)
        for split, official in (("train", "train"), ("val", "validation"))
    }
    remarks = class_count_remark(classes, NUM_CLASSES)
    return prepare_classification(folder, lists, classes, args, remarks=remarks)


def read_labels(path: Path) -> list[str]:
    """Return class names in the order of their numbers, which must be 0, 1, 2, ..."""
    content = _load(path, dict)
    try:
        numbers = {int(number): name for name, number in content.items()}
    except (TypeError, ValueError):
        raise DataError("expected a number for each class", path) from None
    if sorted(numbers) != list(range(len(content))):
        raise DataError(f"expected the numbers 0 to {len(content) - 1}, each once", path)
    return [numbers[number] for number in sorted(numbers)]


def read_videos(path: Path, classes: list[str]) -> list[ListedVideo]:
    """Return the videos of a set.

    Raises:
        DataError: an entry is invalid; the error names it, from 1.
    """
    ids = {name: number for number, name in enumerate(classes)}
    videos = []
    for number, entry in enumerate(_load(path, list), start=1):
        video, template = (
            (entry.get("id"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        )
        if not str(video or "").isdecimal() or not isinstance(template, str):
            raise DataError(
                f"entry {number}: expected an object with id and template, got {entry!r:.80}", path
            )
        name = template.replace("[", "").replace("]", "")
        if name not in ids:
            raise DataError(
                f"entry {number} (id {video}): the template '{template}' is not a class in labels.json", path
            )
        videos.append(ListedVideo((str(video),), ids[name]))
    if not videos:
        raise DataError("the file lists no videos", path)
    return videos


def _file(folder: Path, name: str) -> Path:
    return require_file(folder, f"{name}.json", f"{_PREFIX}{name}.json")


def _load(path: Path, kind: type) -> Any:
    try:
        content = json.loads(read_text(path, "JSON"))
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg}", path, error.lineno) from None
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise DataError(f"cannot be read: {error}", path) from None
    if not isinstance(content, kind):
        what = "a list of videos" if kind is list else "an object with a number for each class"
        raise DataError(f"expected {what}, got {type(content).__name__}", path)
    return content
