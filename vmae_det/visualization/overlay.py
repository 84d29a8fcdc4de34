"""Detected actions on a video frame: a box around each person, beside it a plate with the top actions.

Sizes follow the frame's shorter side, so that a picture of 240 lines and one of 1080 are equally legible.
Plates are rendered once and blended from a cache: drawing must keep up with a video.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Three colours of Okabe and Ito (2008) that differ in lightness too: all kinds of sight tell them apart.
KIND_COLOURS = {
    "PERSON_MOVEMENT": (86, 180, 233),  # sky blue
    "OBJECT_MANIPULATION": (240, 228, 66),  # yellow
    "PERSON_INTERACTION": (213, 94, 0),  # vermilion
}
OTHER_COLOUR = (200, 200, 200)

HEAD_FRACTION = 0.25  # of a box's height, from its top: where the head is, which no plate should cover
MAX_COVER = 0.25  # of the frame's area that all plates together may take before they show fewer actions

_PLATE_COLOUR = (18, 20, 24)
_PLATE_OPACITY = 0.76
_BAR_OPACITY = 0.42  # of the score bar behind a name, on the plate


class ActionLabel(NamedTuple):
    """One action of one person: name, score in [0, 1], kind (as in `KIND_COLOURS`; others are grey)."""

    name: str
    score: float
    kind: str | None = None


@dataclass(frozen=True)
class PersonOverlay:
    """What is drawn for one person: the box (xyxy, pixels of the frame), the actions, the track's number."""

    box: Sequence[float]
    actions: Sequence[ActionLabel] = ()
    person_id: int | None = None


def draw_people(
    frame: np.ndarray,
    people: Sequence[PersonOverlay],
    *,
    top_k: int = 3,
    threshold: float = 0.3,
    memory: dict[int, tuple[float, float]] | None = None,
) -> np.ndarray:
    """A copy of `frame` with a box and a plate of actions for each person.

    Args:
        frame: uint8 RGB (H, W, 3).
        people: boxes may reach beyond the frame; those wholly outside or empty are skipped.
        top_k: at most so many actions a person; fewer where the frame is crowded.
        threshold: actions that score less are left out; a person without any keeps a grey box.
        memory: where each `person_id`'s plate was, relative to its box. Begin a video with an empty dict and
            pass it with every frame: plates then stay where they are while they can instead of jumping about.

    Returns:
        uint8 RGB (H, W, 3).
    """
    picture = np.ascontiguousarray(frame).copy()
    height, width = picture.shape[:2]
    style = _Style.of_frame(height, width)
    shown = [(person, box) for person in people if (box := _clip_box(person.box, height, width)) is not None]
    actions = [_top_actions(person, top_k, threshold) for person, _ in shown]

    # Boxes first, so that no line crosses a plate.
    for (_, box), top in zip(shown, actions):
        _draw_box(picture, box, _colour(top[0].kind) if top else OTHER_COLOUR, style)

    labelled = [i for i, (person, _) in enumerate(shown) if actions[i] or person.person_id is not None]
    boxes = np.array([box for _, box in shown], dtype=np.float64).reshape(-1, 4)
    habits = [memory.get(person.person_id) if memory else None for person, _ in shown]
    for count in range(max(top_k, 1), 0, -1):
        plates = {i: _render_plate(tuple(actions[i][:count]), shown[i][0].person_id, style) for i in labelled}
        sizes = [plates[i].colour.shape[:2] if i in plates else None for i in range(len(shown))]
        rectangles, clear = place_labels((height, width), boxes, sizes, style.gap, habits)
        cover = sum(h * w for h, w in filter(None, sizes)) / (height * width)
        if clear and cover <= MAX_COVER:
            break

    for i in labelled:
        colour = _colour(actions[i][0].kind) if actions[i] else OTHER_COLOUR
        _draw_leader(picture, rectangles[i], boxes[i], colour, style)
    for i in labelled:
        _blend(picture, plates[i], rectangles[i])
        if memory is not None and shown[i][0].person_id is not None:
            memory[shown[i][0].person_id] = tuple(np.subtract(rectangles[i][:2], boxes[i][:2]))
    return picture


