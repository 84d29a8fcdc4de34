"""Boxes in keyframes linked into tubes, class by class, so that a detector of boxes has a video-mAP.

Frame by frame, the tubes with the highest mean score choose first. Each takes the best-scored free box that
overlaps its last box enough; boxes that nobody takes start tubes. Two published ways differ in the rest:

- `act`: that of the ACT detector (Kalogeiton et al., ICCV 2017; ACT.py, BuildTubes, with tubelets of one
  frame). IoU 0.5, no gaps. Boxes that overlap a better one by more than 0.6 lose score. Tubes of less than 15
  frames are dropped, and so are those that overlap a better one of their class by more than 0.3. The score is
  the mean.
- `road`: that of ROAD (Singh et al., ICCV 2017; in the form of 3D-RetinaNet's tube_helper.py). IoU 0.1, gaps
  of up to 5 keyframes. The part of a tube where the action happens is found by the Viterbi algorithm over the
  two labels action and background, where a change costs 3; scores are relative to the greatest median of 5.
  Parts of less than 8 frames are dropped. The score is the mean of the better half.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.tube_csv import Tubes

_BEST_BOXES = 10  # of a keyframe and class, in both
_LEAST_SCORE = 0.005  # of a tube, in ACT
_CHANGE_COST = 3.0


@dataclass(frozen=True)
class LinkingMethod:
    """One way of linking.

    Args:
        iou: that a box must have with the last box of a tube.
        max_gap: keyframes that a tube may miss.
        min_frames: of a tube, from its first frame to its last.
        box_nms: IoU from which on a box loses score to a better one; None for no such loss.
        tube_nms: overlap with a better tube above which a tube is dropped; None keeps all.
        trims: whether the part where the action happens is cut out.
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
class _Tube:
    frames: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def add(self, frame: int, box: np.ndarray, score: float) -> None:
        self.frames.append(frame)
        self.boxes.append(box)
        self.scores.append(score)


@dataclass(frozen=True)
class _Filled:
    """A tube with a box in every frame: frames (N,), boxes (N, 4), scores (N,), and one score of all."""

    frames: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    score: float


