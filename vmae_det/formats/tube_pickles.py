"""Ground truth and detections of tubes in the pickles of ACT's and MultiSports' tools, as `Tubes`.

- Ground truth: see `vmae_det.formats.tube_annotations`.
- Tubes of MultiSports: {label from 0: [(video, score, array (frames, 5 or 6))]}, with rows of frame, x1, y1,
  x2, y2.
- Boxes in frames, of both: array (N, 8) of the video's number in the list of test videos, frame, label,
  score, x1, y1, x2, y2.
- Tubes of ACT: a folder with VIDEO_tubes.pkl, {label: [(array (frames, 6), score)]}.

Numbers of frames and pixels stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.formats.tube_annotations import TubeFile, frame_numbers, read_tube_pickle, table
from vmae_det.formats.tube_csv import Tubes
from vmae_det.utils.errors import DataError, quoted
from vmae_det.utils.safe_pickle import PickledArray, safe_load_pickle

Entry = tuple[str, str, float, np.ndarray, np.ndarray]  # video, label, score, frames (N,), boxes (N, 4)


def read_true_tubes(path: Path, split: int = 1) -> Tubes:
    """The ground truth of a split's test videos, its score 1.

    Raises:
        DataError: names the file and the entry, what was got and what was expected.
    """
    official = read_tube_pickle(path, in_pixels=True)
    return _tubes(
        (video, official.labels[tube.label], 1.0, tube.frames + 1, tube.boxes)
        for video in _test_videos(official, split, path)
        for tube in official.tubes[video]
    )


def read_detected_tubes(path: Path, ground_truth: Path, split: int = 1) -> Tubes:
    """Detections in any of the three forms; boxes in frames become tubes of one frame.

    Raises:
        DataError: as `read_true_tubes`.
    """
    official = read_tube_pickle(ground_truth, in_pixels=True)
    videos = _test_videos(official, split, ground_truth)
    if path.is_dir():
        return _tubes(_of_act(path, official.labels, videos))
    content = safe_load_pickle(path, "detections")
    if isinstance(content, PickledArray):
        return _tubes(_in_frames(content, official.labels, videos, path))
    return _tubes(_of_multisports(content, official.labels, videos, path))


def _test_videos(official: TubeFile, split: int, path: Path) -> list[str]:
    if split > len(official.splits):
        raise DataError(f"has no split {split}, but {len(official.splits)}", path)
    return official.splits[split - 1][1]


def _of_act(folder: Path, labels: list[str], videos: list[str]) -> Iterable[Entry]:
    for video in videos:
        path = folder / f"{video}_tubes.pkl"
        for where, label, found in _by_label(safe_load_pickle(path, "tubes"), labels, path):
            if not isinstance(found, (list, tuple)) or len(found) != 2:
                raise DataError(f"{where}: expected an array and a score, got {_kind(found)}", path)
            frames, boxes = _rows(found[0], where, path)
            yield video, label, _score(found[1], where, path), frames, boxes


def _of_multisports(content: Any, labels: list[str], videos: list[str], path: Path) -> Iterable[Entry]:
    known = set(videos)
    for where, label, found in _by_label(content, labels, path):
        if not isinstance(found, (list, tuple)) or len(found) != 3:
            raise DataError(f"{where}: expected a video, a score and an array, got {_kind(found)}", path)
        if found[0] not in known:
            raise DataError(f"{where}: {quoted(str(found[0]))} is not a test video of the split", path)
        frames, boxes = _rows(found[2], where, path)
        yield found[0], label, _score(found[1], where, path), frames, boxes


def _by_label(content: Any, labels: list[str], path: Path) -> Iterable[tuple[str, str, Any]]:
    if not isinstance(content, dict):
        raise DataError(f"expected a dict of tubes by label or an array (N, 8), got {_kind(content)}", path)
    for label, tubes in content.items():
        if not isinstance(label, int) or not 0 <= label < len(labels):
            raise DataError(f"expected labels from 0 to {len(labels) - 1}, got {quoted(str(label))}", path)
        if not isinstance(tubes, (list, tuple)):
            raise DataError(f"[{label}]: expected a list of tubes, got {_kind(tubes)}", path)
        for i, found in enumerate(tubes):
            yield f"[{label}][{i}]", labels[label], found


def _in_frames(array: PickledArray, labels: list[str], videos: list[str], path: Path) -> Iterable[Entry]:
    rows = table(array, 8, "detections", path)
    for column, limit, what in ((0, len(videos), "videos"), (2, len(labels), "labels")):
        numbers = rows[:, column]
        if not ((numbers >= 0) & (numbers < limit) & (numbers % 1 == 0)).all():
            raise DataError(f"column {column}: expected numbers of {what} from 0 to {limit - 1}", path)
    for i, (video, frame, label, score, *box) in enumerate(rows.tolist()):
        frames = frame_numbers(np.array([frame]), f"row {i}", path)
        yield videos[int(video)], labels[int(label)], score, frames, np.array([box])


def _rows(value: Any, where: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = table(value, (5, 6), where, path)
    return frame_numbers(rows[:, 0], where, path), rows[:, 1:5]


def _score(value: Any, where: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise DataError(f"{where}: the score must be a finite number, got {quoted(str(value))}", path)
    return float(value)


def _kind(value: Any) -> str:
    return "an array" if isinstance(value, PickledArray) else f"a {type(value).__name__}"


def _tubes(entries: Iterable[Entry]) -> Tubes:
    """Tubes by video, in the order of the entries."""
    every = sorted(entries, key=lambda entry: entry[0])
    videos, labels, scores, frames, boxes = zip(*every) if every else ((), (), (), (), ())
    return Tubes(
        np.array(videos, dtype=object),
        np.array(labels, dtype=object),
        np.array(scores, dtype=np.float64),
        np.repeat(np.arange(len(every)), [len(rows) for rows in frames]),
        np.concatenate([np.zeros(0, np.int64), *frames]),
        np.concatenate([np.zeros((0, 4)), *boxes]),
    )
