"""Check a dataset, and choose the dataset that it is compared with."""

from __future__ import annotations

import re
from pathlib import Path

from vmae_det.data.catalog import DatasetSpec, get_dataset
from vmae_det.dataset_tools.check.classification import check_classification, check_videos
from vmae_det.dataset_tools.check.context import CheckContext
from vmae_det.dataset_tools.check.detection import check_detection
from vmae_det.dataset_tools.check.report import Report
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.video.shards import Shards

_CHECKS = {"detection": check_detection, "classification": check_classification, "videos": check_videos}
_OTHER_SPLIT = {
    "train": "val",
    "training": "validation",
    "val": "train",
    "validation": "training",
    "test": "train",
}
_IMPORTED = "dataset.yaml"
_SPLIT_NAME = re.compile(rf"(?<![a-z])({'|'.join(_OTHER_SPLIT)})(?![a-z])", re.IGNORECASE)


def check_dataset(
    spec: DatasetSpec, against: DatasetSpec | None = None, decode: str = "ends", workers: int | None = None
) -> Report:
    """Check a dataset for all problems in `report.KINDS`.

    Args:
        against: a dataset of the same type that must not share videos with it. None: `counterpart(spec)`.
        decode: how much of each video to decode: "none", "ends" or "all".
        workers: number of processes that read videos. None: one for each CPU.

    Raises:
        ConfigError: `against` is of another type.
    """
    if against is not None and against.type != spec.type:
        raise ConfigError(
            f"--against: expected a dataset of type '{spec.type}' like {spec.name}, got {against.name} of "
            f"type '{against.type}'"
        )
    context = CheckContext(spec, against or counterpart(spec), is_training(spec), decode, workers)
    problem = _shard_problem(spec)
    if problem is None:
        _CHECKS.get(spec.type, _CHECKS["videos"])(context)  # only the videos of a custom type
    else:
        context.add_broken_file(str(spec.videos), DataError(str(problem)))  # the message names the shard
    return Report(
        dataset=spec.name,
        type=spec.type,
        training=context.training,
        against=context.against.name if context.against else "",
        counts=context.counts,
        findings=sorted(context.findings, key=lambda finding: finding.is_warning),
        class_rows=context.class_rows,
        recall=context.recall,
        keyframes=context.keyframes,
    )


def _shard_problem(spec: DatasetSpec) -> DataError | None:
    """Return the error that looking up videos in their shards raises, or None."""
    if not isinstance(spec.videos, Shards):
        return None
    try:
        videos = spec.videos.videos
        if spec.type == "detection":
            videos.numbers_by_key()
        elif spec.type == "classification":
            videos.numbers_by_name()
            if spec.annotations is None:
                videos.labels()
    except DataError as error:
        return error
    return None


def is_training(spec: DatasetSpec) -> bool:
    """Return whether a dataset is a training set: unless its name contains val, validation or test."""
    names = _SPLIT_NAME.findall(_named_path(spec).name)
    return not names or names[-1].lower().startswith("train")


def _named_path(spec: DatasetSpec) -> Path:
    """Return the path that names the split: the dataset file, or the folder of an imported dataset."""
    path = Path(spec.name)
    return path.parent if path.name == _IMPORTED else path


def counterpart(spec: DatasetSpec) -> DatasetSpec | None:
    """Return the validation set of a training set, or the other way round; None if there is none.

    It has the same name with "train" and "val" exchanged, in the catalog, in the name of the dataset file, or
    in the name of the folder of a dataset.yaml.
    """
    path = _named_path(spec)
    found = list(_SPLIT_NAME.finditer(path.name))
    if not found:
        return None
    start, end = found[-1].span()
    name = path.name[:start] + _OTHER_SPLIT[found[-1][0].lower()] + path.name[end:]
    try:
        sibling = path.with_name(name)
        sibling = sibling if path.name == Path(spec.name).name else sibling / _IMPORTED
        other = get_dataset(str(sibling) if Path(spec.name).is_file() else name)
    except (ConfigError, DataError):
        return None
    return other if other.type == spec.type and other.type != "videos" else None
