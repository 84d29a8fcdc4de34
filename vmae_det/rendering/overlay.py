"""Detected actions on a video frame: a box around each person, beside it a plate with the top actions.

Sizes follow the frame's shorter side, so that a picture of 240 lines and one of 1080 are equally legible.
Plates are rendered once and laid over many frames: drawing must keep up with a video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from vmae_det.rendering.label_placement import Place, place_labels
from vmae_det.rendering.plates import (
    OTHER_COLOUR,
    PLATE_COLOUR,
    ActionLabel,
    Style,
    colour_of,
    lay_over,
    plate_size,
    render_plate,
    strength,
)

MAX_COVER = 0.25  # of the frame's area that all plates together may take before they show fewer actions
HOLD = 25  # frames for which a plate that had to shrink stays so

_FAINTEST = 0.5  # opacity of the box of a person whose best action is hardly likely
_MAX_HABITS = 256  # above which those who are not in the frame are forgotten


@dataclass(frozen=True)
class PersonOverlay:
    """What is drawn for one person: the box (xyxy, pixels of the frame), the actions, the track's number."""

    box: Sequence[float]
    actions: Sequence[ActionLabel] = ()
    person_id: int | None = None


class Habit(NamedTuple):
    """How a person's plate was drawn last.

    Its corner relative to the box's, how many rows it was allowed, and for how many frames so.
    """

    x: float
    y: float
    rows: int
    frames: int = 0


def draw_people(
    frame: np.ndarray,
    people: Sequence[PersonOverlay],
    *,
    top_k: int = 3,
    threshold: float = 0.3,
    memory: dict[int, Habit] | None = None,
    typeface: str | None = None,
) -> np.ndarray:
    """The frame with a box and a plate of actions for each person.

    No plate covers a head or another plate. Where room is short, plates show fewer actions, then only the
    person's number; where there is none at all, the box has to speak for itself.

    Args:
        frame: uint8 RGB (H, W, 3).
        people: boxes may reach beyond the frame; those wholly outside or empty are skipped.
        top_k: at most so many actions a person.
        threshold: actions that score less are left out; a person without any keeps a grey box.
        memory: how each `person_id`'s plate was drawn. Begin a video with an empty dict and pass it with
            every frame: plates then stay where they are, and as large, while they can.
        typeface: as of `fonts.load_font`.

    Returns:
        uint8 RGB (H, W, 3); `frame` itself where there is nothing to draw.

    Raises:
        UserError: there is no such typeface.
    """
    height, width = frame.shape[:2]
    shown = [(person, box) for person in people if (box := _clip_box(person.box, height, width)) is not None]
    if not shown:
        return frame
    picture = np.array(frame, order="C")
    style = Style.of_frame(height, width, typeface)
    actions = [_top_actions(person, top_k, threshold) for person, _ in shown]
    boxes = np.array([box for _, box in shown], dtype=np.float64)

    # Boxes first, so that no line crosses a plate.
    for (_, box), top in zip(shown, actions):
        opacity = _FAINTEST + (1 - _FAINTEST) * (strength(top[0].score) if top else 1)
        _draw_box(picture, box, _box_colour(top), opacity, style)
    ids = [person.person_id for person, _ in shown]
    rows, places = _arrange((height, width), boxes, actions, ids, top_k, style, memory)
    for box, top, place in zip(boxes, actions, places):
        if place is not None:
            _draw_leader(picture, place.rectangle, box, _box_colour(top), style)
    for top, person_id, count, place in zip(actions, ids, rows, places):
        if place is not None:
            lay_over(picture, render_plate(top[:count], person_id, style), *place.rectangle[:2])
    return picture


def _arrange(
    frame_size: tuple[int, int],
    boxes: np.ndarray,
    actions: Sequence[tuple[ActionLabel, ...]],
    ids: Sequence[int | None],
    top_k: int,
    style: Style,
    memory: dict[int, Habit] | None,
) -> tuple[list[int], list[Place | None]]:
    """How many actions each person's plate shows, and where it goes; what was done is noted in `memory`."""
    habits = [memory.get(i) if memory and i is not None else None for i in ids]
    corners = [None if habit is None else (habit.x, habit.y) for habit in habits]
    allowed = [habit.rows if habit is not None and habit.frames < HOLD else max(top_k, 1) for habit in habits]
    for most in range(max(top_k, 1), 0, -1):
        counts = [_row_counts(len(a), min(most, limit), i) for a, limit, i in zip(actions, allowed, ids)]
        sizes = [
            [plate_size(a[:count], i, style) for count in choices]
            for a, i, choices in zip(actions, ids, counts)
        ]
        cover = sum(choices[0][0] * choices[0][1] for choices in sizes if choices)
        if most > 1 and cover > MAX_COVER * frame_size[0] * frame_size[1]:
            continue
        places = place_labels(frame_size, boxes, sizes, style.gap, corners)
        rows = [0 if place is None else choices[place.choice] for choices, place in zip(counts, places)]
        if all(rows[i] or not actions[i] for i in range(len(rows))):
            break
    if memory is not None:
        limits = [
            max(count, 1) if count < min(len(a), top_k) else limit
            for count, a, limit in zip(rows, actions, allowed)
        ]
        _note(memory, ids, boxes, places, habits, limits)
    return rows, places


