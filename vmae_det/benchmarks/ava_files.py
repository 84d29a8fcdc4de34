"""Files of the size of AVA v2.2's validation set, with made-up boxes: the input of the metric's benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vmae_det.formats.ava_csv import ActionBoxes, write_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.output_files import write_text

# Of AVA v2.2's validation set, and of 86,901 person boxes with a score for each of the 80 actions.
KEYFRAMES = 50_029
GROUND_TRUTH_ROWS = 93_393
DETECTION_ROWS = 6_952_080
_ACTIONS = 80
_EVALUATED = 60
_KEYFRAMES_PER_VIDEO = 897
_FIRST_KEYFRAME = 902
_BOXES_PER_KEYFRAME = 2


@dataclass(frozen=True)
class AvaFiles:
    """Where the files lie, and how many rows they have."""

    ground_truth: Path
    detections: Path
    label_map: Path
    num_keyframes: int
    num_ground_truth: int
    num_detections: int


def make_ava_files(folder: Path, detection_rows: int = DETECTION_ROWS, seed: int = 0) -> AvaFiles:
    """Write ground truth, detections and label map; all counts are in proportion to `detection_rows`.

    Half of the detections lie near a ground-truth box. An action is the rarer the higher its id, and scores
    are higher where the action is there, so that every part of the metric has work to do.
    """
    rng = np.random.default_rng(seed)
    persons = max(1, detection_rows // _ACTIONS)
    keyframes = max(1, round(KEYFRAMES * persons * _ACTIONS / DETECTION_ROWS))
    labels = max(1, round(GROUND_TRUTH_ROWS * persons * _ACTIONS / DETECTION_ROWS))
    videos = np.array([f"video{i:06d}" for i in range(-(-keyframes // _KEYFRAMES_PER_VIDEO))], dtype=object)
    ids = np.arange(1, _ACTIONS + 1)

    boxes = _boxes(rng, keyframes * _BOXES_PER_KEYFRAME)
    frequency = 1 / ids
    of_label = np.concatenate([np.arange(keyframes), rng.integers(0, keyframes, max(0, labels - keyframes))])
    of_label = np.sort(of_label[:labels]) * _BOXES_PER_KEYFRAME + rng.integers(0, _BOXES_PER_KEYFRAME, labels)
    action = rng.choice(ids, labels, p=frequency / frequency.sum()).astype(np.int32)
    truth = ActionBoxes(
        videos,
        *_keyframe(of_label // _BOXES_PER_KEYFRAME),
        boxes[of_label],
        action,
        np.ones(labels),
        (of_label % _BOXES_PER_KEYFRAME).astype(np.int32),
    )
    write_action_csv(folder / "ground_truth.csv", truth, kind="ground_truth")

    seen = np.sort(rng.integers(0, len(boxes), persons))
    near = np.clip(boxes[seen] + rng.normal(0, 0.02, (persons, 4)), 0, 1)
    near = np.where(rng.random((persons, 1)) < 0.5, near, _boxes(rng, persons))
    chance = rng.random((persons, _ACTIONS))
    present = np.zeros((len(boxes), _ACTIONS), dtype=bool)
    present[of_label, action - 1] = True
    scores = np.where(present[seen], chance**0.25, chance**8)
    label_map = LabelMap(tuple(ids.tolist()), tuple(f"action {i}" for i in ids), ("",) * _ACTIONS)
    detections = ActionBoxes.from_scores(
        videos, *_keyframe(seen // _BOXES_PER_KEYFRAME), near.round(3), scores.round(6), label_map
    )
    write_action_csv(folder / "detections.csv", detections)
    entries = (f'item {{\n  name: "action {i}"\n  id: {i}\n}}\n' for i in ids[:_EVALUATED])
    write_text(folder / "label_map.pbtxt", "".join(entries))
    paths = (folder / name for name in ("ground_truth.csv", "detections.csv", "label_map.pbtxt"))
    return AvaFiles(*paths, keyframes, labels, len(detections))


def _keyframe(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Video index and seconds of keyframes by their number."""
    video, second = np.divmod(number, _KEYFRAMES_PER_VIDEO)
    return video.astype(np.int32), (second + _FIRST_KEYFRAME).astype(np.float64)


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) boxes, x1, y1, x2, y2 in [0, 1] with three decimals, as in AVA."""
    corner = rng.uniform(0, 0.5, (count, 2))
    return np.hstack([corner, corner + rng.uniform(0.2, 0.5, (count, 2))]).round(3)
