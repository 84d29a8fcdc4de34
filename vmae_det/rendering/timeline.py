"""Draws a timeline below a video: rows of bars with the best action of each person, and a cursor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from vmae_det.rendering.fonts import fit_text, load_font
from vmae_det.rendering.label_drawing import ActionLabel
from vmae_det.rendering.style import BACKGROUND, WHITE, DrawStyle, bar_colors, blend_colors, text_color

PAGE_SECONDS = 60.0  # longest duration of a page; longer videos have several pages
MAX_HEIGHT = 0.4  # relative to the frame
_CLOCK_COLOR = blend_colors(BACKGROUND, WHITE, 0.75)
_TICK_COLOR = blend_colors(BACKGROUND, WHITE, 0.25)
_TICK_STEPS = (1, 2, 5, 10, 15, 30)  # seconds between ticks


class ActionSpan(NamedTuple):
    """The best action of a person from `start` to `end`, exclusive, in seconds."""

    person_id: int
    start: float
    end: float
    action: ActionLabel


class Timeline:
    """A timeline for a video. Spans can be added while the video is drawn.

    Each page is shown until its end. Persons who are not present at the same time share a row. Persons for
    whom no row is free are not shown.

    Args:
        frame_size: height and width in pixels. The timeline has the same width; its height is `height`.
        rows: number of rows, reduced if they would be higher than `MAX_HEIGHT` of the frame.
        start: start of the video, on the clock of the spans.
        page: duration of a page in seconds.
        typeface: as in `fonts.load_font`.
        numbered: write the number of a person in front of the name of the action.
    """

    def __init__(
        self,
        frame_size: tuple[int, int],
        rows: int,
        start: float = 0.0,
        page: float = PAGE_SECONDS,
        typeface: str | None = None,
        numbered: bool = True,
    ) -> None:
        self.style = DrawStyle.for_frame(*frame_size, typeface)
        self.width, self.start, self.page = frame_size[1], start, page
        self._numbered = numbered
        self._clock_height = round(1.4 * self.style.font_size)
        room = round(MAX_HEIGHT * frame_size[0]) - self._clock_height
        self._rows: list[list[ActionSpan]] = [[] for _ in range(min(rows, room // self.style.row_height))]
        height = self._clock_height + len(self._rows) * self.style.row_height
        self.height = height + (frame_size[0] + height) % 2  # frame and timeline together have an even height
        self._page_image: tuple[int, np.ndarray] | None = None  # number and picture of the current page

    def add(self, spans: Sequence[ActionSpan]) -> None:
        """Add new spans. A span that continues the previous one is merged with it."""
        # Rounded, so that the end of a span can equal the start of the next one.
        spans = [span._replace(start=round(span.start, 6), end=round(span.end, 6)) for span in spans]
        for _, group in groupby(sorted(spans, key=lambda span: span.start), key=lambda span: span.start):
            # Persons who have a row come first, so that no other person gets it.
            pairs = [(self._row_of(span), span) for span in group]
            for own_row, span in sorted(pairs, key=lambda pair: pair[0] is None):
                row = own_row if own_row is not None else self._free_row(span)
                if row is not None:
                    _append(row, span)
        self._page_image = None

    def draw(self, time: float) -> np.ndarray:
        """Draw the page at `time`, with the cursor. Never go back to an earlier page.

        Returns:
            uint8 RGB (height, width, 3).
        """
        number = max(math.floor((time - self.start) / self.page), 0)
        if self._page_image is None or self._page_image[0] != number:
            self._drop_before(self.start + number * self.page)
            self._page_image = number, self._render_page(number)
        picture = self._page_image[1].copy()
        cursor_width = max(2, self.style.line_width)
        left = min(max(self._x(time, number) - cursor_width // 2, 0), self.width - cursor_width)
        picture[:, left : left + cursor_width] = WHITE
        return picture

    def _row_of(self, span: ActionSpan) -> list[ActionSpan] | None:
        """Return the row whose last span has the same person."""
        return next((row for row in self._rows if row and row[-1].person_id == span.person_id), None)

    def _free_row(self, span: ActionSpan) -> list[ActionSpan] | None:
        return next((row for row in self._rows if not row or row[-1].end <= span.start), None)

    def _drop_before(self, time: float) -> None:
        """Drop spans that end before `time`, because a live stream has no end."""
        for row in self._rows:
            row[:] = [span for span in row if span.end > time]

    def _x(self, time: float, page: int) -> int:
        """Return the column of a time; outside of the picture if the time is on another page."""
        return round(((time - self.start) / self.page - page) * self.width)

    def _render_page(self, number: int) -> np.ndarray:
        image = Image.new("RGB", (self.width, self.height), BACKGROUND)
        pen = ImageDraw.Draw(image)
        self._draw_clock(pen, number)
        for row, spans in enumerate(self._rows):
            named = None  # person whose number was written last in this row
            for span in spans:
                x1, x2 = (min(max(self._x(t, number), 0), self.width) for t in (span.start, span.end))
                if x1 < x2 and self._draw_span(
                    pen, row, x1, x2, span, self._numbered and span.person_id != named
                ):
                    named = span.person_id
        return np.array(image)

    def _draw_span(
        self, pen: ImageDraw.ImageDraw, row: int, x1: int, x2: int, span: ActionSpan, with_number: bool
    ) -> bool:
        """Draw a bar in the color of the action, and the name above it if it fits; return whether it does."""
        style, score = self.style, span.action.score
        bottom = (row + 1) * style.row_height
        # The bar ends one pixel early, so that adjacent bars are distinguishable.
        bar = (x1, bottom - style.bar_height, max(x2 - 2, x1), bottom - 1)
        pen.rectangle(bar, fill=bar_colors(span.action.kind, score)[0])
        room = x2 - x1 - 2 * style.padding
        if room < 2 * style.font_size:
            return False
        name = f"{span.person_id}: {span.action.name}" if with_number else span.action.name
        text = fit_text(name, room, style.font_size, style.typeface)
        baseline = bottom - style.bar_height - round(0.3 * style.font_size)
        position = (x1 + style.padding, baseline)
        pen.text(position, text.letters, fill=text_color(score), font=text.font, anchor="ls")
        return True

    def _draw_clock(self, pen: ImageDraw.ImageDraw, number: int) -> None:
        """Draw ticks with the time since the start of the video, as close as their labels allow."""
        font = load_font(self.style.font_size)
        room = 2 * font.getlength("00:00") / self.width * self.page
        step = next((step for step in _TICK_STEPS if step >= room), _TICK_STEPS[-1])
        top = self.height - self._clock_height
        first = math.ceil(number * self.page / step) * step
        for second in range(first, math.ceil((number + 1) * self.page), step):
            x = self._x(self.start + second, number)
            pen.line((x, 0, x, self.height), fill=_TICK_COLOR)
            label = f"{second // 60}:{second % 60:02d}"
            if x + self.style.padding + font.getlength(label) <= self.width:
                position = (x + self.style.padding, top + round(1.05 * self.style.font_size))
                pen.text(position, label, fill=_CLOCK_COLOR, font=font, anchor="ls")


def _append(row: list[ActionSpan], span: ActionSpan) -> None:
    last = row[-1] if row else None
    if last and (last.person_id, last.action.name, last.end) == (
        span.person_id,
        span.action.name,
        span.start,
    ):
        # The merged bar has the highest score of its spans.
        action = max(last.action, span.action, key=lambda label: label.score)
        row[-1] = last._replace(end=span.end, action=action)
    else:
        row.append(span)