def place_labels(
    frame_size: tuple[int, int],
    boxes: np.ndarray,
    sizes: Sequence[tuple[int, int] | None],
    gap: int = 2,
    habits: Sequence[tuple[float, float] | None] | None = None,
) -> tuple[list[tuple[int, int, int, int] | None], bool]:
    """Where each person's plate goes: near the box, off all heads and other plates where there is room.

    Args:
        frame_size: height and width.
        boxes: (N, 4) xyxy pixels, inside the frame.
        sizes: height and width of each person's plate; None for a person without one.
        gap: pixels between a box and a plate beside it, and between a plate and the frame's border.
        habits: where each plate used to be, from its box's upper left corner to its own (x, y), or None; it
            stays there unless another place is clearly better.

    Returns:
        For each plate a rectangle (x1, y1, x2, y2), integers inside the frame, and whether none of them
        covers a head or another plate. (A plate larger than the frame begins at its left or upper border.)
    """
    heads = head_regions(boxes)
    placed: list[tuple[int, int, int, int] | None] = [None] * len(sizes)
    taken = np.zeros((0, 4))
    all_clear = True
    habits = habits if habits is not None else [None] * len(sizes)
    # Small boxes first: a large one has a longer border, hence more places beside it.
    for i in np.argsort((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), kind="stable"):
        if sizes[i] is None:
            continue
        corners = _positions_beside(boxes[i], sizes[i], gap)
        # Without a habit the first preference stands in its place.
        corners = np.vstack([corners[0] if habits[i] is None else boxes[i, :2] + habits[i], corners])
        rectangles = _into_frame(corners, sizes[i], frame_size, gap)
        rectangle, clear = _best(rectangles, i, boxes, heads, taken, min(frame_size))
        if not clear:
            grid = _into_frame(_positions_anywhere(frame_size, sizes[i]), sizes[i], frame_size, gap)
            rectangles = np.vstack([rectangles, grid])
            rectangle, clear = _best(rectangles, i, boxes, heads, taken, min(frame_size))
        placed[i] = tuple(int(v) for v in rectangle)
        taken = np.vstack([taken, rectangle])
        all_clear &= clear
    return placed, all_clear


def head_regions(boxes: np.ndarray) -> np.ndarray:
    """The upper quarter of each box, (N, 4) xyxy."""
    heads = boxes.copy()
    heads[:, 3] = boxes[:, 1] + HEAD_FRACTION * (boxes[:, 3] - boxes[:, 1])
    return heads


def _positions_beside(box: np.ndarray, size: tuple[int, int], gap: int) -> np.ndarray:
    """Upper left corners of plates around and inside a box, the most readable first, (K, 2)."""
    x1, y1, x2, y2 = box
    h, w = size
    under_head = y1 + HEAD_FRACTION * (y2 - y1) + gap
    left, right, centre = x1, x2 - w, (x1 + x2 - w) / 2
    above, below, bottom = y1 - gap - h, y2 + gap, y2 - 2 * gap - h
    return np.array(
        [
            *((x, above) for x in (left, right, centre)),
            *((x, below) for x in (left, right, centre)),
            *((x, y) for x in (x2 + gap, x1 - gap - w) for y in (y1, under_head, bottom)),
            *((x, y) for y in (bottom, under_head) for x in (left + 2 * gap, right - 2 * gap)),
        ]
    )


