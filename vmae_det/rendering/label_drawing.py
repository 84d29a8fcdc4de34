"""Renders the label of a person: the track number and the top actions with their scores.

A label is rendered once and blended over many frames. Its text has a contrast of at least 4.5:1 over any
picture (WCAG 2.1, level AA).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from vmae_det.rendering.fonts import Text, fit_text, load_font
from vmae_det.rendering.style import BACKGROUND, DrawStyle, bar_colors, color_of_kind, text_color

_OPACITY = 0.84  # of the background; even over white, the faintest text keeps its contrast
# Gamma of the text mask. Without it, strokes thinner than a pixel are too faint.
_TEXT_GAMMA = [round(255 * (level / 255) ** 0.7) for level in range(256)]
_NUMBER_COLOR = (0, 0, 0)


class ActionLabel(NamedTuple):
    """An action of a person.

    Attributes:
        name: name of the action.
        score: score in [0, 1]; None for annotations.
        kind: kind of action, a key of `KIND_COLORS`; others are drawn in gray.
    """

    name: str
    score: float | None
    kind: str | None = None


class LabelImage(NamedTuple):
    """A rendered label. A picture under it becomes `picture * transparency / 255 + color`.

    Attributes:
        color: premultiplied color, uint8 RGB (h, w, 3).
        transparency: uint8 (h, w, 3); 255 is fully transparent.
    """

    color: np.ndarray
    transparency: np.ndarray


class _Row(NamedTuple):
    action: ActionLabel
    name: Text
    score: Text


class _Layout(NamedTuple):
    """Texts of a label and the sizes of its parts."""

    rows: tuple[_Row, ...]
    number: Text | None
    number_width: int
    width: int
    height: int


@lru_cache(maxsize=1024)
def _lay_out(actions: tuple[ActionLabel, ...], person_id: int | None, style: DrawStyle) -> _Layout:
    size, typeface = style.font_size, style.typeface
    rows = tuple(
        _Row(
            action,
            fit_text(action.name, style.max_name_width, size, typeface),
            fit_text("" if action.score is None else f"{action.score:.2f}", 9 * size, size),
        )
        for action in actions
    )
    number = None if person_id is None else fit_text(str(person_id), 9 * size, size)
    number_width = 0 if number is None else round(number.width) + 2 * style.padding
    rows_width = 0
    if rows:
        columns = max(row.name.width for row in rows) + max(row.score.width for row in rows)
        rows_width = round(style.edge_width + columns + 4 * style.padding)
    height = style.row_height * max(len(rows), 1)
    return _Layout(rows, number, number_width, number_width + rows_width, height)


def label_size(actions: tuple[ActionLabel, ...], person_id: int | None, style: DrawStyle) -> tuple[int, int]:
    """Return height and width of the label that `render_label` returns."""
    layout = _lay_out(actions, person_id, style)
    return layout.height, layout.width


@lru_cache(maxsize=64)
def render_label(actions: tuple[ActionLabel, ...], person_id: int | None, style: DrawStyle) -> LabelImage:
    """Render the number on the color of the first action, and a row per action: name, score, bar."""
    layout = _lay_out(actions, person_id, style)
    canvas = _Canvas(layout.height, layout.width)
    if layout.number:
        color = color_of_kind(actions[0].kind if actions else None)
        canvas.fill(0, 0, layout.number_width, layout.height, color)
        canvas.write([(layout.number, style.padding, "ls")], 0, layout.height, _NUMBER_COLOR, style)
    left, right = layout.number_width + style.edge_width, layout.width
    for i, row in enumerate(layout.rows):
        top, bottom = i * style.row_height, (i + 1) * style.row_height
        bar_top = bottom - style.bar_height
        kind, score = row.action.kind, row.action.score
        if score is not None:
            filled, track = bar_colors(kind, score)
            bar_end = left + round(min(max(score, 0.0), 1.0) * (right - left))
            canvas.fill(left, bar_top, right, bottom, track)
            canvas.fill(left, bar_top, bar_end, bottom, filled)
        canvas.fill(layout.number_width, top, left, bottom, color_of_kind(kind))
        texts = [(row.name, left + style.padding, "ls"), (row.score, right - style.padding, "rs")]
        canvas.write(texts, top, bar_top, text_color(score), style)
    return canvas.finish()


class _Canvas:
    """A label during rendering: its color and its opacity."""

    def __init__(self, height: int, width: int) -> None:
        self.color = Image.new("RGB", (width, height), BACKGROUND)
        self.opacity = Image.new("L", (width, height), round(255 * _OPACITY))

    def fill(self, x1: int, y1: int, x2: int, y2: int, color: tuple[int, int, int]) -> None:
        """Fill the rectangle from (x1, y1) to (x2, y2), exclusive, with an opaque color."""
        self.color.paste(color, (x1, y1, x2, y2))
        self.opacity.paste(255, (x1, y1, x2, y2))

    def write(
        self,
        texts: list[tuple[Text, int, str]],
        top: int,
        bottom: int,
        color: tuple[int, int, int],
        style: DrawStyle,
    ) -> None:
        """Write texts in one line, centered between `top` and `bottom` and clipped there.

        Args:
            texts: text, x coordinate and Pillow anchor of each.
        """
        line = Image.new("L", (self.color.width, bottom - top), 0)
        pen = ImageDraw.Draw(line)
        baseline = (bottom - top + _digit_height(style.font_size)) // 2
        for text, x, anchor in texts:
            pen.text((x, baseline), text.letters, fill=255, font=text.font, anchor=anchor)
        mask = line.point(_TEXT_GAMMA)
        self.color.paste(color, (0, top), mask)
        self.opacity.paste(255, (0, top), mask)

    def finish(self) -> LabelImage:
        opacity = cv2.cvtColor(np.asarray(self.opacity), cv2.COLOR_GRAY2RGB)
        return LabelImage(cv2.multiply(np.asarray(self.color), opacity, scale=1 / 255), 255 - opacity)


@lru_cache(maxsize=16)
def _digit_height(font_size: int) -> int:
    return -round(load_font(font_size).getbbox("0", anchor="ls")[1])


def blend_label(picture: np.ndarray, label: LabelImage, x: int, y: int) -> None:
    """Alpha-blend a label into a picture, in place.

    Args:
        picture: uint8 RGB (H, W, 3).
        label: must be inside the picture.
        x: left edge of the label.
        y: top edge of the label.
    """
    height, width = label.color.shape[:2]
    region = picture[y : y + height, x : x + width]
    region[:] = cv2.add(cv2.multiply(region, label.transparency, scale=1 / 255), label.color)
