"""Colors and sizes of everything that is drawn on a frame."""

from __future__ import annotations

from dataclasses import dataclass

# Three colors of Okabe and Ito (2008). They also differ in lightness, so color-blind people can distinguish
# them.
KIND_COLORS = {
    "PERSON_MOVEMENT": (86, 180, 233),  # sky blue
    "OBJECT_MANIPULATION": (240, 228, 66),  # yellow
    "PERSON_INTERACTION": (213, 94, 0),  # vermilion
}
OTHER_COLOR = (200, 200, 200)
BACKGROUND = (18, 20, 24)  # of labels and of the timeline
WHITE = (255, 255, 255)

_BAR_TRACK_OPACITY = 0.25  # opacity of the part of a score bar beyond the score


@dataclass(frozen=True)
class DrawStyle:
    """Sizes in pixels that fit a frame, and the typeface.

    Attributes:
        font_size: pixels per em.
        bar_height: height of the score bar below an action name.
        row_height: height of a row of a label: name and bar.
        padding: horizontal space around text.
        edge_width: width of the colored edge at the left of a row.
        line_width: width of the lines of a box.
        gap: distance between a box and its label.
        max_name_width: longer names are shortened.
        typeface: as in `fonts.load_font`.
    """

    font_size: int
    bar_height: int
    row_height: int
    padding: int
    edge_width: int
    line_width: int
    gap: int
    max_name_width: int
    typeface: str | None = None

    @classmethod
    def for_frame(cls, height: int, width: int, typeface: str | None = None) -> DrawStyle:
        """Return the style for a frame of this size. Sizes follow its shorter side."""
        short = min(height, width)
        # Sublinear: on small frames, text needs a larger share of the frame to be legible.
        font_size = max(10, round(6 + short / 54))
        bar_height = max(2, round(0.14 * font_size))
        return cls(
            font_size=font_size,
            bar_height=bar_height,
            row_height=round(1.25 * font_size) + bar_height,
            padding=max(2, round(0.35 * font_size)),
            edge_width=max(2, round(0.22 * font_size)),
            line_width=max(1, round(short / 320)),
            gap=max(2, round(short / 200)),
            max_name_width=round(min(max(0.2 * width, 9 * font_size), 0.4 * width)),
            typeface=typeface,
        )


def color_of_kind(kind: str | None) -> tuple[int, int, int]:
    """Return the RGB color of a kind of action; gray for kinds that are not in `KIND_COLORS`."""
    return KIND_COLORS.get(kind, OTHER_COLOR)


def score_emphasis(score: float | None) -> float:
    """Return how strongly to draw an action, in [0, 1]; low scores fade. None, an annotation, returns 1."""
    return 1.0 if score is None else min(max((score - 0.2) / 0.5, 0.0), 1.0)


def blend_colors(
    base: tuple[int, int, int], top: tuple[int, int, int], opacity: float
) -> tuple[int, int, int]:
    """Return the color of `top` blended over `base`."""
    return tuple(round(b + (t - b) * opacity) for b, t in zip(base, top))


def text_color(score: float | None) -> tuple[int, int, int]:
    """Return the color of an action name on `BACKGROUND`: from gray to white, by score."""
    return blend_colors(BACKGROUND, WHITE, 0.7 + 0.3 * score_emphasis(score))


def bar_colors(kind: str | None, score: float) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the colors of a score bar on `BACKGROUND`: up to the score, and beyond it."""
    color = color_of_kind(kind)
    filled = blend_colors(BACKGROUND, color, 0.5 + 0.5 * score_emphasis(score))
    return filled, blend_colors(BACKGROUND, color, _BAR_TRACK_OPACITY)