def link_boxes(
    detections: ActionBoxes,
    frame: np.ndarray,
    label_map: LabelMap,
    rules: LinkingMethod = LINKING_METHODS["act"],
) -> Tubes:
    """Tubes of boxes; between the keyframes that it has, a tube's box moves evenly.

    Args:
        frame: (R,) number of each row's frame.
        label_map: names of the actions; rows of others do not count.
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
        found = _link(frame[rows], boxes[rows], score[rows], rules, steps[int(video[start])])
        videos += [detections.videos[video[start]]] * len(found)
        labels += [label_map.names[column[start]]] * len(found)
        tubes += found
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
    """Frames from one keyframe of a video to the next, the most frequent number."""
    distances = np.diff(np.unique(frames))
    return int(np.bincount(distances).argmax()) if len(distances) else 1


def _link(
    frame: np.ndarray, boxes: np.ndarray, score: np.ndarray, rules: LinkingMethod, step: int
) -> list[_Filled]:
    """Tubes of one video and class, from rows by frame."""
    live: list[_Tube] = []
    done: list[_Tube] = []
    starts = np.flatnonzero(np.diff(frame, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(frame)]):
        now = int(frame[start])
        near, strength = _strongest(boxes[start:end], score[start:end], rules.box_nms)
        reach = [now - tube.frames[-1] <= (rules.max_gap + 1) * step for tube in live]
        done += [tube for tube, is_near in zip(live, reach) if not is_near]
        live = [tube for tube, is_near in zip(live, reach) if is_near]
        live.sort(key=lambda tube: -np.mean(tube.scores))
        free = np.ones(len(near), dtype=bool)
        for tube in live:
            fits = np.flatnonzero(free & (_iou(near, tube.boxes[-1]) >= rules.iou))
            if len(fits):
                best = fits[0]  # they come by falling score
                tube.add(now, near[best], strength[best])
                free[best] = False
        for i in np.flatnonzero(free):
            tube = _Tube()
            tube.add(now, near[i], strength[i])
            live.append(tube)
    filled = [part for tube in done + live for part in _finished(tube, rules)]
    filled.sort(key=lambda tube: -tube.score)
    return filled if rules.tube_nms is None else _without_overlapped(filled, rules.tube_nms)


def _strongest(boxes: np.ndarray, score: np.ndarray, box_nms: float | None) -> tuple[np.ndarray, np.ndarray]:
    """The best-scored boxes, by falling score, after those near a better one have lost score."""
    order = np.argsort(-score, kind="stable")
    boxes, score = boxes[order], score[order].copy()
    if box_nms is not None:
        rest = np.arange(len(score))
        while len(rest):
            overlap = _iou(boxes[rest[1:]], boxes[rest[0]])
            near = overlap > box_nms
            score[rest[1:][near]] *= 1 - overlap[near]
            rest = rest[1:][~near]
        order = np.argsort(-score, kind="stable")
        boxes, score = boxes[order], score[order]
    return boxes[:_BEST_BOXES], score[:_BEST_BOXES]


def _finished(tube: _Tube, rules: LinkingMethod) -> list[_Filled]:
    """What is kept of a tube: all of it or nothing, or the parts where the action happens."""
    every = np.arange(tube.frames[0], tube.frames[-1] + 1)
    boxes = np.stack([np.interp(every, tube.frames, side) for side in np.array(tube.boxes).T], axis=1)
    scores = np.interp(every, tube.frames, tube.scores)
    if not rules.trims:
        whole = _Filled(every, boxes, scores, float(np.mean(tube.scores)))
        is_kept = whole.score >= _LEAST_SCORE and len(every) >= rules.min_frames
        return [whole] if is_kept else []
    happens = _is_action(scores)
    edges = np.flatnonzero(np.diff(happens.astype(int), prepend=0, append=0))
    parts = []
    for start, end in zip(edges[::2], edges[1::2]):
        if end - start >= rules.min_frames:
            best = np.sort(scores[start:end])[::-1][: max(1, (end - start) // 2)]
            rows = slice(start, end)
            parts.append(_Filled(every[rows], boxes[rows], scores[rows], float(best.mean())))
    return parts


def _is_action(scores: np.ndarray) -> np.ndarray:
    """(N,) bool: the most likely labels, by the Viterbi algorithm."""
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(scores, 2), 5), axis=1)
    top = smooth.max()
    relative = scores / top if top > 0 else scores
    gain = np.stack([1 - relative, relative])  # of background, of the action
    total, origin = gain[:, 0], np.zeros(gain.shape, dtype=int)
    for i in range(1, len(scores)):
        changed = total[::-1] - _CHANGE_COST
        origin[:, i] = np.where(changed > total, [1, 0], [0, 1])
        total = np.maximum(total, changed) + gain[:, i]
    labels = np.empty(len(scores), dtype=int)
    label = int(total.argmax())
    for i in range(len(scores) - 1, -1, -1):
        labels[i] = label
        label = origin[label, i]
    return labels == 1


def _without_overlapped(tubes: list[_Filled], overlap: float) -> list[_Filled]:
    """By falling score, the tubes that no better one overlaps by more."""
    kept: list[_Filled] = []
    for tube in tubes:
        if all(_tube_iou(tube, better) <= overlap for better in kept):
            kept.append(tube)
    return kept


def _tube_iou(a: _Filled, b: _Filled) -> float:
    _, of_a, of_b = np.intersect1d(a.frames, b.frames, assume_unique=True, return_indices=True)
    if not len(of_a):
        return 0.0
    union = len(a.frames) + len(b.frames) - len(of_a)
    return float(_iou(a.boxes[of_a], b.boxes[of_b]).mean() * len(of_a) / union)


def _iou(boxes: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N,) overlap of boxes (N, 4) with one box (4,) or one each (N, 4); 0 where both are empty."""
    sides = np.minimum(boxes[:, 2:], other[..., 2:]) - np.maximum(boxes[:, :2], other[..., :2])
    shared = np.maximum(sides, 0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (other[..., 2:] - other[..., :2]).prod(axis=-1)
    return np.divide(shared, areas - shared, out=np.zeros(len(boxes)), where=areas > shared)
