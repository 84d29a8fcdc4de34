"""UCF101-24, from the corrected annotations (pyannot.pkl) or UCF101v2-GT.pkl, and UCF101's videos.

pyannot.pkl contains {CLASS/VIDEO: {annotations: [{label, sf, ef, boxes}], label, numf}}: frames sf to ef - 1,
counted from 0; boxes (ef - sf, 4) as x, y, width, height in pixels of 320 x 240; labels from 0 in the order
of the class names. Keys and numbers may be NumPy scalars. The split is the first split of UCF101, from
trainlist01.txt and testlist01.txt next to it, with lines CLASS/VIDEO. See
github.com/gurkirt/corrected-UCF101-Annots.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vmae_det.dataset_tools.prepare.detection import add_detection_arguments
from vmae_det.dataset_tools.prepare.files import read_lines, require_file
from vmae_det.dataset_tools.prepare.preparers import Outcome
from vmae_det.dataset_tools.prepare.tubes import prepare_tubes
from vmae_det.formats.tube_pickles import (
    Tube,
    TubeAnnotations,
    float_table,
    frame_counts,
    read_tube_annotations,
    typed_entry,
)
from vmae_det.utils.errors import DataError, quoted
from vmae_det.utils.safe_pickle import safe_load_pickle

CORRECTED, ACT_FORMAT = "pyannot.pkl", "UCF101v2-GT.pkl"
LISTS = ("trainlist01.txt", "testlist01.txt")
FRAME_SIZE = np.array([320.0, 240.0, 320.0, 240.0])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the paths of the official files."""
    add_detection_arguments(
        parser,
        f"folder with {CORRECTED}, trainlist01.txt and testlist01.txt; or with {ACT_FORMAT}",
        "folder UCF-101, with a subfolder for each class",
        "detected persons of the test set, in any person-box format, with frame numbers from 1 as timestamps",
    )


def prepare(name: str, folder: Path, args: argparse.Namespace) -> Outcome:
    """Write `folder`."""
    path = require_file(args.annotations, CORRECTED, ACT_FORMAT)
    tubes = read_corrected(path) if path.name == CORRECTED else read_tube_annotations(path)
    return prepare_tubes({folder: tubes.splits[0]}, tubes, folder, args)


def read_corrected(path: Path) -> TubeAnnotations:
    """Read pyannot.pkl and the lists next to it.

    Raises:
        DataError: an entry, or a line of a list, is invalid.
    """
    content = safe_load_pickle(path, "UCF101-24's annotations")
    if not isinstance(content, dict) or not all(isinstance(video, str) for video in content):
        raise DataError("expected a dict of annotations by CLASS/VIDEO", path)
    tubes = {video: _read_tubes(content[video], video, path) for video in content}
    labels, tubes = _renumber_labels(tubes, path)
    # The file contains only annotated videos. Its authors dropped the others.
    split = tuple([v for v in _read_list(require_file(path.parent, name)) if v in tubes] for name in LISTS)
    if not any(split):
        raise DataError(f"contains no video of {' and '.join(LISTS)}", path)
    counts = {video: one.get("numf") for video, one in content.items()}
    return TubeAnnotations(labels, tubes, [split], frame_counts(counts))


def _read_list(path: Path) -> list[str]:
    videos = []
    for line, text in read_lines(path):
        video = PurePosixPath(text.split()[0])
        if len(video.parts) != 2:
            raise DataError(f"expected CLASS/VIDEO, got {quoted(text)}", path, line)
        videos.append(str(video.with_suffix("")) if video.suffix == ".avi" else str(video))
    return videos


def _renumber_labels(tubes: dict[str, list[Tube]], path: Path) -> tuple[list[str], dict[str, list[Tube]]]:
    """Renumber labels, because the file may contain only some of the classes.

    Returns:
        Class names in the order of their labels, and the tubes with labels that are indices into them.

    Raises:
        DataError: a label has several classes, or a class several labels.
    """
    classes: dict[int, str] = {}
    numbers: dict[str, int] = {}
    for video, found in tubes.items():
        name = video.partition("/")[0]
        for tube in found:
            if (
                classes.setdefault(tube.label, name) != name
                or numbers.setdefault(name, tube.label) != tube.label
            ):
                problem = f"label {tube.label} and class {name} do not match those of other videos"
                raise DataError(f"{quoted(video)}: {problem}", path)
    labels = [classes[label] for label in sorted(classes)]
    index = {label: number for number, label in enumerate(sorted(classes))}
    return labels, {
        video: [replace(tube, label=index[tube.label]) for tube in found] for video, found in tubes.items()
    }


def _read_tubes(content: Any, video: str, path: Path) -> list[Tube]:
    where = f"{quoted(video)}: "
    tubes = []
    for number, one in enumerate(typed_entry(content, "annotations", (list, tuple), path, where)):
        here = f"{where}annotations[{number}]: "
        label, first, end = (typed_entry(one, key, int, path, here) for key in ("label", "sf", "ef"))
        boxes = float_table(one.get("boxes"), 4, f"{here}boxes", path)
        if first < 0 or end - first != len(boxes):
            raise DataError(f"{here}expected {end - first} boxes (ef - sf), got {len(boxes)}", path)
        corners = np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
        tubes.append(Tube(label, np.arange(first, end), corners / FRAME_SIZE))
    return tubes
