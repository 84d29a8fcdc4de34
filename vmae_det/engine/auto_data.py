"""Choose datasets, classes and negatives of `vmae-det train --data`."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from vmae_det.config import CfgNode
from vmae_det.config.cfg_node import value_of
from vmae_det.config.checks import NUM_CLASSES_KEYS
from vmae_det.config.defaults import KEYS
from vmae_det.data.catalog import DatasetSpec, get_dataset
from vmae_det.data.classes import ModelClasses, sided_classes
from vmae_det.data.datasets import check_labels
from vmae_det.data.loader import ConcatClipDataset, build_train_dataset
from vmae_det.data.split import split_dataset, write_annotated_persons
from vmae_det.engine.auto_choices import Choices
from vmae_det.engine.auto_network import RECIPES, TASKS
from vmae_det.engine.num_classes import resolve_num_classes
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.modeling import model_class
from vmae_det.utils.errors import ConfigError, UserError

DATA_FOLDER = "data"  # in OUTPUT_DIR: the dataset files of a split
_RARE = 10  # ratio of the most frequent class to the rarest one from which classes are weighted
_DETECT_PERSONS = (
    "run vmae-det detect-persons --dataset {} --output persons.csv, and name the file as person_boxes"
)


def task_of(spec: DatasetSpec, given: CfgNode, given_keys: frozenset[str]) -> str:
    """Return the task that a dataset is for.

    Raises:
        ConfigError: there is none, or the given keys are for another one.
    """
    if spec.type not in TASKS:
        raise ConfigError(
            f"--data: {spec.name} is of type '{spec.type}', expected one of {', '.join(TASKS)}; use "
            "--config-file without --data for a custom type"
        )
    task = TASKS[spec.type]
    if "MODEL.META_ARCHITECTURE" in given_keys and model_class(given).task != task:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: {given.MODEL.META_ARCHITECTURE}, but {spec.name} of --data is of type "
            f"'{spec.type}', which trains {RECIPES[task][0]}"
        )
    return task


def checked_val(val: str, spec: DatasetSpec, given: CfgNode) -> DatasetSpec | None:
    """Return the validation set, whose type and classes must fit those of the training set."""
    if not val:
        return None
    found = get_dataset(val, given.DATASETS.ROOT, "--val")
    if found.type != spec.type:
        raise ConfigError(
            f"--val: {found.name} is of type '{found.type}', but {spec.name} of --data is of type "
            f"'{spec.type}'"
        )
    if spec.label_map is not None and found.label_map is not None:
        classes = ModelClasses(LabelMap.from_file(spec.label_map), str(spec.label_map))
        classes.columns_of(LabelMap.from_file(found.label_map), str(found.label_map))
    return found


def check_data_labels(spec: DatasetSpec) -> None:
    """Raise a DataError if a label is outside of the label map, or the annotations are invalid."""
    if spec.label_map is None:
        return
    label_map = LabelMap.from_file(spec.label_map)
    if spec.type == "detection":
        read_action_csv(spec.annotations, label_map)
    elif spec.type == "classification":
        check_labels(spec.labeled_videos()[1], label_map, spec)


def choose_data(choices: Choices, data: str, val_spec: DatasetSpec | None, val: str, folder: Path) -> None:
    """Choose training and validation set, and the folder of the run.

    Args:
        data, val, folder: see `choose_config`.
        val_spec: the dataset `val`; None without one.
    """
    choices.set("OUTPUT_DIR", default_output(data), "named after the data")
    train, test, reason = data, (val,) if val else (), "--val"
    if val_spec is not None:
        _warn_about_common_videos(choices, val_spec)
    if val_spec is not None and val_spec.type == "detection" and val_spec.person_boxes is None:
        if len(np.setdiff1d(read_action_csv(val_spec.annotations).action, [-1])) < 2:
            raise UserError(
                f"--val: {val} has no person_boxes and labels of a single class, so that each model would "
                f"have a frame-mAP of 1; {_DETECT_PERSONS.format(val)}"
            )
        test, reason = (str(write_annotated_persons(val_spec, folder)),), "--val, with annotated persons"
        _warn_about_persons(choices, val)
    if val_spec is None and choices.task == "pretraining":
        reason = "none: all videos are for training"
    elif val_spec is None:
        train, test, reason = _split(choices, data, folder)
    choices.set("DATASETS.TRAIN", (train,), "--data" if train == data else reason)
    choices.set("DATASETS.TEST", test, reason)
    if choices.cfg.MODEL.PERSON_HEAD.NAME:
        _choose_persons(choices)


def _choose_persons(choices: Choices) -> None:
    """Drop the person head of the recipe if the data cannot train it; validate with the dataset's boxes."""
    if not choices.spec.complete_persons:
        reason = "complete_persons is false: some people are not annotated"
        choices.set("MODEL.PERSON_HEAD.NAME", "", reason)
    node = choices.cfg.MODEL.PERSON_HEAD
    if node.NAME:
        choices.set("TEST.PERSON_BOXES", "dataset", "frame-mAP of the actions of given people")
        return
    for key in node:
        if f"MODEL.PERSON_HEAD.{key}" not in choices.given_keys:
            node[key] = KEYS[f"MODEL.PERSON_HEAD.{key}"].default


