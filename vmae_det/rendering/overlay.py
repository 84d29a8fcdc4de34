"""Draws detected actions on a frame: a box around each person and a label with the top actions.

Sizes follow the shorter side of the frame, so that frames of 240 and of 1080 lines are equally legible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from vmae_det.rendering.label_drawing import ActionLabel, blend_label, label_size, render_label
from vmae_det.rendering.label_placement import LabelPosition, place_labels
from vmae_det.rendering.style import BACKGROUND, OTHER_COLOR, DrawStyle, color_of_kind, score_emphasis

MAX_COVERAGE = 0.25  # share of the frame that labels may cover before they show fewer actions
HOLD_FRAMES = 25  # frames for which a label that was shortened stays short

_MIN_BOX_OPACITY = 0.5  # of the box of a person whose best action has a low score
_MAX_MEMORY = 256  # number of remembered labels above which those of absent persons are dropped


@dataclass(frozen=True)
class PersonOverlay:
    """What to draw for one person.

    Attributes:
        box: xyxy in pixels of the frame.
        actions: actions to choose from.
        person_id: track number.
    """

    box: Sequence[float]
    actions: Sequence[ActionLabel] = ()
    person_id: int | None = None


class LabelState(NamedTuple):
    """How a person's label was last drawn.

    Attributes:
        x: left edge of the label, relative to that of the box.
        y: top edge of the label, relative to that of the box.
        max_rows: number of rows that the label was allowed.
        frames: number of frames with this limit.
    """

    x: float
    y: float
    max_rows: int
    frames: int = 0


def draw_people(
    frame: np.ndarray,
    people: Sequence[PersonOverlay],
    *,
    top_k: int = 3,
    threshold: float = 0.3,
    memory: dict[int, LabelState] | None = None,
    typeface: str | None = None,
) -> np.ndarray:
    """Draw a box and a label with the top actions for each person.

    No label covers a head or another label. If there is little space, labels show fewer actions, then only
    the track number. Without any free space, only the box is drawn.

    Args:
        frame: uint8 RGB (H, W, 3).
        people: boxes may extend beyond the frame. Empty boxes and boxes outside of the frame are skipped.
        top_k: maximum number of actions per person.
        threshold: lowest score of an action. A person without actions has a gray box.
        memory: state of the labels by `person_id`, updated in place. Pass an empty dict with the first frame
            of a video and the same dict with all others: labels then keep their position and size if
            possible.
        typeface: as in `fonts.load_font`.

    Returns:
        uint8 RGB (H, W, 3); `frame` itself if there is nothing to draw.

    Raises:
        UserError: the typeface does not exist.
    """
    height, width = frame.shape[:2]
    shown = [(person, box) for person in people if (box := _clip_box(person.box, height, width)) is not None]
    if not shown:
        return frame
    picture = np.array(frame, order="C")
    style = DrawStyle.for_frame(height, width, typeface)
    actions = [_top_actions(person, top_k, threshold) for person, _ in shown]
    boxes = np.array([box for _, box in shown], dtype=np.float64)

    # Boxes first, so that no line crosses a label.
    for (_, box), top in zip(shown, actions):
        emphasis = score_emphasis(top[0].score) if top else 1
        _draw_box(picture, box, _box_color(top), _MIN_BOX_OPACITY + (1 - _MIN_BOX_OPACITY) * emphasis, style)
    ids = [person.person_id for person, _ in shown]
    rows, positions = _arrange_labels((height, width), boxes, actions, ids, top_k, style, memory)
    for box, top, position in zip(boxes, actions, positions):
        if position is not None:
            _draw_leader_line(picture, position.rectangle, box, _box_color(top), style)
    for top, person_id, count, position in zip(actions, ids, rows, positions):
        if position is not None:
            blend_label(picture, render_label(top[:count], person_id, style), *position.rectangle[:2])
    return picture


def draw_classes(
    frame: np.ndarray,
    classes: Sequence[ActionLabel],
    *,
    top_k: int = 3,
    threshold: float = 0.3,
    typeface: str | None = None,
) -> np.ndarray:
    """Draw the top classes of the whole frame in its upper left corner, each with its score as a bar.

    Args:
        frame: uint8 RGB (H, W, 3).
        classes: classes to choose from.
        top_k: maximum number of classes, reduced if they would be higher than the frame.
        threshold: lowest score of a class.
        typeface: as in `fonts.load_font`.

    Returns:
        uint8 RGB (H, W, 3); `frame` itself if there is nothing to draw.

    Raises:
        UserError: the typeface does not exist.
    """
    height, width = frame.shape[:2]
    style = DrawStyle.for_frame(height, width, typeface)
    top = _top_actions(
        PersonOverlay((), classes), min(top_k, (height - style.gap) // style.row_height), threshold
    )
    if not top or label_size(top, None, style)[1] > width - style.gap:
        return frame
    picture = np.array(frame, order="C")
    blend_label(picture, render_label(top, None, style), style.gap, style.gap)
    return picture


def _arrange_labels(
    frame_size: tuple[int, int],
    boxes: np.ndarray,
    actions: Sequence[tuple[ActionLabel, ...]],
    ids: Sequence[int | None],
    top_k: int,
    style: DrawStyle,
    memory: dict[int, LabelState] | None,
) -> tuple[list[int], list[LabelPosition | None]]:
    """Return the number of actions and the position of each person's label, and update `memory`."""
    states = [memory.get(i) if memory and i is not None else None for i in ids]
    offsets = [None if state is None else (state.x, state.y) for state in states]
    limits = [
        state.max_rows if state is not None and state.frames < HOLD_FRAMES else max(top_k, 1)
        for state in states
    ]
    for max_rows in range(max(top_k, 1), 0, -1):
        counts = [_row_counts(len(a), min(max_rows, limit), i) for a, limit, i in zip(actions, limits, ids)]
        sizes = [
            [label_size(a[:count], i, style) for count in choices]
            for a, i, choices in zip(actions, ids, counts)
        ]
        covered = sum(choices[0][0] * choices[0][1] for choices in sizes if choices)
        if max_rows > 1 and covered > MAX_COVERAGE * frame_size[0] * frame_size[1]:
            continue
        positions = place_labels(frame_size, boxes, sizes, style.gap, offsets)
        rows = [
            0 if position is None else choices[position.choice]
            for choices, position in zip(counts, positions)
        ]
        if all(rows[i] or not actions[i] for i in range(len(rows))):
            break
    if memory is not None:
        new_limits = [
            max(count, 1) if count < min(len(a), top_k) else limit
            for count, a, limit in zip(rows, actions, limits)
        ]
        _update_memory(memory, ids, boxes, positions, states, new_limits)
    return rows, positions


