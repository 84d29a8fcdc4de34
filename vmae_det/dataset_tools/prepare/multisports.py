"""MultiSports, from multisports_GT.pkl and the videos of its training and validation sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.dataset_tools.prepare.detection import add_detection_arguments
from vmae_det.dataset_tools.prepare.files import require_file
from vmae_det.dataset_tools.prepare.preparers import Outcome
from vmae_det.dataset_tools.prepare.tubes import prepare_tubes
from vmae_det.formats.tube_csv import MULTISPORTS_NOT_SCORED
from vmae_det.formats.tube_pickles import read_tube_annotations

ANNOTATIONS = "multisports_GT.pkl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the paths of the official files."""
    add_detection_arguments(
        parser,
        f"folder with {ANNOTATIONS}",
        "folder trainval, with a subfolder for each sport",
        "detected persons of the validation set, in any person-box format, with frame numbers from 1 as "
        "timestamps, such as a pickle of MultiSports_box.zip",
    )


def prepare(name: str, folder: Path, args: argparse.Namespace) -> Outcome:
    """Write `folder`."""
    tubes = read_tube_annotations(require_file(args.annotations, ANNOTATIONS))
    return prepare_tubes({folder: tubes.splits[0]}, tubes, folder, args, MULTISPORTS_NOT_SCORED)
