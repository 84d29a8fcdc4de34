"""JHMDB: from JHMDB-GT.pkl, which holds its three splits, and the videos (ReCompress_Videos)."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.dataset_tools.prepare.common import Outcome, require_file
from vmae_det.dataset_tools.prepare.detection import add_detection_arguments
from vmae_det.dataset_tools.prepare.tubes import prepare_tubes
from vmae_det.formats.tube_pickles import read_tube_annotations

ANNOTATIONS = "JHMDB-GT.pkl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the official files lie."""
    add_detection_arguments(
        parser,
        f"the folder with {ANNOTATIONS}",
        "the folder ReCompress_Videos, with a folder for each class; or Frames, with a folder of images for "
        "each video of each class",
        "detected persons of the test sets with frame numbers from 1 for seconds, in any of the formats",
    )


def prepare(name: str, folder: Path, args: argparse.Namespace) -> Outcome:
    """Make `folder/split1`, ..., as many as the file has."""
    tubes = read_tube_annotations(require_file(args.annotations, ANNOTATIONS))
    splits = {folder / f"split{number}": split for number, split in enumerate(tubes.splits, start=1)}
    return prepare_tubes(splits, tubes, folder, args)
