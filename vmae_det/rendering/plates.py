"""Plates: a person's number and top actions, rendered once and laid over many frames.

Whatever the picture under a plate, its text keeps a contrast of at least 4.5 to 1 (WCAG 2.1, level AA).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from vmae_det.rendering.fonts import Text, fit_text, load_font

# Three colours of Okabe and Ito (2008) that differ in lightness too: all kinds of sight tell them apart.
KIND_COLOURS = {
    "PERSON_MOVEMENT": (86, 180, 233),  # sky blue
    "OBJECT_MANIPULATION": (240, 228, 66),  # yellow
    "PERSON_INTERACTION": (213, 94, 0),  # vermilion
}
OTHER_COLOUR = (200, 200, 200)
PLATE_COLOUR = (18, 20, 24)
WHITE = (255, 255, 255)

_OPACITY = 0.84  # of a plate; over white, the faintest text still has its contrast
_GROUND_OPACITY = 0.25  # of a score's bar from the score on, in the kind's colour
_INK = [round(255 * (level / 255) ** 0.7) for level in range(256)]  # else strokes below a pixel are pale
_TAG_TEXT = (0, 0, 0)


class ActionLabel(NamedTuple):
    """One action of one person: name, score in [0, 1], kind (as in `KIND_COLOURS`; others are grey).

    Annotations have no score: None.
    """

    name: str
    score: float | None
    kind: str | None = None


class Plate(NamedTuple):
    """A plate ready to be laid over a picture: picture * keep / 255 + colour, both uint8 (h, w, 3)."""

    colour: np.ndarray
    keep: np.ndarray


@dataclass(frozen=True)
class Style:
    """Sizes in pixels, fitted to a frame's shorter side, and the typeface."""

    font_size: int
    bar: int  # height of a score's bar, under its name
    row_height: int
    padding: int
    edge: int  # width of the coloured edge of a row
    line: int  # width of a box's line
    gap: int  # between a box and its plate
    name_width: int  # a longer name is shortened
    typeface: str | None = None  # as of `fonts.load_font`

    @classmethod
    def of_frame(cls, height: int, width: int, typeface: str | None = None) -> Style:
        """For a frame of this size."""
        short = min(height, width)
        # Grows slower than the frame: at 240 lines letters need a larger share of it to be read at all.
        font_size = max(10, round(6 + short / 54))
        bar = max(2, round(0.14 * font_size))
        return cls(
            font_size=font_size,
            bar=bar,
            row_height=round(1.25 * font_size) + bar,
            padding=max(2, round(0.35 * font_size)),
            edge=max(2, round(0.22 * font_size)),
            line=max(1, round(short / 320)),
            gap=max(2, round(short / 200)),
            name_width=round(min(max(0.2 * width, 9 * font_size), 0.4 * width)),
            typeface=typeface,
        )


def colour_of(kind: str | None) -> tuple[int, int, int]:
    """RGB of a kind of action."""
    return KIND_COLOURS.get(kind, OTHER_COLOUR)


def strength(score: float | None) -> float:
    """From 0 to 1, how strongly an action is drawn: unlikely ones fade."""
    return 1.0 if score is None else min(max((score - 0.2) / 0.5, 0.0), 1.0)


def mix(base: tuple[int, int, int], top: tuple[int, int, int], opacity: float) -> tuple[int, int, int]:
    """The colour of `top` laid over `base`."""
    return tuple(round(b + (t - b) * opacity) for b, t in zip(base, top))


def text_colour(score: float | None) -> tuple[int, int, int]:
    """Of an action's name on a plate: white, and greyer the less likely."""
    return mix(PLATE_COLOUR, WHITE, 0.7 + 0.3 * strength(score))


def bar_colours(kind: str | None, score: float) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Of a score's bar on a plate: as far as the score reaches, and from there on."""
    full = colour_of(kind)
    return mix(PLATE_COLOUR, full, 0.5 + 0.5 * strength(score)), mix(PLATE_COLOUR, full, _GROUND_OPACITY)


class _Row(NamedTuple):
    action: ActionLabel
    name: Text
    score: Text


class _Layout(NamedTuple):
    """What stands on a plate and how wide its parts are."""

    rows: tuple[_Row, ...]
    tag: Text | None
    tag_width: int
    width: int
    height: int


