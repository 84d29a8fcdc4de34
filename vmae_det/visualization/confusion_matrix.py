"""Draws a confusion matrix as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

MAX_CLASSES = 60  # larger matrices show the classes with the most confusions only
_MAX_NAME = 28  # characters of a name
_FONT = 12
_BLUE = (53, 105, 168)
_OUTLINE = ' stroke="#5b6675"'  # of the cells on the diagonal


def confusion_svg(
    names: Sequence[str],
    counts: np.ndarray,
    *,
    row_title: str = "true class",
    column_title: str = "predicted class",
) -> str:
    """Draw a matrix of names x names. The color of a cell is its share of the row, and its text its count.

    With more than MAX_CLASSES names, those with the most counts off the diagonal are drawn.

    Args:
        counts: (C, C), not negative.

    Returns:
        An `svg` element that can be embedded in HTML.
    """
    total = counts.sum(axis=1)
    shown = shown_classes(counts)
    cell = 30 if len(shown) <= 20 else 22 if len(shown) <= 40 else 16
    margin = round(0.56 * _FONT * max(len(_short(names[c])) for c in shown)) + 24
    side = cell * len(shown)
    width, height = margin + side + 40, margin + side + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="Confusion matrix" font-family="system-ui, sans-serif" '
        f'font-size="{_FONT}">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        _text(margin - 8, margin - 6, row_title, 'text-anchor="end" fill="#5b6675" font-size="10"'),
        _text(margin, 12, column_title, 'fill="#5b6675" font-size="10"'),
    ]
    for place, column in enumerate(shown):
        middle = margin + (place + 0.5) * cell
        name = names[column]
        parts.append(_text(margin - 8, middle + 4, name, 'text-anchor="end"'))
        x, y = middle + 4, margin - 8
        parts.append(_text(x, y, name, f'transform="rotate(-90 {x:g} {y:g})"'))
    for row_place, row in enumerate(shown):
        for column_place, column in enumerate(shown):
            count, share = int(counts[row, column]), counts[row, column] / max(total[row], 1)
            x, y = margin + column_place * cell, margin + row_place * cell
            title = (
                f"{row_title} {names[row]}, {column_title} {names[column]}: {count} of {int(total[row])} "
                f"({100 * share:.1f} %)"
            )
            parts.append(
                f'<g><title>{escape(title)}</title><rect x="{x}" y="{y}" width="{cell - 1}" '
                f'height="{cell - 1}" fill="{_color(share)}"{_OUTLINE * int(row == column)}/>'
            )
            if count:
                color = "#fff" if share > 0.5 else "#1c2430"
                style = f'text-anchor="middle" fill="{color}" font-size="{10 if cell > 16 else 8}"'
                parts.append(_text(x + cell / 2 - 0.5, y + cell / 2 + 3, str(count), style))
            parts.append("</g>")
    return "".join([*parts, "</svg>"])


def shown_classes(counts: np.ndarray) -> np.ndarray:
    """Return the classes that `confusion_svg` draws, in their order."""
    if len(counts) <= MAX_CLASSES:
        return np.arange(len(counts))
    confused = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    return np.sort(np.argsort(-confused, kind="stable")[:MAX_CLASSES])


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(_short(text))}</text>'


def _short(text: str) -> str:
    return text if len(text) <= _MAX_NAME else text[: _MAX_NAME - 1] + "…"


def _color(share: float) -> str:
    """Return the color of a share of a row: from light gray to blue; small shares are visible."""
    if not share:
        return "#f5f7f9"
    weight = 0.15 + 0.85 * share
    return "#" + "".join(f"{round(255 + (part - 255) * weight):02x}" for part in _BLUE)
