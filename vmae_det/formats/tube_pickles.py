"""Tube pickles: annotations and detections in the formats of the ACT and MultiSports tools.

Annotations of JHMDB, UCF101-24 and MultiSports (JHMDB-GT.pkl, UCF101v2-GT.pkl, multisports_GT.pkl) are a dict
with

- `labels`: list of class names,
- `gttubes`: {video: {label index: [array (frames, 5)]}}, rows of frame (from 1), x1, y1, x2, y2 in pixels,
- `resolution`: {video: (height, width)},
- `nframes`: {video: number of frames},
- `train_videos` and `test_videos`: a list of videos for each split.

A video is named CLASS/NAME. The format comes from the ACT tools (Kalogeiton et al., 2017); see mmaction2's
tools/data/jhmdb/README.md.

Detections come in three forms:

- tubes of MultiSports: {label index: [(video, score, array (frames, 5 or 6))]}, rows of frame, x1, y1, x2,
  y2,
- frame boxes of both tools: array (N, 8) of the video's index in the list of test videos, frame, label index,
  score, x1, y1, x2, y2,
- tubes of ACT: a folder of VIDEO_tubes.pkl files, {label index: [(array (frames, 6), score)]}.

`read_ground_truth_tubes` and `read_detected_tubes` keep frame numbers and pixels as they are.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.formats.box_csv import is_video_name
from vmae_det.formats.tube_csv import Tubes
from vmae_det.utils.errors import DataError, quoted
from vmae_det.utils.safe_pickle import PickledArray, safe_load_pickle

_MAX_FRAME = 10**7

TubeEntry = tuple[str, str, float, np.ndarray, np.ndarray]  # video, label, score, frames (N,), boxes (N, 4)


@dataclass(frozen=True)
class Tube:
    """One person performing one action.

    Args:
        label: index of the class, from 0.
        frames: (N,) int64, from 0, ascending.
        boxes: (N, 4) float64, xyxy relative to the frame; may extend beyond it.
    """

    label: int
    frames: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True)
class TubeAnnotations:
    """Content of an annotation pickle.

    Args:
        labels: class names.
        tubes: tubes of each video, by video name.
        splits: (training videos, test videos) of each split.
        num_frames: number of frames of each video that the file lists.
    """

    labels: list[str]
    tubes: dict[str, list[Tube]]
    splits: list[tuple[list[str], list[str]]]
    num_frames: dict[str, int]


# ---------------------------------------------------------------- annotations


def read_tube_annotations(path: Path, in_pixels: bool = False) -> TubeAnnotations:
    """Read an annotation pickle. Nothing in it is executed.

    Args:
        in_pixels: keep boxes in pixels and read the test sets only; `resolution` and `train_videos` may then
            be missing.

    Raises:
        DataError: with the file, the entry, what was got and what was expected.
    """
    content = safe_load_pickle(path, "tubes")
    if not isinstance(content, dict):
        raise DataError(f"expected a dict with labels, gttubes, ..., got a {type(content).__name__}", path)
    optional = ("resolution", "train_videos") if in_pixels else ()
    part = {key: typed_entry(content, key, kind, path) for key, kind in _PARTS.items() if key not in optional}
    if in_pixels:
        part["train_videos"] = [[] for _ in part["test_videos"]]
    labels = _name_list(part["labels"], "labels", path)
    if len(set(labels)) != len(labels) or not labels:
        raise DataError("labels: expected one or more distinct names", path)
    splits = [
        tuple(
            _name_list(videos, f"{key}[{i}]", path)
            for key, videos in zip(("train_videos", "test_videos"), pair)
        )
        for i, pair in enumerate(zip(part["train_videos"], part["test_videos"]))
    ]
    if not splits or len(part["train_videos"]) != len(part["test_videos"]):
        raise DataError(
            "expected one list per split in train_videos and in test_videos, got "
            f"{len(part['train_videos'])} and {len(part['test_videos'])} lists",
            path,
        )
    tubes = {}
    for video in dict.fromkeys(video for split in splits for videos in split for video in videos):
        size = np.ones(4) if in_pixels else _frame_size(part["resolution"], video, path)
        tubes[video] = _annotated_tubes(part["gttubes"], video, size, len(labels), path)
    counts = content.get("nframes")
    return TubeAnnotations(labels, tubes, splits, frame_counts(counts if isinstance(counts, dict) else {}))


_PARTS = {"labels": list, "gttubes": dict, "resolution": dict, "train_videos": list, "test_videos": list}


def _annotated_tubes(gttubes: dict, video: str, size: np.ndarray, num_labels: int, path: Path) -> list[Tube]:
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
            tube_where = f"{where}[{label}][{number}]"
            rows = float_table(value, 5, tube_where, path)
            tubes.append(Tube(label, _frame_numbers(rows[:, 0] - 1, tube_where, path), rows[:, 1:] / size))
    return tubes


def _frame_size(resolution: dict, video: str, path: Path) -> np.ndarray:
    """Return (width, height, width, height) of a video's frames."""
    value = resolution.get(video)
    if isinstance(value, PickledArray):
        value = value.to_numpy().reshape(-1).tolist()
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2
    if not is_pair or not all(isinstance(side, (int, float)) and side > 0 for side in value):
        raise DataError(
            f"resolution[{quoted(video)}]: expected (height, width), got {quoted(str(value))}", path
        )
    return np.array([value[1], value[0]] * 2, dtype=np.float64)


