"""JHMDB, from JHMDB-GT.pkl, which contains its three splits, and the videos (ReCompress_Videos)."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.dataset_tools.prepare.detection import add_detection_arguments
from vmae_det.dataset_tools.prepare.files import require_file
from vmae_det.dataset_tools.prepare.preparers import Outcome
from vmae_det.dataset_tools.prepare.tubes import prepare_tubes
from vmae_det.formats.tube_pickles import read_tube_annotations

ANNOTATIONS = "JHMDB-GT.pkl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the paths of the official files."""
    add_detection_arguments(
        parser,
        f"folder with {ANNOTATIONS}",
        "folder ReCompress_Videos, with a subfolder for each class; or Frames, with a folder of images for "
        "each video in a folder for each class",
        "detected persons of the test sets, in any person-box format, with frame numbers from 1 as "
        "timestamps",
    )


def prepare(name: str, folder: Path, args: argparse.Namespace) -> Outcome:
    """Write `folder/split1`, `folder/split2` and so on, for each split of the file."""
    tubes = read_tube_annotations(require_file(args.annotations, ANNOTATIONS))
    splits = {folder / f"split{number}": split for number, split in enumerate(tubes.splits, start=1)}
    return prepare_tubes(splits, tubes, folder, args)
