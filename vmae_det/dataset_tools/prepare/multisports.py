"""MultiSports: from multisports_GT.pkl and the videos of its training and validation sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.dataset_tools.prepare.common import Outcome, require_file
from vmae_det.dataset_tools.prepare.detection import add_detection_arguments
from vmae_det.dataset_tools.prepare.tubes import prepare_tubes
from vmae_det.formats.tube_csv import MULTISPORTS_NOT_SCORED
from vmae_det.formats.tube_pickles import read_tube_annotations

ANNOTATIONS = "multisports_GT.pkl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the official files lie."""
    add_detection_arguments(
        parser,
        f"the folder with {ANNOTATIONS}",
        "the folder trainval, with a folder for each sport",
        "detected persons of the validation set with frame numbers from 1 for seconds, in any of the three "
        "formats, such as a pickle of MultiSports_box.zip",
    )


def prepare(name: str, folder: Path, args: argparse.Namespace) -> Outcome:
    """Make `folder`."""
    tubes = read_tube_annotations(require_file(args.annotations, ANNOTATIONS))
    return prepare_tubes({folder: tubes.splits[0]}, tubes, folder, args, MULTISPORTS_NOT_SCORED)