# ---------------------------------------------------------------- ground truth and detections as Tubes


def read_ground_truth_tubes(path: Path, split: int = 1) -> Tubes:
    """Read the ground truth of the test videos of a split, with score 1.

    Raises:
        DataError: with the file, the entry, what was got and what was expected.
    """
    annotations = read_tube_annotations(path, in_pixels=True)
    return _to_tubes(
        (video, annotations.labels[tube.label], 1.0, tube.frames + 1, tube.boxes)
        for video in _test_videos(annotations, split, path)
        for tube in annotations.tubes[video]
    )


def read_detected_tubes(path: Path, ground_truth: Path, split: int = 1) -> Tubes:
    """Read detections in any of the three forms. Frame boxes become tubes of one frame.

    Raises:
        DataError: see `read_ground_truth_tubes`.
    """
    annotations = read_tube_annotations(ground_truth, in_pixels=True)
    labels, videos = annotations.labels, _test_videos(annotations, split, ground_truth)
    if path.is_dir():
        return _to_tubes(_iter_act_tubes(path, labels, videos))
    content = safe_load_pickle(path, "detections")
    if isinstance(content, PickledArray):
        return _to_tubes(_iter_frame_boxes(content, labels, videos, path))
    return _to_tubes(_iter_multisports_tubes(content, labels, videos, path))


def _test_videos(annotations: TubeAnnotations, split: int, path: Path) -> list[str]:
    if split > len(annotations.splits):
        raise DataError(f"expected a split from 1 to {len(annotations.splits)}, got split {split}", path)
    return annotations.splits[split - 1][1]


def _iter_act_tubes(folder: Path, labels: list[str], videos: list[str]) -> Iterable[TubeEntry]:
    for video in videos:
        path = folder / f"{video}_tubes.pkl"
        for where, label, value in _iter_by_label(safe_load_pickle(path, "tubes"), labels, path):
            if not isinstance(value, (list, tuple)) or len(value) != 2:
                raise DataError(f"{where}: expected an array and a score, got {_type_of(value)}", path)
            frames, boxes = _frames_and_boxes(value[0], where, path)
            yield video, label, _tube_score(value[1], where, path), frames, boxes


def _iter_multisports_tubes(
    content: Any, labels: list[str], videos: list[str], path: Path
) -> Iterable[TubeEntry]:
    known = set(videos)
    for where, label, value in _iter_by_label(content, labels, path):
        if not isinstance(value, (list, tuple)) or len(value) != 3:
            raise DataError(f"{where}: expected a video, a score and an array, got {_type_of(value)}", path)
        if value[0] not in known:
            raise DataError(f"{where}: {quoted(str(value[0]))} is not a test video of the split", path)
        frames, boxes = _frames_and_boxes(value[2], where, path)
        yield value[0], label, _tube_score(value[1], where, path), frames, boxes


def _iter_by_label(content: Any, labels: list[str], path: Path) -> Iterable[tuple[str, str, Any]]:
    """Yield (location in the pickle, label, value) of each tube."""
    if not isinstance(content, dict):
        expected = "expected a dict of tubes by label or an array (N, 8)"
        raise DataError(f"{expected}, got {_type_of(content)}", path)
    for label, tubes in content.items():
        if not isinstance(label, int) or not 0 <= label < len(labels):
            raise DataError(f"expected labels from 0 to {len(labels) - 1}, got {quoted(str(label))}", path)
        if not isinstance(tubes, (list, tuple)):
            raise DataError(f"[{label}]: expected a list of tubes, got {_type_of(tubes)}", path)
        for i, value in enumerate(tubes):
            yield f"[{label}][{i}]", labels[label], value


