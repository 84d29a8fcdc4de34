"""Linking of boxes in keyframes into tubes, class by class, so that box detectors can be scored by video-mAP.

Frames are processed in order. In each frame, the tubes with the highest mean score choose first. A tube takes
the best-scored free box with sufficient IoU with its last box. The remaining boxes start new tubes. Two
published methods differ in the details:

- `act`: the method of the ACT detector (Kalogeiton et al., ICCV 2017; ACT.py, BuildTubes, with tubelets of
  one frame). IoU 0.5, no gaps. Soft NMS lowers the score of boxes that overlap a better one with an IoU above
  0.6. Tubes of fewer than 15 frames are dropped, as are tubes that overlap a better one of their class with
  an IoU above 0.3. The tube score is the mean of the box scores.
- `road`: the method of ROAD (Singh et al., ICCV 2017; as in 3D-RetinaNet's tube_helper.py). IoU 0.1, gaps of
  up to 5 keyframes. Tubes are trimmed to the parts where the action happens, by the Viterbi algorithm over
  the two labels action and background with a transition cost of 3; scores are normalized by the largest
  running median of 5 frames. Parts of fewer than 8 frames are dropped. The tube score is the mean of the
  better half of the box scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.tube_csv import Tubes
from vmae_det.utils.errors import DataError, quoted

_MAX_BOXES = 10  # per keyframe and class, in both methods
_MIN_TUBE_SCORE = 0.005  # in ACT
_TRANSITION_COST = 3.0  # in ROAD


@dataclass(frozen=True)
class LinkingMethod:
    """Parameters of a linking method.

    Args:
        iou: minimum IoU of a box with the last box of its tube.
        max_gap: maximum number of consecutive keyframes that a tube may miss.
        min_frames: minimum number of frames from the first to the last frame of a tube.
        box_nms: IoU threshold of soft NMS on boxes; None disables it.
        tube_nms: tube IoU threshold of NMS on tubes; None disables it.
        trims: whether to trim tubes to the parts where the action happens.
    """

    iou: float
    max_gap: int
    min_frames: int
    box_nms: float | None = None
    tube_nms: float | None = None
    trims: bool = False


LINKING_METHODS = {
    "act": LinkingMethod(iou=0.5, max_gap=0, min_frames=15, box_nms=0.6, tube_nms=0.3),
    "road": LinkingMethod(iou=0.1, max_gap=5, min_frames=8, trims=True),
}


@dataclass
class _OpenTube:
    """A tube that is being built. It may miss keyframes."""

    frames: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def add(self, frame: int, box: np.ndarray, score: float) -> None:
        self.frames.append(frame)
        self.boxes.append(box)
        self.scores.append(score)


@dataclass(frozen=True)
class _DenseTube:
    """A tube with a box in every frame: frames (N,), boxes (N, 4), scores (N,), and the score of the tube."""

    frames: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    score: float


def link_boxes(
    detections: ActionBoxes,
    frame: np.ndarray,
    label_map: LabelMap,
    method: LinkingMethod = LINKING_METHODS["act"],
) -> Tubes:
    """Link boxes into tubes. Between keyframes, boxes are interpolated linearly.

    Args:
        frame: (R,) frame number of each row.
        label_map: names of the actions; rows with other actions are ignored.
    """
    columns = label_map.columns(detections.action)
    kept = np.flatnonzero((columns >= 0) & ~np.isnan(detections.boxes[:, 0]))
    kept = kept[np.lexsort((frame[kept], columns[kept], detections.video[kept]))]
    video, column, frame = detections.video[kept], columns[kept], frame[kept]
    boxes, score = detections.boxes[kept], detections.score[kept]
    starts = np.flatnonzero((np.diff(video, prepend=-1) != 0) | (np.diff(column, prepend=-1) != 0))
    steps = {int(v): _keyframe_step(frame[video == v]) for v in np.unique(video)}
    videos, labels, tubes = [], [], []
    for start, end in zip(starts, [*starts[1:], len(kept)]):
        rows = slice(start, end)
        linked = _link(frame[rows], boxes[rows], score[rows], method, steps[int(video[start])])
        videos += [detections.videos[video[start]]] * len(linked)
        labels += [label_map.names[column[start]]] * len(linked)
        tubes += linked
    return _to_tubes(videos, labels, tubes)


def link_persons(
    annotations: ActionBoxes,
    frame: np.ndarray,
    label_map: LabelMap,
    min_frames: int = 1,
    source: str | None = None,
) -> Tubes:
    """Link annotated boxes into ground-truth tubes, one for each person and action, by the person ids.

    A tube ends if the person does not do the action in the next annotated keyframe of the video. Between
    keyframes, boxes are interpolated linearly.

    Args:
        frame: (R,) frame number of each row.
        label_map: names of the actions; rows with other actions are ignored.
        min_frames: minimum number of frames from the first to the last frame of a tube.
        source: file of the annotations, for messages.

    Raises:
        DataError: a row has no person id, or a person has two boxes for one action in a keyframe.
    """
    columns = label_map.columns(annotations.action)
    _, keyframe = np.unique((annotations.video.astype(np.int64) << 40) + frame, return_inverse=True)
    rows = np.flatnonzero((columns >= 0) & ~np.isnan(annotations.boxes[:, 0]))
    key = np.stack([annotations.video, columns, annotations.person, keyframe])  # (4, R)
    rows = rows[np.lexsort(key[::-1, rows])]
    if (annotations.person[rows] < 0).any():
        where = _describe(annotations, rows[annotations.person[rows].argmin()])
        raise DataError(f"{where}: expected a person id in column 8, got none", source)
    change = np.diff(key[:, rows], axis=1)
    is_same, step = (change[:3] == 0).all(axis=0), change[3]
    if (is_same & (step == 0)).any():
        row = rows[int((is_same & (step == 0)).argmax())]
        where = _describe(annotations, row)
        raise DataError(f"{where}: expected one box of person {annotations.person[row]}, got two", source)
    parts = np.split(rows, np.flatnonzero(~is_same | (step > 1)) + 1)
    parts = [part for part in parts if len(part) and frame[part[-1]] - frame[part[0]] + 1 >= min_frames]
    return _to_tubes(
        [annotations.videos[annotations.video[part[0]]] for part in parts],
        [label_map.names[columns[part[0]]] for part in parts],
        [_dense(frame[part], annotations.boxes[part], annotations.score[part]) for part in parts],
    )


def _describe(annotations: ActionBoxes, row: int) -> str:
    name = quoted(str(annotations.videos[annotations.video[row]]))
    return f"keyframe {name}, {annotations.timestamp[row]:g}, action {annotations.action[row]}"


def _to_tubes(videos: list[str], labels: list[str], tubes: list[_DenseTube]) -> Tubes:
    lengths = [len(tube.frames) for tube in tubes]
    return Tubes(
        np.array(videos, dtype=object),
        np.array(labels, dtype=object),
        np.array([tube.score for tube in tubes], dtype=np.float64),
        np.repeat(np.arange(len(tubes)), lengths),
        np.concatenate([np.zeros(0, np.int64), *(tube.frames for tube in tubes)]),
        np.concatenate([np.zeros((0, 4)), *(tube.boxes for tube in tubes)]),
    )


def _keyframe_step(frames: np.ndarray) -> int:
    """Return the most frequent distance between consecutive keyframes of a video, in frames."""
    distances = np.diff(np.unique(frames))
    return int(np.bincount(distances).argmax()) if len(distances) else 1


def _link(
    frame: np.ndarray, boxes: np.ndarray, score: np.ndarray, method: LinkingMethod, step: int
) -> list[_DenseTube]:
    """Link the boxes of one video and class, sorted by frame."""
    live: list[_OpenTube] = []
    done: list[_OpenTube] = []
    starts = np.flatnonzero(np.diff(frame, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(frame)]):
        now = int(frame[start])
        best_boxes, best_scores = _best_boxes(boxes[start:end], score[start:end], method.box_nms)
        is_live = [now - tube.frames[-1] <= (method.max_gap + 1) * step for tube in live]
        done += [tube for tube, keep in zip(live, is_live) if not keep]
        live = [tube for tube, keep in zip(live, is_live) if keep]
        live.sort(key=lambda tube: -np.mean(tube.scores))
        free = np.ones(len(best_boxes), dtype=bool)
        for tube in live:
            candidates = np.flatnonzero(free & (_iou(best_boxes, tube.boxes[-1]) >= method.iou))
            if len(candidates):
                best = candidates[0]  # sorted by descending score
                tube.add(now, best_boxes[best], best_scores[best])
                free[best] = False
        for i in np.flatnonzero(free):
            tube = _OpenTube()
            tube.add(now, best_boxes[i], best_scores[i])
            live.append(tube)
    tubes = [part for tube in done + live for part in _finish(tube, method)]
    tubes.sort(key=lambda tube: -tube.score)
    return tubes if method.tube_nms is None else _tube_nms(tubes, method.tube_nms)


def _best_boxes(boxes: np.ndarray, score: np.ndarray, box_nms: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Apply soft NMS if enabled, and return the best-scored boxes by descending score."""
    order = np.argsort(-score, kind="stable")
    boxes, score = boxes[order], score[order].copy()
    if box_nms is not None:
        rest = np.arange(len(score))
        while len(rest):
            overlap = _iou(boxes[rest[1:]], boxes[rest[0]])
            is_near = overlap > box_nms
            score[rest[1:][is_near]] *= 1 - overlap[is_near]
            rest = rest[1:][~is_near]
        order = np.argsort(-score, kind="stable")
        boxes, score = boxes[order], score[order]
    return boxes[:_MAX_BOXES], score[:_MAX_BOXES]


