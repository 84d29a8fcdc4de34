"""A strip under a video: for each person a row of bars, their best action over time, and a cursor at now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from vmae_det.rendering.fonts import fit_text, load_font
from vmae_det.rendering.plates import (
    PLATE_COLOUR,
    WHITE,
    ActionLabel,
    Style,
    bar_colours,
    mix,
    text_colour,
)

PAGE = 60.0  # seconds that the strip shows at once, at most; then a page is turned
MAX_HEIGHT = 0.4  # of the frame's
_CLOCK_COLOUR = mix(PLATE_COLOUR, WHITE, 0.75)
_TICK_COLOUR = mix(PLATE_COLOUR, WHITE, 0.25)
_STEPS = (1, 2, 5, 10, 15, 30)  # seconds between the marks of the clock


class ActionSpan(NamedTuple):
    """What a person mostly does from `start` to before `end`, in seconds."""

    person_id: int
    start: float
    end: float
    action: ActionLabel


class Timeline:
    """The strip for a video whose frames have a given size; it may be told what happens as it happens.

    A page is shown until it is over. People who are not there at the same time share a row; whoever finds
    none left is not shown.

    Args:
        frame_size: height and width in pixels; the strip is as wide, and `height` pixels high.
        rows: of people at once; fewer where they would take more than `MAX_HEIGHT` of the frame.
        start: of the video, in the seconds of the spans.
        page: seconds that are shown at once.
        typeface: as of `fonts.load_font`.
    """

    def __init__(
        self,
        frame_size: tuple[int, int],
        rows: int,
        start: float = 0.0,
        page: float = PAGE,
        typeface: str | None = None,
    ) -> None:
        self.style = Style.of_frame(*frame_size, typeface)
        self.width, self.start, self.page = frame_size[1], start, page
        self._clock_height = round(1.4 * self.style.font_size)
        room = round(MAX_HEIGHT * frame_size[0]) - self._clock_height
        self._rows: list[list[ActionSpan]] = [[] for _ in range(min(rows, room // self.style.row_height))]
        height = self._clock_height + len(self._rows) * self.style.row_height
        self.height = height + (frame_size[0] + height) % 2  # an even number of lines with the frame
        self._shown: tuple[int, np.ndarray] | None = None  # number and picture of the page drawn last

    def add(self, spans: Sequence[ActionSpan]) -> None:
        """What happened since the last call; a span that goes on with the one before becomes one with it."""
        for _, group in groupby(sorted(spans, key=lambda span: span.start), key=lambda span: span.start):
            # Those who are there already first, so that nobody takes their rows.
            pairs = [(self._row_of(span), span) for span in group]
            for own_row, span in sorted(pairs, key=lambda pair: pair[0] is None):
                row = own_row if own_row is not None else self._free_row(span)
                if row is not None:
                    _append(row, span)
        self._shown = None

    def draw(self, time: float) -> np.ndarray:
        """The strip at a moment, which is on no page before that of the moment drawn last.

        Returns:
            uint8 RGB (height, width, 3).
        """
        number = max(math.floor((time - self.start) / self.page), 0)
        if self._shown is None or self._shown[0] != number:
            self._forget(self.start + number * self.page)
            self._shown = number, self._render_page(number)
        strip = self._shown[1].copy()
        line = max(2, self.style.line)
        left = min(max(self._x(time, number) - line // 2, 0), self.width - line)
        strip[:, left : left + line] = WHITE
        return strip

    def _row_of(self, span: ActionSpan) -> list[ActionSpan] | None:
        """The row whose last span is of this person."""
        return next((row for row in self._rows if row and row[-1].person_id == span.person_id), None)

    def _free_row(self, span: ActionSpan) -> list[ActionSpan] | None:
        return next((row for row in self._rows if not row or row[-1].end <= span.start), None)

    def _forget(self, time: float) -> None:
        """Drop what is over before this time: a live stream has no end."""
        for row in self._rows:
            row[:] = [span for span in row if span.end > time]

    def _x(self, time: float, page: int) -> int:
        """The column of a moment; beyond the strip where it is not on this page."""
        return round(((time - self.start) / self.page - page) * self.width)

    def _render_page(self, number: int) -> np.ndarray:
        image = Image.new("RGB", (self.width, self.height), PLATE_COLOUR)
        pen = ImageDraw.Draw(image)
        self._draw_clock(pen, number)
        for row, spans in enumerate(self._rows):
            named = None  # whose number stands in the row
            for span in spans:
                x1, x2 = (min(max(self._x(t, number), 0), self.width) for t in (span.start, span.end))
                if x1 < x2 and self._draw_span(pen, row, x1, x2, span, span.person_id != named):
                    named = span.person_id
        return np.array(image)

    def _draw_span(
        self, pen: ImageDraw.ImageDraw, row: int, x1: int, x2: int, span: ActionSpan, with_number: bool
    ) -> bool:
        """A bar in the action's colour, above it the name; gives whether there was room for one."""
        style, score = self.style, span.action.score
        bottom = (row + 1) * style.row_height
        # A pixel is left free on the right, so that equal neighbours are told apart.
        bar = (x1, bottom - style.bar, max(x2 - 2, x1), bottom - 1)
        pen.rectangle(bar, fill=bar_colours(span.action.kind, score)[0])
        room = x2 - x1 - 2 * style.padding
        if room < 2 * style.font_size:
            return False
        name = f"{span.person_id}: {span.action.name}" if with_number else span.action.name
        text = fit_text(name, room, style.font_size, style.typeface)
        baseline = bottom - style.bar - round(0.3 * style.font_size)
        place = (x1 + style.padding, baseline)
        pen.text(place, text.letters, fill=text_colour(score), font=text.font, anchor="ls")
        return True

    def _draw_clock(self, pen: ImageDraw.ImageDraw, number: int) -> None:
        """Marks every so many seconds from the video's start, as close as their labels allow."""
        font = load_font(self.style.font_size)
        room = 2 * font.getlength("00:00") / self.width * self.page
        step = next((step for step in _STEPS if step >= room), _STEPS[-1])
        top = self.height - self._clock_height
        first = math.ceil(number * self.page / step) * step
        for second in range(first, math.ceil((number + 1) * self.page), step):
            x = self._x(self.start + second, number)
            pen.line((x, 0, x, self.height), fill=_TICK_COLOUR)
            label = f"{second // 60}:{second % 60:02d}"
            if x + self.style.padding + font.getlength(label) <= self.width:
                place = (x + self.style.padding, top + round(1.05 * self.style.font_size))
                pen.text(place, label, fill=_CLOCK_COLOUR, font=font, anchor="ls")


def _append(row: list[ActionSpan], span: ActionSpan) -> None:
    last = row[-1] if row else None
    if last and (last.person_id, last.action.name, last.end) == (
        span.person_id,
        span.action.name,
        span.start,
    ):
        # The bar is as strong as the action was at its surest.
        action = max(last.action, span.action, key=lambda label: label.score)
        row[-1] = last._replace(end=span.end, action=action)
    else:
        row.append(span)