def _row_counts(actions: int, max_rows: int, person_id: int | None) -> list[int]:
    """Return the possible numbers of actions on a label, largest first; 0 only shows the track number."""
    return [*range(min(actions, max_rows), 0, -1), *([] if person_id is None else [0])]


def _update_memory(
    memory: dict[int, LabelState],
    ids: Sequence[int | None],
    boxes: np.ndarray,
    positions: Sequence[LabelPosition | None],
    states: Sequence[LabelState | None],
    limits: Sequence[int],
) -> None:
    if len(memory) > _MAX_MEMORY:
        for absent in memory.keys() - set(ids):
            del memory[absent]
    for person_id, box, position, state, limit in zip(ids, boxes, positions, states, limits):
        if person_id is not None and position is not None:
            frames = state.frames + 1 if state is not None and state.max_rows == limit else 0
            x, y = np.subtract(position.rectangle[:2], box[:2]).tolist()
            memory[person_id] = LabelState(x, y, limit, frames)


def _top_actions(person: PersonOverlay, top_k: int, threshold: float) -> tuple[ActionLabel, ...]:
    """Return the actions to show: those without score, then by descending score.

    Scores are rounded as printed, so that labels with the same text are cached.
    """
    without_score = [a for a in person.actions if a.score is None]
    scored = sorted(
        (a for a in person.actions if a.score is not None and a.score >= threshold), key=lambda a: -a.score
    )
    return tuple(without_score + [a._replace(score=round(float(a.score), 2)) for a in scored])[:top_k]


def _box_color(actions: Sequence[ActionLabel]) -> tuple[int, int, int]:
    return color_of_kind(actions[0].kind) if actions else OTHER_COLOR


def _clip_box(box: Sequence[float], height: int, width: int) -> tuple[int, int, int, int] | None:
    """Clip a box to the frame and round it to pixels; None if nothing of it is inside."""
    x1, y1, x2, y2 = (float(v) for v in box)
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width - 1), min(y2, height - 1)
    if not (x1 < x2 and y1 < y2):  # also true for NaN
        return None
    return round(x1), round(y1), round(x2), round(y2)


def _draw_box(
    picture: np.ndarray, box: Sequence[int], color: tuple[int, int, int], opacity: float, style: DrawStyle
) -> None:
    """Draw a colored rectangle, with darkened pixels on both sides of its lines for contrast."""
    x1, y1, x2, y2 = box
    casing = max(1, style.line_width // 3)
    for inset, width in ((-casing, casing), (style.line_width, casing)):
        for side in _border(picture, x1 + inset, y1 + inset, x2 - inset, y2 - inset, width):
            side //= 2
    for side in _border(picture, x1, y1, x2, y2, style.line_width):
        side[:] = color if opacity == 1 else side * (1 - opacity) + np.multiply(color, opacity)


def _border(picture: np.ndarray, x1: int, y1: int, x2: int, y2: int, width: int) -> list[np.ndarray]:
    """Return the four sides of a frame just inside (x1, y1, x2, y2), as disjoint views of the picture."""

    def view(left: int, top: int, right: int, bottom: int) -> np.ndarray:
        return picture[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]

    return [
        view(x1, y1, x2 + 1, y1 + width),
        view(x1, y2 + 1 - width, x2 + 1, y2 + 1),
        view(x1, y1 + width, x1 + width, y2 + 1 - width),
        view(x2 + 1 - width, y1 + width, x2 + 1, y2 + 1 - width),
    ]


def _draw_leader_line(
    picture: np.ndarray,
    label: Sequence[int],
    box: Sequence[float],
    color: tuple[int, int, int],
    style: DrawStyle,
) -> None:
    """Draw a line from a label to its box if they are apart."""
    ends = []
    for low, high, box_low, box_high in ((label[0], label[2], *box[0::2]), (label[1], label[3], *box[1::2])):
        shared = (max(low, box_low) + min(high, box_high)) / 2
        ends.append(
            (high, box_low) if high < box_low else (low, box_high) if low > box_high else (shared, shared)
        )
    start, end = (tuple(round(axis[k]) for axis in ends) for k in (0, 1))
    if max(abs(start[0] - end[0]), abs(start[1] - end[1])) <= style.gap + 1:
        return
    cv2.line(picture, start, end, BACKGROUND, style.line_width + 2, cv2.LINE_AA)
    cv2.line(picture, start, end, color, style.line_width, cv2.LINE_AA)