def _split(choices: Choices, data: str, folder: Path) -> tuple[str, tuple[str, ...], str]:
    """Return training and validation set, and the reason."""
    split = split_dataset(choices.spec, folder, choices.cfg.SEED)
    if split is None:
        choices.warnings.append(f"{data}: training has no validation set, because only one video has labels")
        return data, (), "none: a single video with labels cannot be split"
    if split.missing:
        choices.warnings.append(
            f"{data}: {split.missing} classes have labels in only one of the training and validation sets"
        )
    if split.annotated_persons:
        _warn_about_persons(choices, data)
    reason = f"{split.videos[0]} videos for training, {split.videos[1]} for validation"
    return str(split.train), (str(split.val),), reason


def _warn_about_common_videos(choices: Choices, val: DatasetSpec) -> None:
    """Warn if videos of the validation set are also in the training set."""
    names = _labeled_names(val)
    common = len(names & _labeled_names(choices.spec))
    if common:
        choices.warnings.append(
            f"--val: {common} of the {len(names)} videos of {val.name} are also in {choices.spec.name}; the "
            "model is trained on them, so the results are too good"
        )


def _labeled_names(spec: DatasetSpec) -> set[str]:
    """Return the absolute paths of the videos with labels; for detection, the folder and the id of each."""
    if spec.type == "detection":
        folder = os.path.abspath(str(spec.videos))
        return {os.path.join(folder, name) for name in read_action_csv(spec.annotations).videos}
    if spec.type == "classification":
        return {os.path.abspath(str(path)) for path in spec.labeled_videos()[0]}
    return set()


def _warn_about_persons(choices: Choices, name: str) -> None:
    choices.warnings.append(
        f"{name}: has no person_boxes; validation uses the annotated boxes, so that frame-mAP measures "
        "actions and not the detection of people (vmae-det detect-persons writes person_boxes)"
    )


def choose_classes(choices: Choices) -> ConcatClipDataset:
    """Choose the number of classes, their balance and the negatives; return the training set.

    Raises:
        UserError: all training samples have the same class, so that nothing can be learned.
    """
    key = NUM_CLASSES_KEYS.get(choices.task)
    if key is not None:
        if key not in choices.given_keys:
            choices.cfg.merge_from_list([key, "auto"])
        source = resolve_num_classes(choices.cfg)
        choices.set(key, value_of(choices.cfg, key), f"classes of {source}")
    dataset = _choose_negatives(choices) if choices.task == "detection" else None
    dataset = dataset or build_train_dataset(choices.cfg, choices.task)
    if key is None:
        return dataset
    counts = dataset.class_counts(value_of(choices.cfg, key))
    present = counts[counts > 0]
    if len(present) < 2:
        _check_single_class(choices, dataset)
    ratio = present.max() / present.min()
    balance = "inverse_sqrt" if ratio > _RARE else "none"
    reason = f"the most frequent class has {ratio:.3g} times the labels of the rarest ({present.min():g})"
    choices.set("SOLVER.CLASS_BALANCE", balance, reason)
    sided = sided_classes(dataset.classes and dataset.classes.label_map)
    if sided:
        choices.set("INPUT.FLIP", 0.0, f"a flip would turn '{sided[0]}' into another class")
    return dataset