@lru_cache(maxsize=1024)
def _lay_out(actions: tuple[ActionLabel, ...], person_id: int | None, style: Style) -> _Layout:
    size, typeface = style.font_size, style.typeface
    rows = tuple(
        _Row(
            a,
            fit_text(a.name, style.name_width, size, typeface),
            fit_text("" if a.score is None else f"{a.score:.2f}", 9 * size, size),
        )
        for a in actions
    )
    tag = None if person_id is None else fit_text(str(person_id), 9 * size, size)
    tag_width = 0 if tag is None else round(tag.width) + 2 * style.padding
    body_width = 0
    if rows:
        columns = max(row.name.width for row in rows) + max(row.score.width for row in rows)
        body_width = round(style.edge + columns + 4 * style.padding)
    return _Layout(rows, tag, tag_width, tag_width + body_width, style.row_height * max(len(rows), 1))


def plate_size(actions: tuple[ActionLabel, ...], person_id: int | None, style: Style) -> tuple[int, int]:
    """Height and width of what `render_plate` gives."""
    layout = _lay_out(actions, person_id, style)
    return layout.height, layout.width


@lru_cache(maxsize=64)
def render_plate(actions: tuple[ActionLabel, ...], person_id: int | None, style: Style) -> Plate:
    """The number, in the colour of the first action's kind, and a row for each action: name, score, bar."""
    layout = _lay_out(actions, person_id, style)
    canvas = _Canvas(layout.height, layout.width)
    if layout.tag:
        canvas.fill(0, 0, layout.tag_width, layout.height, colour_of(actions[0].kind if actions else None))
        canvas.write([(layout.tag, style.padding, "ls")], 0, layout.height, _TAG_TEXT, style)
    left, right = layout.tag_width + style.edge, layout.width
    for i, row in enumerate(layout.rows):
        top, bottom = i * style.row_height, (i + 1) * style.row_height
        kind, score = row.action.kind, row.action.score
        if score is not None:
            full, ground = bar_colours(kind, score)
            reach = left + round(min(max(score, 0.0), 1.0) * (right - left))
            canvas.fill(left, bottom - style.bar, right, bottom, ground)
            canvas.fill(left, bottom - style.bar, reach, bottom, full)
        canvas.fill(layout.tag_width, top, left, bottom, colour_of(kind))
        texts = [(row.name, left + style.padding, "ls"), (row.score, right - style.padding, "rs")]
        canvas.write(texts, top, bottom - style.bar, text_colour(score), style)
    return canvas.finish()


class _Canvas:
    """A plate in the making: colours, and how opaque they are."""

    def __init__(self, height: int, width: int) -> None:
        self.colour = Image.new("RGB", (width, height), PLATE_COLOUR)
        self.opacity = Image.new("L", (width, height), round(255 * _OPACITY))

    def fill(self, x1: int, y1: int, x2: int, y2: int, colour: tuple[int, int, int]) -> None:
        """Paint the pixels from (x1, y1) to before (x2, y2), opaque."""
        self.colour.paste(colour, (x1, y1, x2, y2))
        self.opacity.paste(255, (x1, y1, x2, y2))

    def write(
        self,
        texts: list[tuple[Text, int, str]],
        top: int,
        bottom: int,
        colour: tuple[int, int, int],
        style: Style,
    ) -> None:
        """Texts (with x and Pillow's anchor) in a line, centred between `top` and `bottom`, cut off there."""
        line = Image.new("L", (self.colour.width, bottom - top), 0)
        pen = ImageDraw.Draw(line)
        baseline = (bottom - top + _digit_height(style.font_size)) // 2
        for text, x, anchor in texts:
            pen.text((x, baseline), text.letters, fill=255, font=text.font, anchor=anchor)
        ink = line.point(_INK)
        self.colour.paste(colour, (0, top), ink)
        self.opacity.paste(255, (0, top), ink)

    def finish(self) -> Plate:
        opacity = cv2.cvtColor(np.asarray(self.opacity), cv2.COLOR_GRAY2RGB)
        return Plate(cv2.multiply(np.asarray(self.colour), opacity, scale=1 / 255), 255 - opacity)


@lru_cache(maxsize=16)
def _digit_height(font_size: int) -> int:
    return -round(load_font(font_size).getbbox("0", anchor="ls")[1])


def lay_over(picture: np.ndarray, plate: Plate, x: int, y: int) -> None:
    """Put a plate on a picture, uint8 RGB (H, W, 3), that it lies within; (x, y) is its upper left corner."""
    height, width = plate.colour.shape[:2]
    region = picture[y : y + height, x : x + width]
    region[:] = cv2.add(cv2.multiply(region, plate.keep, scale=1 / 255), plate.colour)
