"""Synthetic annotation files of AVA's size, for the benchmarks of the metric and of the loader's memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vmae_det.formats.ava_csv import ActionBoxes, write_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.output_files import write_text

# AVA v2.2's validation set, and 86,901 person boxes with a score for each of the 80 actions.
KEYFRAMES = 50_029
GROUND_TRUTH_ROWS = 93_393
DETECTION_ROWS = 6_952_080
# AVA v2.2's training set, rounded.
TRAIN_KEYFRAMES = 210_000
TRAIN_ROWS = 1_200_000
_ACTIONS = 80
_EVALUATED_ACTIONS = 60
_KEYFRAMES_PER_VIDEO = 897
_FIRST_KEYFRAME = 902
_BOXES_PER_KEYFRAME = 2


@dataclass(frozen=True)
class AvaFiles:
    """Paths of synthetic ground truth, detections and label map, and their numbers of rows."""

    ground_truth: Path
    detections: Path
    label_map: Path
    num_keyframes: int
    num_ground_truth: int
    num_detections: int


def write_ava_files(folder: Path, detection_rows: int = DETECTION_ROWS, seed: int = 0) -> AvaFiles:
    """Write ground truth, detections and label map; all counts are proportional to `detection_rows`.

    Half of the detections are near a ground-truth box. The frequency of actions falls with their id, and
    scores are higher where the action is present, so that every part of the metric has work to do.
    """
    rng = np.random.default_rng(seed)
    persons = max(1, detection_rows // _ACTIONS)
    keyframes = max(1, round(KEYFRAMES * persons * _ACTIONS / DETECTION_ROWS))
    labels = max(1, round(GROUND_TRUTH_ROWS * persons * _ACTIONS / DETECTION_ROWS))
    videos = _video_ids(keyframes)
    ids = np.arange(1, _ACTIONS + 1)

    boxes = _random_boxes(rng, keyframes * _BOXES_PER_KEYFRAME)
    frequency = 1 / ids
    label_box = np.concatenate([np.arange(keyframes), rng.integers(0, keyframes, max(0, labels - keyframes))])
    label_box = np.sort(label_box[:labels]) * _BOXES_PER_KEYFRAME + rng.integers(
        0, _BOXES_PER_KEYFRAME, labels
    )
    action = rng.choice(ids, labels, p=frequency / frequency.sum()).astype(np.int32)
    truth = ActionBoxes(
        videos,
        *_video_and_timestamp(label_box // _BOXES_PER_KEYFRAME),
        boxes[label_box],
        action,
        np.ones(labels),
        (label_box % _BOXES_PER_KEYFRAME).astype(np.int32),
    )
    write_action_csv(folder / "ground_truth.csv", truth, kind="ground_truth")

    detected = np.sort(rng.integers(0, len(boxes), persons))
    near = np.clip(boxes[detected] + rng.normal(0, 0.02, (persons, 4)), 0, 1)
    near = np.where(rng.random((persons, 1)) < 0.5, near, _random_boxes(rng, persons))
    random = rng.random((persons, _ACTIONS))
    present = np.zeros((len(boxes), _ACTIONS), dtype=bool)
    present[label_box, action - 1] = True
    scores = np.where(present[detected], random**0.25, random**8)
    label_map = LabelMap(tuple(ids.tolist()), tuple(f"action {i}" for i in ids), ("",) * _ACTIONS)
    detections = ActionBoxes.from_scores(
        videos,
        *_video_and_timestamp(detected // _BOXES_PER_KEYFRAME),
        near.round(3),
        scores.round(6),
        label_map,
    )
    write_action_csv(folder / "detections.csv", detections)
    entries = (f'item {{\n  name: "action {i}"\n  id: {i}\n}}\n' for i in ids[:_EVALUATED_ACTIONS])
    write_text(folder / "label_map.pbtxt", "".join(entries))
    paths = (folder / name for name in ("ground_truth.csv", "detections.csv", "label_map.pbtxt"))
    return AvaFiles(*paths, keyframes, labels, len(detections))


def write_training_set(folder: Path, rows: int) -> None:
    """Write `annotations.csv`, `actions.pbtxt` and empty files in `videos/`, in proportion to AVA's size."""
    rng = np.random.default_rng(0)
    keyframes = max(TRAIN_KEYFRAMES * rows // TRAIN_ROWS, 1)
    keyframe = np.sort(np.concatenate([np.arange(keyframes), rng.integers(0, keyframes, rows - keyframes)]))
    videos = _video_ids(keyframes)
    corner = rng.uniform(0, 0.5, (rows, 2))
    boxes = ActionBoxes(
        videos,
        *_video_and_timestamp(keyframe),
        np.hstack([corner, corner + 0.3]).round(3),
        rng.integers(1, _ACTIONS + 1, rows).astype(np.int32),
        np.ones(rows),
        rng.integers(0, 10, rows).astype(np.int32),
    )
    write_action_csv(folder / "annotations.csv", boxes, kind="ground_truth")
    items = (f'item {{ name: "action {n}" id: {n} }}\n' for n in range(1, _ACTIONS + 1))
    write_text(folder / "actions.pbtxt", "".join(items))
    (folder / "videos").mkdir()
    for name in videos:
        (folder / "videos" / f"{name}.mp4").touch()


def _video_ids(keyframes: int) -> np.ndarray:
    return np.array([f"video{n:06d}" for n in range(-(-keyframes // _KEYFRAMES_PER_VIDEO))], dtype=object)


def _video_and_timestamp(keyframe: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return video index and timestamp in seconds of keyframes, given by their number."""
    video, second = np.divmod(keyframe, _KEYFRAMES_PER_VIDEO)
    return video.astype(np.int32), (second + _FIRST_KEYFRAME).astype(np.float64)


def _random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return boxes (count, 4), xyxy in [0, 1] with three decimals, as in AVA."""
    corner = rng.uniform(0, 0.5, (count, 2))
    return np.hstack([corner, corner + rng.uniform(0.2, 0.5, (count, 2))]).round(3)