def _positions_anywhere(frame_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """A grid of upper left corners over the whole frame, half a plate's height apart, (K, 2)."""
    step = max(size[0] // 2, 4)
    xs, ys = np.meshgrid(np.arange(0, frame_size[1], step), np.arange(0, frame_size[0], step))
    return np.stack([xs.ravel(), ys.ravel()], axis=1)


def _into_frame(
    corners: np.ndarray, size: tuple[int, int], frame_size: tuple[int, int], margin: int
) -> np.ndarray:
    """Rectangles (K, 4) with upper left corners near (K, 2): in the frame and in whole pixels."""
    room = np.maximum(np.subtract(frame_size, size), 0)[::-1]  # x, y
    margin = np.minimum(margin, room // 2)
    corners = np.clip(np.rint(corners), margin, room - margin)
    return np.hstack([corners, corners + size[::-1]])


def _best(
    rectangles: np.ndarray,
    person: int,
    boxes: np.ndarray,
    heads: np.ndarray,
    taken: np.ndarray,
    short_side: int,
) -> tuple[np.ndarray, bool]:
    """The best of rectangles (K, 4) for a person's plate, and whether it is off heads and other plates."""
    area = (rectangles[0, 2:] - rectangles[0, :2]).prod()
    on_heads = _overlap(rectangles, heads).sum(axis=1) / area
    on_plates = _overlap(rectangles, taken).sum(axis=1) / area
    on_bodies = _overlap(rectangles, boxes) / area
    on_self = on_bodies[:, person]
    on_others = on_bodies.sum(axis=1) - on_self
    box = boxes[person]
    away = np.maximum(box[:2] - rectangles[:, 2:], rectangles[:, :2] - box[2:]).clip(min=0)
    distance = np.hypot(away[:, 0], away[:, 1]) / short_side

    # Hiding a plate or a head is worse than anything else. Then it should be seen whose plate it is: near
    # the box, not on another's. Then come the own body and the order of positions, the first being habit.
    order = np.minimum(np.arange(len(rectangles)), 20)
    cost = 100 * on_plates + 50 * on_heads + 6 * distance + 2 * on_others + 0.5 * on_self
    best = int(np.argmin(cost + 0.02 * order + 0.2 * (order > 0)))
    return rectangles[best], bool(on_heads[best] == 0 and on_plates[best] == 0)


def _overlap(rectangles: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Areas shared by each of (K, 4) with each of (M, 4), (K, M)."""
    upper_left = np.maximum(rectangles[:, None, :2], others[None, :, :2])
    lower_right = np.minimum(rectangles[:, None, 2:], others[None, :, 2:])
    return (lower_right - upper_left).clip(min=0).prod(axis=2)


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels, fitted to a frame."""

    font_size: int
    row_height: int
    padding: int
    edge: int  # width of the coloured edge of a plate
    line: int  # width of a box's line
    gap: int  # between a box and its plate
    name_width: int  # a longer name is shortened

    @classmethod
    def of_frame(cls, height: int, width: int) -> _Style:
        short = min(height, width)
        # Grows slower than the frame: at 240 lines letters need a larger share of it to be read at all.
        font_size = max(9, round(6 + short / 54))
        return cls(
            font_size=font_size,
            row_height=round(1.4 * font_size),
            padding=max(2, round(0.35 * font_size)),
            edge=max(2, round(0.22 * font_size)),
            line=max(1, round(short / 320)),
            gap=max(2, round(short / 200)),
            name_width=round(min(max(0.2 * width, 9 * font_size), 0.4 * width)),
        )


class _Plate(NamedTuple):
    """A plate ready to be blended: frame * keep / 255 + colour, both uint8 (h, w, 3)."""

    colour: np.ndarray
    keep: np.ndarray


@lru_cache(maxsize=32)
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """The scalable typeface that Pillow brings (Aileron), `size` pixels to the em."""
    return ImageFont.load_default(size)


@lru_cache(maxsize=1024)
def shorten_name(name: str, width: float, font_size: int) -> str:
    """The name, or it without its parentheses, or with an ellipsis: the first to fit `width` pixels.

    AVA's names carry examples, "talk to (e.g., self, a person, a group)": small frames have no room for them.
    """
    font = load_font(font_size)
    if font.getlength(name) <= width:
        return name
    brief = " ".join(re.sub(r"\([^)]*\)", " ", name).split()) or name
    if font.getlength(brief) <= width:
        return brief
    while brief and font.getlength(brief + "…") > width:
        brief = brief[:-1].rstrip()
    return brief + "…"


@lru_cache(maxsize=128)
def _render_plate(actions: tuple[ActionLabel, ...], person_id: int | None, style: _Style) -> _Plate:
    """A row for each action: coloured edge, name, score at the right, and the score again as a bar behind."""
    font = load_font(style.font_size)
    rows = [
        (shorten_name(a.name, style.name_width, style.font_size), f"{a.score:.2f}", _colour(a.kind), a.score)
        for a in actions
    ]
    tag = "" if person_id is None else str(person_id)
    tag_width = round(font.getlength(tag)) + 2 * style.padding if tag else 0
    body_width = 0
    if rows:
        names, scores = (max(font.getlength(row[k]) for row in rows) for k in (0, 1))
        body_width = round(style.edge + names + scores + 4 * style.padding)
    size = (tag_width + body_width, style.row_height * max(len(rows), 1))

    colour = Image.new("RGB", size, _PLATE_COLOUR)
    opaque = Image.new("L", size, round(255 * _PLATE_OPACITY))
    paint, cover = ImageDraw.Draw(colour), ImageDraw.Draw(opaque)
    ascent = font.getbbox("0", anchor="ls")[1]  # of digits, negative: rows are centred on them
    if tag:
        baseline = (size[1] - ascent) // 2
        for draw, fill in ((paint, (255, 255, 255)), (cover, 255)):
            draw.text((style.padding, baseline), tag, fill=fill, font=font, anchor="ls")
    for i, (name, score_text, kind_colour, score) in enumerate(rows):
        top, bottom = i * style.row_height, (i + 1) * style.row_height - 1
        left, right = tag_width + style.edge, size[0] - 1
        baseline = top + (style.row_height - ascent) // 2
        bar = left + round(min(max(score, 0.0), 1.0) * (right - left))
        paint.rectangle((left, top, bar, bottom), fill=_mix(_PLATE_COLOUR, kind_colour, _BAR_OPACITY))
        for draw, edge, fill in (
            (paint, kind_colour, _mix(_PLATE_COLOUR, (255, 255, 255), _strength(score))),
            (cover, 255, 255),
        ):
            draw.rectangle((tag_width, top, left - 1, bottom), fill=edge)
            draw.text((left + style.padding, baseline), name, fill=fill, font=font, anchor="ls")
            draw.text((right - style.padding, baseline), score_text, fill=fill, font=font, anchor="rs")

    alpha = np.asarray(opaque, dtype=np.float32)[..., None] / 255
    premultiplied = np.rint(np.asarray(colour) * alpha).astype(np.uint8)
    keep = np.repeat(np.rint(255 * (1 - alpha)).astype(np.uint8), 3, axis=2)
    return _Plate(premultiplied, keep)


def _strength(score: float) -> float:
    """How white a text is: an unlikely action fades, but stays legible."""
    return 0.6 + 0.4 * min(max(score, 0.0) / 0.6, 1.0)


def _mix(base: tuple[int, int, int], top: tuple[int, int, int], opacity: float) -> tuple[int, int, int]:
    return tuple(round(b + (t - b) * opacity) for b, t in zip(base, top))


def _colour(kind: str | None) -> tuple[int, int, int]:
    return KIND_COLOURS.get(kind, OTHER_COLOUR)


def _top_actions(person: PersonOverlay, top_k: int, threshold: float) -> list[ActionLabel]:
    """The actions to show, by falling score; scores rounded as printed, so that equal plates are cached."""
    kept = sorted((a for a in person.actions if a.score >= threshold), key=lambda a: -a.score)
    return [a._replace(score=round(float(a.score), 2)) for a in kept[:top_k]]


def _clip_box(box: Sequence[float], height: int, width: int) -> tuple[int, int, int, int] | None:
    """The box in whole pixels inside the frame, or None where nothing of it is there."""
    x1, y1, x2, y2 = (float(v) for v in box)
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width - 1), min(y2, height - 1)
    if not (x1 < x2 and y1 < y2):  # so written that NaN is left out as well
        return None
    return round(x1), round(y1), round(x2), round(y2)


def _draw_box(picture: np.ndarray, box: Sequence[int], colour: tuple[int, int, int], style: _Style) -> None:
    """A coloured line inside the box, the picture darkened on both its sides, to show on bright ground."""
    x1, y1, x2, y2 = box
    casing = max(1, style.line // 3)
    for inset, width in ((-casing, casing), (style.line, casing)):
        for side in _border(picture, x1 + inset, y1 + inset, x2 - inset, y2 - inset, width):
            side //= 2
    for side in _border(picture, x1, y1, x2, y2, style.line):
        side[:] = colour


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
    style: _Style,
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
    cv2.line(picture, start, end, _PLATE_COLOUR, style.line + 2, cv2.LINE_AA)
    cv2.line(picture, start, end, colour, style.line, cv2.LINE_AA)


def _blend(picture: np.ndarray, plate: _Plate, rectangle: Sequence[int]) -> None:
    """Lay a plate over the picture; what reaches beyond the frame is cut off."""
    x, y = rectangle[:2]
    region = picture[y : y + plate.colour.shape[0], x : x + plate.colour.shape[1]]
    h, w = region.shape[:2]
    region[:] = cv2.add(cv2.multiply(region, plate.keep[:h, :w], scale=1 / 255), plate.colour[:h, :w])