def _row_counts(actions: int, most: int, person_id: int | None) -> list[int]:
    """The numbers of actions that a plate may show, largest first; 0 is a plate with the person's number."""
    return [*range(min(actions, most), 0, -1), *([] if person_id is None else [0])]


def _note(
    memory: dict[int, Habit],
    ids: Sequence[int | None],
    boxes: np.ndarray,
    places: Sequence[Place | None],
    habits: Sequence[Habit | None],
    limits: Sequence[int],
) -> None:
    """Remember how the plates were drawn."""
    if len(memory) > _MAX_HABITS:
        for gone in memory.keys() - set(ids):
            del memory[gone]
    for person_id, box, place, habit, limit in zip(ids, boxes, places, habits, limits):
        if person_id is not None and place is not None:
            frames = habit.frames + 1 if habit is not None and habit.rows == limit else 0
            x, y = np.subtract(place.rectangle[:2], box[:2]).tolist()
            memory[person_id] = Habit(x, y, limit, frames)


def _top_actions(person: PersonOverlay, top_k: int, threshold: float) -> tuple[ActionLabel, ...]:
    """The actions to show, by falling score; scores rounded as printed, so that equal plates are cached."""
    certain = [a for a in person.actions if a.score is None]
    kept = sorted(
        (a for a in person.actions if a.score is not None and a.score >= threshold), key=lambda a: -a.score
    )
    return tuple(certain + [a._replace(score=round(float(a.score), 2)) for a in kept])[:top_k]


def _box_colour(actions: Sequence[ActionLabel]) -> tuple[int, int, int]:
    return colour_of(actions[0].kind) if actions else OTHER_COLOUR


def _clip_box(box: Sequence[float], height: int, width: int) -> tuple[int, int, int, int] | None:
    """The box in whole pixels inside the frame, or None where nothing of it is there."""
    x1, y1, x2, y2 = (float(v) for v in box)
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width - 1), min(y2, height - 1)
    if not (x1 < x2 and y1 < y2):  # so written that NaN is left out as well
        return None
    return round(x1), round(y1), round(x2), round(y2)


def _draw_box(
    picture: np.ndarray, box: Sequence[int], colour: tuple[int, int, int], opacity: float, style: Style
) -> None:
    """A coloured line inside the box, the picture darkened on both its sides, to show on bright ground."""
    x1, y1, x2, y2 = box
    casing = max(1, style.line // 3)
    for inset, width in ((-casing, casing), (style.line, casing)):
        for side in _border(picture, x1 + inset, y1 + inset, x2 - inset, y2 - inset, width):
            side //= 2
    for side in _border(picture, x1, y1, x2, y2, style.line):
        side[:] = colour if opacity == 1 else side * (1 - opacity) + np.multiply(colour, opacity)


def _border(picture: np.ndarray, x1: int, y1: int, x2: int, y2: int, width: int) -> list[np.ndarray]:
    """The four sides of a ring just inside (x1, y1, x2, y2), as views of the picture that share no pixel."""

    def view(left: int, top: int, right: int, bottom: int) -> np.ndarray:
        return picture[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]

    return [
        view(x1, y1, x2 + 1, y1 + width),
        view(x1, y2 + 1 - width, x2 + 1, y2 + 1),
        view(x1, y1 + width, x1 + width, y2 + 1 - width),
        view(x2 + 1 - width, y1 + width, x2 + 1, y2 + 1 - width),
    ]


def _draw_leader(
    picture: np.ndarray,
    plate: Sequence[int],
    box: Sequence[float],
    colour: tuple[int, int, int],
    style: Style,
) -> None:
    """A line from a plate to its box, where the plate had to be put away from it."""
    ends = []
    for low, high, box_low, box_high in ((plate[0], plate[2], *box[0::2]), (plate[1], plate[3], *box[1::2])):
        shared = (max(low, box_low) + min(high, box_high)) / 2
        ends.append(
            (high, box_low) if high < box_low else (low, box_high) if low > box_high else (shared, shared)
        )
    start, end = (tuple(round(axis[k]) for axis in ends) for k in (0, 1))
    if max(abs(start[0] - end[0]), abs(start[1] - end[1])) <= style.gap + 1:
        return
    cv2.line(picture, start, end, PLATE_COLOUR, style.line + 2, cv2.LINE_AA)
    cv2.line(picture, start, end, colour, style.line, cv2.LINE_AA)
