"""HMDB51, from the official lists of its three splits and the folder of AVI videos.

CLASS_test_splitN.txt has a line `FILE USE` for each video of a class; USE is 1 for training, 2 for testing, 0
for neither. Labels are indices into the sorted class names. All three splits are written.
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

NUM_CLASSES = 51
SPLITS = (1, 2, 3)
_SETS = {"1": "train", "2": "val", "0": None}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the paths of the official files."""
    add_classification_arguments(
        parser, "folder testTrainMulti_7030_splits", "folder of the videos, with a subfolder for each class"
    )


def prepare(name: str, folder: Path, args: argparse.Namespace) -> Outcome:
    """Write `folder`."""
    ending = "_test_split1.txt"
    classes = sorted(path.name.removesuffix(ending) for path in args.annotations.glob(f"*{ending}"))
    if not classes:
        raise DataError(f"expected the files CLASS{ending}, ... in this folder", args.annotations)
    lists = {f"split{split}_{part}": [] for split in SPLITS for part in ("train", "val")}
    for split in SPLITS:
        for label, class_name in enumerate(classes):
            path = require_file(args.annotations, f"{class_name}_test_split{split}.txt")
            for part, stem in read_split(path):
                lists[f"split{split}_{part}"].append(ListedVideo((stem,), label, (class_name,)))
    remarks = class_count_remark(classes, NUM_CLASSES)
    return prepare_classification(folder, lists, classes, args, remarks=remarks)


def read_split(path: Path) -> list[tuple[str, str]]:
    """Return 'train' or 'val', and the file name without suffix, of each video that the split uses.

    Raises:
        DataError: a line is invalid.
    """
    videos = []
    for line, text in read_lines(path):
        file, _, use = text.rpartition(" ")
        if not file.strip() or use not in _SETS:
            raise DataError(f"expected 'FILE 0', 'FILE 1' or 'FILE 2', got '{text}'", path, line)
        if _SETS[use]:
            videos.append((_SETS[use], Path(file.strip()).stem))
    return videos
