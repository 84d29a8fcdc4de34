"""Split a dataset into a training and a validation set, by video. The sets are written as dataset files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vmae_det.data.catalog import DatasetSpec, dataset_names
from vmae_det.formats.ava_csv import ActionBoxes, read_action_csv, read_excluded_keyframes, write_action_csv
from vmae_det.formats.keyframes import group_by_keyframe
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import PersonBoxes, format_person_boxes, read_person_boxes
from vmae_det.formats.video_list import read_video_list
from vmae_det.formats.video_starts import VideoStarts
from vmae_det.utils.output_files import write_text
from vmae_det.utils.paths import is_url
from vmae_det.video.shards import Shards

VAL_FRACTION = 0.2  # of the labels of each class


@dataclass(frozen=True)
class Split:
    """A training and a validation set.

    Attributes:
        train, val: dataset files.
        videos: numbers of videos in each.
        missing: classes that have labels in only one of the sets.
        annotated_persons: the persons of the validation set are its annotated boxes, with a score of 1.
    """

    train: Path
    val: Path
    videos: tuple[int, int]
    missing: int
    annotated_persons: bool = False


def split_dataset(spec: DatasetSpec, folder: Path, seed: int) -> Split | None:
    """Write `train.yaml` and `val.yaml` to a folder. The files of the dataset are not changed.

    Args:
        spec: a dataset of type classification or detection.
        seed: the same seed gives the same split.

    Returns:
        The split; None if the dataset has a single video with labels.
    """
    return (
        _split_detection(spec, folder, seed) if spec.type == "detection" else _split_list(spec, folder, seed)
    )


def choose_validation(counts: np.ndarray, seed: int, fraction: float = VAL_FRACTION) -> np.ndarray:
    """Choose validation videos, bool (V,), so that each class has labels in both sets where possible.

    Classes are visited from the rarest to the most frequent. Videos are added in random order until the class
    has `fraction` of its labels. A video stays in the training set if it is the last one there with a class.

    Args:
        counts: number of labels of each class in each video (V, C), with at least two videos.
    """
    has = counts > 0
    left = has.sum(axis=0)  # training videos of each class
    order = np.random.default_rng(seed).permutation(len(counts))
    chosen, got = np.zeros(len(counts), dtype=bool), np.zeros(counts.shape[1])
    target = fraction * counts.sum(axis=0)
    for column in np.argsort(left, kind="stable"):
        for video in order[has[order, column]]:
            if got[column] >= target[column]:
                break
            if not chosen[video] and (left[has[video]] > 1).all():
                chosen[video] = True
                left -= has[video]
                got += counts[video]
    if not chosen.any():  # each video is the only one with some class
        lost = (has & (has.sum(axis=0) == 1)).sum(axis=1)
        chosen[order[np.argmin(lost[order])]] = True
    return chosen


def write_annotated_persons(spec: DatasetSpec, folder: Path) -> Path:
    """Write `val.yaml`: a detection dataset, with its annotated boxes as persons with a score of 1."""
    write_text(folder / "val_persons.csv", _annotated_persons(read_action_csv(spec.annotations)))
    write_dataset_file(folder / "val.yaml", spec, person_boxes="val_persons.csv")
    return folder / "val.yaml"


# ---------------------------------------------------------------- detection


def _split_detection(spec: DatasetSpec, folder: Path, seed: int) -> Split | None:
    label_map = LabelMap.from_file(spec.label_map)
    rows = read_action_csv(spec.annotations, label_map)
    excluded = read_excluded_keyframes(spec.excluded) if spec.excluded else None
    used = group_by_keyframe(rows, label_map.columns(rows.action), excluded)
    numbers = {name: number for number, name in enumerate(rows.videos)}
    counts = np.zeros((len(rows.videos), len(label_map)), dtype=np.int64)
    keyframe_video = np.array([numbers[name] for name in used.videos], dtype=np.int64)[used.video]
    np.add.at(counts, (np.repeat(keyframe_video, np.diff(used.starts)), used.values), 1)
    has_labels = counts.any(axis=1)
    if has_labels.sum() < 2:
        return None
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[has_labels] = choose_validation(counts[has_labels], seed)
    # Videos of which all annotations are keyframes without an action: negatives for both sets.
    keyframes = np.bincount(rows.video[np.isnan(rows.boxes).any(axis=1)], minlength=len(counts))
    is_negative = ~has_labels & (keyframes > 0)
    if is_negative.sum() > 1:
        chosen[is_negative] = choose_validation(keyframes[is_negative, None], seed)

    parts = {"train": rows.select(~chosen[rows.video]), "val": rows.select(chosen[rows.video])}
    for part, boxes in parts.items():
        write_action_csv(folder / f"{part}.csv", boxes, kind="ground_truth")
    train_persons = None
    if spec.person_boxes is None:
        persons = _annotated_persons(parts["val"])
    else:
        train_persons, detected = "train_persons.csv", read_person_boxes(spec.person_boxes)
        write_text(folder / train_persons, _persons_of(detected, rows.videos[~chosen]))
        persons = _persons_of(detected, rows.videos[chosen])
    write_text(folder / "val_persons.csv", persons)
    write_dataset_file(folder / "train.yaml", spec, annotations="train.csv", person_boxes=train_persons)
    write_dataset_file(folder / "val.yaml", spec, annotations="val.csv", person_boxes="val_persons.csv")
    return _result(folder, counts, chosen, spec.person_boxes is None)


def _annotated_persons(rows: ActionBoxes) -> str:
    rows = rows.select(~np.isnan(rows.boxes).any(axis=1))
    table = np.column_stack([rows.video, rows.timestamp, rows.boxes])
    _, first = np.unique(table, axis=0, return_index=True)  # one box per person, not one per action
    rows = rows.select(first)
    return _person_lines(PersonBoxes(rows.videos, rows.video, rows.timestamp, rows.boxes, rows.score))


def _persons_of(persons: PersonBoxes, videos: np.ndarray) -> str:
    """Return the lines of the persons in some videos."""
    chosen = np.isin(persons.videos.astype(object), videos.astype(object))
    return _person_lines(persons.select(chosen[persons.video]))


def _person_lines(persons: PersonBoxes) -> str:
    lines = (
        format_person_boxes(persons.videos[video], timestamp, boxes[None], np.array([score]))
        for video, timestamp, boxes, score in zip(
            persons.video, persons.timestamp.tolist(), persons.boxes, persons.score
        )
    )
    return "".join(line for group in lines for line in group)


# ---------------------------------------------------------------- classification


def _split_list(spec: DatasetSpec, folder: Path, seed: int) -> Split | None:
    if spec.annotations is None:
        names = np.array(list(spec.videos.videos.numbers_by_name()), dtype=object)
    else:
        names = read_video_list(spec.annotations).names
    _, labels = spec.labeled_videos()
    if len(labels) < 2:
        return None
    counts = np.zeros((len(labels), labels.max() + 1), dtype=np.uint8)  # may be large
    counts[np.arange(len(labels)), labels] = 1
    chosen = choose_validation(counts, seed)
    for part, rows in (("train", ~chosen), ("val", chosen)):
        lines = (f"{name} {label}\n" for name, label in zip(names[rows], labels[rows]))
        write_text(folder / f"{part}.csv", "".join(lines))
        write_dataset_file(folder / f"{part}.yaml", spec, annotations=f"{part}.csv")
    return _result(folder, counts, chosen)


# ---------------------------------------------------------------- dataset files


def _result(folder: Path, counts: np.ndarray, chosen: np.ndarray, annotated_persons: bool = False) -> Split:
    in_train, in_val = (counts[rows].sum(axis=0) > 0 for rows in (~chosen, chosen))
    return Split(
        folder / "train.yaml",
        folder / "val.yaml",
        (int((~chosen).sum()), int(chosen.sum())),
        int((in_train != in_val).sum()),
        annotated_persons,
    )


def write_dataset_file(
    path: Path,
    spec: DatasetSpec,
    note: str = "",
    **changes: Any,
) -> None:
    """Write a dataset file with the content of a spec. Paths that are not in `changes` are absolute.

    Args:
        note: comment in the first line, with {} for the name of the spec. Without one, the file is a part of
            the spec, and says so.
    """
    content: dict[str, Any] = {"type": spec.type, "videos": _absolute(spec.videos)}
    for key in ("annotations", "label_map", "person_boxes", "excluded", "scored_classes"):
        value = changes[key] if key in changes else getattr(spec, key)
        if value is not None:
            content[key] = value if key in changes else _absolute(value)
    start = spec.video_start
    if start:
        content["video_start"] = _absolute(start.path) if isinstance(start, VideoStarts) else start
    if not spec.complete_persons:
        content["complete_persons"] = False
    if not note:
        note = "A part of {}, written by vmae-det train --data."
        whole = spec.name if spec.name in dataset_names() else os.path.abspath(spec.name)
        content["part_of"] = spec.part_of or whole
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_text(path, f"# {note.format(spec.name)}\n{text}")


def _absolute(path: Path | Shards) -> str:
    return str(path) if is_url(str(path)) else os.path.abspath(path if isinstance(path, Path) else str(path))