def _finish(tube: _OpenTube, method: LinkingMethod) -> list[_DenseTube]:
    """Interpolate a tube; return it if it passes the thresholds, or the parts where the action happens."""
    dense = _dense(tube.frames, tube.boxes, tube.scores)
    frames, boxes, scores = dense.frames, dense.boxes, dense.scores
    if not method.trims:
        is_kept = dense.score >= _MIN_TUBE_SCORE and len(frames) >= method.min_frames
        return [dense] if is_kept else []
    is_action = _is_action(scores)
    edges = np.flatnonzero(np.diff(is_action.astype(int), prepend=0, append=0))
    parts = []
    for start, end in zip(edges[::2], edges[1::2]):
        if end - start >= method.min_frames:
            best = np.sort(scores[start:end])[::-1][: max(1, (end - start) // 2)]
            rows = slice(start, end)
            parts.append(_DenseTube(frames[rows], boxes[rows], scores[rows], float(best.mean())))
    return parts


def _dense(
    frames: Sequence[int] | np.ndarray, boxes: Sequence[np.ndarray] | np.ndarray, scores: Sequence[float]
) -> _DenseTube:
    """Interpolate boxes and scores between keyframes. The score of the tube is the mean over keyframes."""
    every = np.arange(frames[0], frames[-1] + 1)
    sides = [np.interp(every, frames, side) for side in np.asarray(boxes).T]
    return _DenseTube(
        every, np.stack(sides, axis=1), np.interp(every, frames, scores), float(np.mean(scores))
    )


def _is_action(scores: np.ndarray) -> np.ndarray:
    """Return a mask (N,) of the frames labeled as action, by the Viterbi algorithm."""
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(scores, 2), 5), axis=1)
    top = smooth.max()
    relative = scores / top if top > 0 else scores
    gain = np.stack([1 - relative, relative])  # (2, N): background, action
    total, origin = gain[:, 0], np.zeros(gain.shape, dtype=int)
    for i in range(1, len(scores)):
        switched = total[::-1] - _TRANSITION_COST
        origin[:, i] = np.where(switched > total, [1, 0], [0, 1])
        total = np.maximum(total, switched) + gain[:, i]
    labels = np.empty(len(scores), dtype=int)
    label = int(total.argmax())
    for i in range(len(scores) - 1, -1, -1):
        labels[i] = label
        label = origin[label, i]
    return labels == 1


def _tube_nms(tubes: list[_DenseTube], threshold: float) -> list[_DenseTube]:
    """Drop tubes, sorted by descending score, whose IoU with a better one exceeds the threshold."""
    kept: list[_DenseTube] = []
    for tube in tubes:
        if all(_tube_iou(tube, better) <= threshold for better in kept):
            kept.append(tube)
    return kept


def _tube_iou(a: _DenseTube, b: _DenseTube) -> float:
    _, of_a, of_b = np.intersect1d(a.frames, b.frames, assume_unique=True, return_indices=True)
    if not len(of_a):
        return 0.0
    union = len(a.frames) + len(b.frames) - len(of_a)
    return float(_iou(a.boxes[of_a], b.boxes[of_b]).mean() * len(of_a) / union)


def _iou(boxes: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the IoU (N,) of boxes (N, 4) with one box (4,) or with (N, 4) boxes; 0 if both are empty."""
    sides = np.minimum(boxes[:, 2:], other[..., 2:]) - np.maximum(boxes[:, :2], other[..., :2])
    intersection = np.maximum(sides, 0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (other[..., 2:] - other[..., :2]).prod(axis=-1)
    return np.divide(intersection, areas - intersection, out=np.zeros(len(boxes)), where=areas > intersection)
