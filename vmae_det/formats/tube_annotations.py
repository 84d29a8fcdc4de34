"""The pickles in which datasets of tubes are published: JHMDB-GT.pkl, UCF101v2-GT.pkl, multisports_GT.pkl.

A dict with `labels` (a list of names), `gttubes` ({video: {label from 0: [array (frames, 5)]}} with rows of
frame from 1, x1, y1, x2, y2 in pixels), `resolution` ({video: (height, width)}), `nframes`, `train_videos`
and `test_videos`, lists of videos for each split. A video is CLASS/NAME. They go back to ACT's tools
(Kalogeiton et al., 2017); see mmaction2's tools/data/jhmdb/README.md.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.formats.box_csv import is_video_name
from vmae_det.utils.errors import DataError, quoted
from vmae_det.utils.safe_pickle import PickledArray, safe_load_pickle

_MAX_FRAME = 10**7


@dataclass(frozen=True)
class Tube:
    """One person and action.

    Args:
        label: from 0.
        frames: (N,) int64, from 0, ascending.
        boxes: (N, 4) float64, xyxy relative to the frame; they may reach beyond it.
    """

    label: int
    frames: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True)
class TubeFile:
    """What such a file says.

    Args:
        labels: names of the classes.
        tubes: of each video, by its name in the file.
        splits: videos of the training and the test set of each split.
        num_frames: of the videos that it says it of.
    """

    labels: list[str]
    tubes: dict[str, list[Tube]]
    splits: list[tuple[list[str], list[str]]]
    num_frames: dict[str, int]


def read_tube_pickle(path: Path, in_pixels: bool = False) -> TubeFile:
    """Read such a pickle; nothing in it is run.

    Args:
        in_pixels: keep boxes as they are, and read the test sets alone; `resolution` and `train_videos` may
            then be missing.

    Raises:
        DataError: names the file, the entry, what was got and what was expected.
    """
    content = safe_load_pickle(path, "tubes")
    if not isinstance(content, dict):
        raise DataError(f"expected a dict with labels, gttubes, ..., got a {type(content).__name__}", path)
    needless = ("resolution", "train_videos") if in_pixels else ()
    part = {key: entry(content, key, kind, path) for key, kind in _PARTS.items() if key not in needless}
    if in_pixels:
        part["train_videos"] = [[] for _ in part["test_videos"]]
    labels = names(part["labels"], "labels", path)
    if len(set(labels)) != len(labels) or not labels:
        raise DataError("labels: expected names that differ", path)
    splits = [
        tuple(
            names(videos, f"{key}[{i}]", path) for key, videos in zip(("train_videos", "test_videos"), pair)
        )
        for i, pair in enumerate(zip(part["train_videos"], part["test_videos"]))
    ]
    if not splits or len(part["train_videos"]) != len(part["test_videos"]):
        raise DataError("expected train_videos and test_videos of the same splits", path)
    tubes = {}
    for video in dict.fromkeys(video for split in splits for videos in split for video in videos):
        size = np.ones(4) if in_pixels else _size(part["resolution"], video, path)
        tubes[video] = _tubes(part["gttubes"], video, size, len(labels), path)
    counts = content.get("nframes")
    return TubeFile(labels, tubes, splits, frame_counts(counts if isinstance(counts, dict) else {}))


_PARTS = {"labels": list, "gttubes": dict, "resolution": dict, "train_videos": list, "test_videos": list}


def entry(content: Any, key: str, kind: type | tuple[type, ...], path: Path, where: str = "") -> Any:
    """`content[key]` of a type; DataError where it is missing or of another type."""
    what = f"{where}{key}"
    if not isinstance(content, dict) or key not in content:
        raise DataError(f"{what}: missing", path)
    value = content[key]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        expected = " or ".join(one.__name__ for one in kinds)
        raise DataError(f"{what}: expected a {expected}, got a {type(value).__name__}", path)
    return value


def names(value: Any, what: str, path: Path) -> list[str]:
    """A list of names; DataError where it is something else."""
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{what}: expected a list of names, got a {type(value).__name__}", path)
    for name in value:
        if not isinstance(name, str) or not is_video_name(name) or "," in name:
            raise DataError(
                f"{what}: expected names without commas and quotes, got {quoted(str(name))}", path
            )
    return list(value)


def table(value: Any, columns: int | tuple[int, ...], where: str, path: Path) -> np.ndarray:
    """float64 (N, columns) of finite numbers; DataError where it is something else."""
    numbers = columns if isinstance(columns, tuple) else (columns,)
    expected = f"{where}: expected an array (N, {' or '.join(map(str, numbers))}) of numbers"
    if not isinstance(value, PickledArray):
        raise DataError(f"{expected}, got a {type(value).__name__}", path)
    try:
        array = value.to_numpy()
    except pickle.UnpicklingError as error:
        raise DataError(f"{expected}, got {error}", path) from None
    if array.ndim != 2 or array.shape[1] not in numbers:
        raise DataError(f"{expected}, got shape {array.shape}", path)
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise DataError(f"{expected}, got values that are not finite", path)
    return array


def frame_counts(counts: dict[Any, Any]) -> dict[str, int]:
    """Those of the numbers of frames of videos that are numbers."""
    return {video: int(count) for video, count in counts.items() if isinstance(count, (int, float))}


def frame_numbers(values: np.ndarray, where: str, path: Path) -> np.ndarray:
    """int64 of whole numbers from 0 that ascend; DataError of others."""
    good = (values >= 0) & (values <= _MAX_FRAME) & (values == np.floor(values))
    if not good.all() or (np.diff(values) <= 0).any():
        raise DataError(f"{where}: expected the numbers of frames in ascending order", path)
    return values.astype(np.int64)


def _size(resolution: dict, video: str, path: Path) -> np.ndarray:
    """Width, height, width, height of a video's frames."""
    value = resolution.get(video)
    if isinstance(value, PickledArray):
        value = value.to_numpy().reshape(-1).tolist()
    good = isinstance(value, (list, tuple)) and len(value) == 2
    if not good or not all(isinstance(side, (int, float)) and side > 0 for side in value):
        raise DataError(
            f"resolution[{quoted(video)}]: expected (height, width), got {quoted(str(value))}", path
        )
    return np.array([value[1], value[0]] * 2, dtype=np.float64)


def _tubes(gttubes: dict, video: str, size: np.ndarray, num_labels: int, path: Path) -> list[Tube]:
    where = f"gttubes[{quoted(video)}]"
    by_label = gttubes.get(video)
    if not isinstance(by_label, dict):
        raise DataError(f"{where}: expected a dict of tubes by label, got a {type(by_label).__name__}", path)
    tubes = []
    for label, arrays in by_label.items():
        if not isinstance(label, int) or not 0 <= label < num_labels:
            raise DataError(f"{where}: expected labels from 0 to {num_labels - 1}, got {label!r}", path)
        if not isinstance(arrays, (list, tuple)):
            raise DataError(f"{where}[{label}]: expected a list of tubes", path)
        for number, value in enumerate(arrays):
            here = f"{where}[{label}][{number}]"
            rows = table(value, 5, here, path)
            tubes.append(Tube(label, frame_numbers(rows[:, 0] - 1, here, path), rows[:, 1:] / size))
    return tubes
