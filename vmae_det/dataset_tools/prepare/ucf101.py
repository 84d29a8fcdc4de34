"""UCF101, from the official lists of its three splits and the folder of AVI videos.

classInd.txt numbers the classes from 1. trainlist0N.txt and testlist0N.txt list videos as CLASS/FILE. All
three splits are written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.dataset_tools.prepare.classification import (
    ListedVideo,
    add_classification_arguments,
    class_count_remark,
    prepare_classification,
)
from vmae_det.dataset_tools.prepare.files import read_lines, require_file
from vmae_det.dataset_tools.prepare.preparers import Outcome
from vmae_det.utils.errors import DataError

NUM_CLASSES = 101
SPLITS = (1, 2, 3)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the paths of the official files."""
    add_classification_arguments(
        parser, "folder ucfTrainTestlist", "folder UCF-101, with a subfolder for each class"
    )


def prepare(name: str, folder: Path, args: argparse.Namespace) -> Outcome:
    """Write `folder`."""
    classes = read_classes(require_file(args.annotations, "classInd.txt"))
    lists = {}
    for split in SPLITS:
        for set_name, official in (("train", "trainlist"), ("val", "testlist")):
            path = require_file(args.annotations, f"{official}{split:02d}.txt")
            lists[f"split{split}_{set_name}"] = read_videos(path, classes)
    remarks = class_count_remark(classes, NUM_CLASSES)
    return prepare_classification(folder, lists, classes, args, remarks=remarks)


def read_classes(path: Path) -> list[str]:
    """Return class names; DataError unless their numbers are 1, 2, 3, ... in this order."""
    classes = []
    for line, text in read_lines(path):
        number, _, name = text.partition(" ")
        name = name.strip()
        if number != str(len(classes) + 1) or not name or name in classes:
            raise DataError(f"expected '{len(classes) + 1} CLASS' with a new class, got '{text}'", path, line)
        classes.append(name)
    return classes


def read_videos(path: Path, classes: list[str]) -> list[ListedVideo]:
    """Return the videos of a list with lines CLASS/FILE or CLASS/FILE NUMBER; DataError if invalid."""
    labels = {name: label for label, name in enumerate(classes)}
    videos = []
    for line, text in read_lines(path):
        file, _, number = text.partition(" ")
        name, _, video = file.partition("/")
        if not video or "/" in video:
            raise DataError(f"expected 'CLASS/FILE' or 'CLASS/FILE NUMBER', got '{text}'", path, line)
        if name not in labels:
            raise DataError(f"the class '{name}' is not in classInd.txt", path, line)
        if number and number.strip() != str(labels[name] + 1):
            raise DataError(
                f"expected the number {labels[name] + 1} of the class '{name}', got '{number}'", path, line
            )
        videos.append(ListedVideo((Path(video).stem,), labels[name], (name,)))
    if not videos:
        raise DataError("the list contains no videos", path)
    return videos