def _iter_frame_boxes(
    array: PickledArray, labels: list[str], videos: list[str], path: Path
) -> Iterable[TubeEntry]:
    rows = float_table(array, 8, "detections", path)
    for column, limit, what in ((0, len(videos), "video"), (2, len(labels), "label")):
        index = rows[:, column]
        if not ((index >= 0) & (index < limit) & (index % 1 == 0)).all():
            raise DataError(f"column {column}: expected {what} indices from 0 to {limit - 1}", path)
    for i, (video, frame, label, score, *box) in enumerate(rows.tolist()):
        frames = _frame_numbers(np.array([frame]), f"row {i}", path)
        yield videos[int(video)], labels[int(label)], score, frames, np.array([box])


def _to_tubes(entries: Iterable[TubeEntry]) -> Tubes:
    """Sort the tubes by video and, within a video, keep the order of the entries."""
    ordered = sorted(entries, key=lambda entry: entry[0])
    videos, labels, scores, frames, boxes = zip(*ordered) if ordered else ((), (), (), (), ())
    return Tubes(
        np.array(videos, dtype=object),
        np.array(labels, dtype=object),
        np.array(scores, dtype=np.float64),
        np.repeat(np.arange(len(ordered)), [len(rows) for rows in frames]),
        np.concatenate([np.zeros(0, np.int64), *frames]),
        np.concatenate([np.zeros((0, 4)), *boxes]),
    )


# ---------------------------------------------------------------- validation of entries


def typed_entry(content: Any, key: str, kind: type | tuple[type, ...], path: Path, where: str = "") -> Any:
    """Return `content[key]`; raise DataError if it is missing or not an instance of `kind`."""
    what = f"{where}{key}"
    if not isinstance(content, dict) or key not in content:
        raise DataError(f"{what}: missing", path)
    value = content[key]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        expected = " or ".join(one.__name__ for one in kinds)
        raise DataError(f"{what}: expected a {expected}, got a {type(value).__name__}", path)
    return value


def float_table(value: Any, columns: int | tuple[int, ...], where: str, path: Path) -> np.ndarray:
    """Return `value` as float64 (N, columns); raise DataError unless it has that shape and is finite."""
    widths = columns if isinstance(columns, tuple) else (columns,)
    expected = f"{where}: expected an array (N, {' or '.join(map(str, widths))}) of numbers"
    if not isinstance(value, PickledArray):
        raise DataError(f"{expected}, got a {type(value).__name__}", path)
    try:
        array = value.to_numpy()
    except pickle.UnpicklingError as error:
        raise DataError(f"{expected}, got {error}", path) from None
    if array.ndim != 2 or array.shape[1] not in widths:
        raise DataError(f"{expected}, got shape {array.shape}", path)
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise DataError(f"{expected}, got values that are not finite", path)
    return array


def frame_counts(counts: dict[Any, Any]) -> dict[str, int]:
    """Return the numbers of frames by video, without entries that are not numbers."""
    return {video: int(count) for video, count in counts.items() if isinstance(count, (int, float))}


def _name_list(value: Any, what: str, path: Path) -> list[str]:
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{what}: expected a list of names, got a {type(value).__name__}", path)
    for name in value:
        if not isinstance(name, str) or not is_video_name(name) or "," in name:
            raise DataError(
                f"{what}: expected names without commas and quotes, got {quoted(str(name))}", path
            )
    return list(value)


def _frame_numbers(values: np.ndarray, where: str, path: Path) -> np.ndarray:
    """Return int64 frame numbers; raise DataError unless they are integers from 0 on, in ascending order."""
    valid = (values >= 0) & (values <= _MAX_FRAME) & (values == np.floor(values))
    if not valid.all() or (np.diff(values) <= 0).any():
        raise DataError(f"{where}: expected frame numbers in ascending order", path)
    return values.astype(np.int64)


def _frames_and_boxes(value: Any, where: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = float_table(value, (5, 6), where, path)
    return _frame_numbers(rows[:, 0], where, path), rows[:, 1:5]


def _tube_score(value: Any, where: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise DataError(f"{where}: the score must be a finite number, got {quoted(str(value))}", path)
    return float(value)


def _type_of(value: Any) -> str:
    return "an array" if isinstance(value, PickledArray) else f"a {type(value).__name__}"
