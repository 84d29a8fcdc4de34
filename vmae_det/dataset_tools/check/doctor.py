"""The whole check of a dataset, and which other set it is compared with."""

from __future__ import annotations

import re
from pathlib import Path

from vmae_det.data.catalog import DatasetSpec, get_dataset
from vmae_det.dataset_tools.check.case import Case
from vmae_det.dataset_tools.check.detection import check_detection
from vmae_det.dataset_tools.check.labelled import check_classification, check_videos
from vmae_det.dataset_tools.check.report import Report
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.video.shards import Shards

_CHECKS = {"detection": check_detection, "classification": check_classification, "videos": check_videos}
_OTHER_SET = {
    "train": "val",
    "training": "validation",
    "val": "train",
    "validation": "training",
    "test": "train",
}
_IMPORTED = "dataset.yaml"
_SET_NAME = re.compile(rf"(?<![a-z])({'|'.join(_OTHER_SET)})(?![a-z])", re.IGNORECASE)


def check_dataset(
    spec: DatasetSpec, against: DatasetSpec | None = None, decode: str = "ends", workers: int | None = None
) -> Report:
    """Look for everything in `findings.KINDS`.

    Args:
        against: a set of the same type that must share no video with this one; None takes `partner_of` it.
        decode: how much of each video is decoded: "none", "ends" or "all".
        workers: processes that read videos; None takes one for each processor.

    Raises:
        ConfigError: `against` is of another type.
    """
    if against is not None and against.type != spec.type:
        raise ConfigError(
            f"--against: {against.name} is of type '{against.type}', {spec.name} of type '{spec.type}'"
        )
    case = Case(spec, against or partner_of(spec), is_training(spec), decode, workers)
    problem = _shard_problem(spec)
    if problem is None:
        _CHECKS[spec.type](case)
    else:
        case.add_broken(str(spec.videos), DataError(str(problem)))  # which names the shard
    return Report(
        dataset=spec.name,
        type=spec.type,
        training=case.training,
        against=case.against.name if case.against else "",
        counts=case.counts,
        findings=sorted(case.found, key=lambda finding: finding.is_warning),
        class_rows=case.class_rows,
        recall=case.recall,
        keyframes=case.keyframes,
    )


def _shard_problem(spec: DatasetSpec) -> DataError | None:
    """Why the videos cannot be found in their shards."""
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
    """Whether a dataset is for training: unless its name says val, validation or test."""
    names = _SET_NAME.findall(_naming_path(spec).name)
    return not names or names[-1].lower().startswith("train")


def _naming_path(spec: DatasetSpec) -> Path:
    """What a dataset is called by: its file, or the folder of an imported dataset.yaml."""
    path = Path(spec.name)
    return path.parent if path.name == _IMPORTED else path


def partner_of(spec: DatasetSpec) -> DatasetSpec | None:
    """The other set of a pair, by "train" and "val" in the catalog's name or in the name of the dataset file
    (of the folder, for a dataset.yaml); None where there is no such set at hand."""
    path = _naming_path(spec)
    found = list(_SET_NAME.finditer(path.name))
    if not found:
        return None
    start, end = found[-1].span()
    name = path.name[:start] + _OTHER_SET[found[-1][0].lower()] + path.name[end:]
    try:
        beside = path.with_name(name)
        beside = beside if path.name == Path(spec.name).name else beside / _IMPORTED
        partner = get_dataset(str(beside) if Path(spec.name).is_file() else name)
    except (ConfigError, DataError):
        return None
    return partner if partner.type == spec.type and partner.type != "videos" else None