def _choose_negatives(choices: Choices) -> ConcatClipDataset:
    """Choose whether persons without an annotation are negatives; return the training set."""
    key, score_key = "DATASETS.NEGATIVE_PERSONS", "DATASETS.NEGATIVE_PERSON_SCORE"
    cfg = choices.cfg
    (name,) = cfg.DATASETS.TRAIN
    has_persons = get_dataset(name, cfg.DATASETS.ROOT).person_boxes is not None
    if has_persons and key not in choices.given_keys:
        cfg.merge_from_list([key, "annotated_keyframes"])
    if score_key not in choices.given_keys:
        cfg.merge_from_list([score_key, cfg.TEST.PERSON_BOX_SCORE])
    dataset = build_train_dataset(cfg, "detection")
    number = dataset.datasets[0].num_negatives
    if not has_persons:
        choices.set(key, "none", "the training set has no person_boxes")
        return dataset
    more = _count_all_negatives(cfg) - number
    others = f"; all_keyframes would add {more}" if more else ""
    if not number:
        choices.set(key, "none", f"no person box of its keyframes is a negative{others}")
    else:
        reason = f"{number} of its person boxes match no annotated box{others}"
        choices.set(key, "annotated_keyframes", reason)
        choices.set(score_key, cfg.TEST.PERSON_BOX_SCORE, "as TEST.PERSON_BOX_SCORE")
    return dataset


def _count_all_negatives(cfg: CfgNode) -> int:
    """Return the number of negatives with `all_keyframes`."""
    cfg = cfg.clone()
    cfg.merge_from_list(["DATASETS.NEGATIVE_PERSONS", "all_keyframes"])
    return build_train_dataset(cfg, "detection").datasets[0].num_negatives


def _check_single_class(choices: Choices, dataset: ConcatClipDataset) -> None:
    """Raise a UserError if each training sample has the only class with labels."""
    name = choices.spec.name
    problem = f"{name}: only one class has labels"
    if choices.task != "detection":
        raise UserError(
            f"{problem}, so a model cannot learn what is not of this class; label other classes, too"
        )
    number = dataset.datasets[0].num_negatives
    if number:
        more = _count_all_negatives(choices.cfg) - number
        if more:
            choices.warnings.append(
                f"{name}: {more} people in keyframes that the annotations do not name are not used; if none "
                "of them has the action, set DATASETS.NEGATIVE_PERSONS all_keyframes"
            )
        return
    problem += " and each training box has it, so a model cannot learn who does not; label other actions, or "
    (train,) = choices.cfg.DATASETS.TRAIN
    if get_dataset(train, choices.cfg.DATASETS.ROOT).person_boxes is None:
        raise UserError(f"{problem}add the boxes of all people: {_DETECT_PERSONS.format(name)}")
    raise UserError(
        f"{problem}annotate keyframes without it (lines VIDEO,SECOND) and detect people there; if nobody "
        "does it in the other keyframes of person_boxes, set DATASETS.NEGATIVE_PERSONS all_keyframes"
    )


def move_datasets(choices: Choices, folder: Path) -> None:
    """Replace the dataset files in `folder` by those that OUTPUT_DIR will contain."""
    moved = Path(choices.cfg.OUTPUT_DIR) / DATA_FOLDER
    for key in ("DATASETS.TRAIN", "DATASETS.TEST"):
        names = [Path(name) for name in value_of(choices.cfg, key)]
        if any(name.parent == folder for name in names):
            names = tuple(str(moved / name.name) for name in names)
            choices.cfg.merge_from_list([key, names])
            choices.listed = [
                replace(choice, value=names) if choice.key == key else choice for choice in choices.listed
            ]


def default_output(data: str) -> str:
    """Return OUTPUT_DIR: named after the dataset, its file, or the folder of a file `dataset.yaml`."""
    path = Path(data)
    parts = [part for part in path.with_suffix("").parts if part not in ("/", ".", "..", "dataset", "train")]
    return "output/" + (re.sub(r"[^\w.-]", "_", parts[-1]) if parts else "train")
