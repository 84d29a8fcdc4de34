"""Draws a confusion matrix as inline SVG, with a table of the most frequent confusions."""

from __future__ import annotations

import math
from html import escape

from vmae_det.evaluation.confusion_matrix import ConfusionMatrix

# With more classes, the picture shows the most confused ones.
MAX_CLASSES = 20
_MAX_PAIRS = 15
_OTHER = "other classes"

_CELL = 30  # pixels
_LETTER = 6.6  # mean width of a character, in pixels
_MAX_LETTERS = 28
# Colors of the page, or these.
_STYLE = (
    ".matrix{display:block;height:auto;max-width:none}"
    ".matrix text{font:11px system-ui,sans-serif;fill:var(--ink,#1c2430)}"
    ".matrix .n{fill:var(--soft,#5b6675);text-anchor:end}"
    ".matrix .name{text-anchor:end}"
    ".matrix .v{font-size:10px;text-anchor:middle}.matrix .v.strong{fill:#fff}"
    ".matrix .frame{fill:var(--field,#f5f7f9)}"
    ".matrix .right{fill:#3569a8}.matrix .wrong{fill:#c8553d}.matrix .none{fill:#6b7a8f}"
)


def draw_matrix(matrix: ConfusionMatrix) -> str:
    """Return a matrix as an SVG element. The number in a cell is the percentage of its row.

    The diagonal is blue, other cells are red, and the columns after the classes are gray. A cell has a
    tooltip with its count. Colors of text and empty cells follow the variables --ink, --soft and --field of
    the page, if they are defined.
    """
    rows, columns, counts = matrix.names, matrix.columns, matrix.counts
    totals = counts.sum(axis=1)
    numbers = [f"{total:,}" for total in totals]
    number_width = _LETTER * max(map(len, numbers), default=0) + 16
    left = _LETTER * max((min(len(name), _MAX_LETTERS) for name in rows), default=0) + 8 + number_width
    slanted = 0.71 * _LETTER * max((min(len(name), _MAX_LETTERS) for name in columns), default=0)
    top = slanted + 24
    width = round(left + _CELL * len(columns) + slanted)
    height = round(top + _CELL * len(rows) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="matrix" role="img" aria-label="confusion matrix" '
        f'viewBox="0 0 {width} {height}" style="width:{width}px"><style>{_STYLE}</style>'
    ]
    for index, name in enumerate(columns):
        x, y = left + _CELL * (index + 0.55), top - 6
        parts.append(f'<text transform="translate({x:.1f} {y:.1f}) rotate(-45)">{_text(name)}</text>')
    for index, (name, number, total) in enumerate(zip(rows, numbers, totals)):
        y = top + _CELL * index
        parts.append(
            f'<text class="name" x="{left - number_width:.1f}" y="{y + 19:.1f}">{_text(name)}</text>'
        )
        parts.append(f'<text class="n" x="{left - 6:.1f}" y="{y + 19:.1f}">{number}</text>')
        for column, count in enumerate(counts[index]):
            kind = "right" if column == index else "wrong" if column < len(rows) else "none"
            tooltip = f"{name} → {columns[column]}: {count:,} of {number}"
            share = count / total if total else 0.0
            parts.append(_cell(left + _CELL * column, y, share, kind, tooltip))
    return "".join([*parts, "</svg>"])


def confusion_section(matrix: ConfusionMatrix) -> str:
    """Return a matrix and the table of its most frequent confusions as HTML.

    With more than MAX_CLASSES classes, the matrix has the classes of the most frequent confusions, and a
    column for all other classes.
    """
    table, total = _pairs_table(matrix), len(matrix.names)
    if total <= MAX_CLASSES:
        return f'<div class="scroll">{draw_matrix(matrix)}</div>{table}'
    classes = matrix.most_confused(MAX_CLASSES)
    if not classes:
        return table
    picture = draw_matrix(matrix.select(classes, _OTHER))
    note = f"The matrix has {len(classes)} of {total} classes: those of the most frequent confusions."
    return f'<p>{note}</p><div class="scroll">{picture}</div>{table}'


def _pairs_table(matrix: ConfusionMatrix) -> str:
    totals, lines = matrix.counts.sum(axis=1), []
    for row, column in matrix.confused_pairs(_MAX_PAIRS):
        count = matrix.counts[row, column]
        cells = "".join(f'<td class="left">{escape(matrix.names[c])}</td>' for c in (row, column))
        share = f"{100 * count / totals[row]:.1f}"
        lines.append(f"<tr>{cells}<td>{count:,}</td><td>{totals[row]:,}</td><td>{share}</td></tr>")
    if not lines:
        return "<p>No class is taken for another one.</p>"
    head = '<th class="left">annotated</th><th class="left">predicted</th><th>count</th><th>of</th><th>%</th>'
    return f'<div class="scroll"><table class="pairs"><tr>{head}</tr>{"".join(lines)}</table></div>'


def _cell(x: float, y: float, share: float, kind: str, tooltip: str) -> str:
    place = f'x="{x + 1:.1f}" y="{y + 1:.1f}" width="{_CELL - 2}" height="{_CELL - 2}" rx="2"'
    parts = [f'<g><title>{escape(tooltip)}</title><rect class="frame" {place}/>']
    if share > 0:
        opacity = 0.12 + 0.88 * share
        text = f"{math.floor(100 * share + 0.5)}" if share >= 0.005 else "&lt;1"
        strong = " strong" if opacity > 0.85 else ""
        parts.append(f'<rect class="{kind}" {place} fill-opacity="{opacity:.2f}"/>')
        parts.append(f'<text class="v{strong}" x="{x + _CELL / 2:.1f}" y="{y + 18.5:.1f}">{text}</text>')
    return "".join([*parts, "</g>"])


def _text(name: str) -> str:
    """Return a shortened name, with the full one as its tooltip."""
    short = name if len(name) <= _MAX_LETTERS else f"{name[: _MAX_LETTERS - 1]}…"
    return f"{escape(short)}<title>{escape(name)}</title>"
