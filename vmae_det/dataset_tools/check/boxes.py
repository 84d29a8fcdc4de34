"""Box checks: pixels, x,y,w,h, swapped corners, empty, outside the frame; and the likely cause."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from vmae_det.dataset_tools.check.report import Finding, rows_finding
from vmae_det.formats.ava_csv import GROUND_TRUTH_RULE
from vmae_det.formats.box_csv import COORDINATES, MAX_CLIP, BoxRule
from vmae_det.formats.person_boxes import PERSON_BOX_RULE

RULES: dict[str, BoxRule] = {"annotations": GROUND_TRUTH_RULE, "person_boxes": PERSON_BOX_RULE}
PIXEL_THRESHOLD = 1.5  # larger coordinates are interpreted as pixels

# Fraction of a file's boxes that must fit an interpretation before it is applied to the whole file.
_NEARLY_ALL = 0.95
# Frame sizes (width, height) in which boxes are often given.
_COMMON_SIZES = (
    (100, 100),
    (320, 240),
    (340, 256),
    (455, 256),
    (640, 360),
    (640, 480),
    (854, 480),
    (1000, 1000),
)
_COMMON_SIZES += ((1280, 720), (1920, 1080), (2560, 1440), (3840, 2160))


def mark_bad_boxes(rows: pl.DataFrame, content: str) -> pl.DataFrame:
    """Add a column `fault`: the kind of finding of a row's box; null if the box is valid or missing.

    Args:
        content: "annotations" or "person_boxes".
    """
    rule = RULES[content]
    x1, y1, x2, y2 = map(pl.col, COORDINATES)
    low, high = -rule.tolerance, 1 + rule.tolerance
    is_reversed = (x1 > x2) | (y1 > y2)
    both_reversed = (x1 > x2) & (y1 > y2)
    fits_xywh = (x1 + x2 <= high) & (y1 + y2 <= high)
    if not _all_fit_xywh(rows, fits_xywh, is_reversed):
        fits_xywh &= ~both_reversed
    faults = (
        (pl.max_horizontal(*COORDINATES) > PIXEL_THRESHOLD, "box_in_pixels"),
        (
            (pl.min_horizontal(*COORDINATES) < low) | (pl.max_horizontal(*COORDINATES) > high),
            "box_outside_frame",
        ),
        (is_reversed & fits_xywh, "box_as_xywh"),
        (is_reversed, "box_reversed"),
        ((x1 == x2) | (y1 == y2), "box_empty"),
    )
    return rows.with_columns(
        fault=pl.coalesce(*(pl.when(condition).then(pl.lit(kind)) for condition, kind in faults))
    )


def _all_fit_xywh(rows: pl.DataFrame, fits: pl.Expr, is_reversed: pl.Expr) -> bool:
    """Return whether nearly all relative boxes can be x,y,w,h, and several cannot be x1,y1,x2,y2."""
    relative = rows.filter(pl.max_horizontal(*COORDINATES) <= PIXEL_THRESHOLD)
    if relative.is_empty():
        return False
    fit, wrong = relative.select(fits.mean().alias("fit"), is_reversed.sum().alias("wrong")).row(0)
    return wrong >= 2 and wrong >= len(relative) * (1 - _NEARLY_ALL) and fit >= _NEARLY_ALL


def box_findings(rows: pl.DataFrame, path: Path, videos: pl.DataFrame, content: str) -> list[Finding]:
    """Return findings about rows from `mark_bad_boxes`.

    Args:
        videos: `video`, `width` and `height`, in pixels, of the readable videos.
    """
    boxed = int(rows["x1"].is_not_null().sum())
    slack = RULES[content].tolerance
    messages = {
        "box_in_pixels": ("are in pixels", lambda bad: _pixel_advice(bad, videos)),
        "box_as_xywh": ("look like x, y, width, height", lambda bad: _xywh_advice(len(bad), boxed)),
        "box_reversed": (
            "have x2 < x1 or y2 < y1",
            lambda bad: "swap the corners: x1,y1 is the top left one, x2,y2 the bottom right one",
        ),
        "box_empty": (
            "have no area (x1 = x2 or y1 = y2)",
            lambda bad: "remove these boxes, or write their coordinates with more digits",
        ),
        "box_outside_frame": (
            f"reach more than {slack:g} outside the frame",
            lambda bad: (
                "check that they were divided by the frame's own size; --fix OUTPUT clips those that reach "
                f"less than {MAX_CLIP:g} outside"
            ),
        ),
    }
    found = []
    for kind, (text, advice) in messages.items():
        bad = rows.filter(pl.col("fault") == kind)
        if not bad.is_empty():
            found += rows_finding(kind, bad, path, f"of {boxed} boxes {text}", advice(bad))
    return found


def _pixel_advice(bad: pl.DataFrame, videos: pl.DataFrame) -> str:
    """Return the size by which to divide boxes in pixels."""
    reversed_fraction = bad.select(
        ((pl.col("x1") > pl.col("x2")) | (pl.col("y1") > pl.col("y2"))).mean()
    ).item()
    extra = (
        " Many are also x, y, width, height: x2 = x + width, y2 = y + height."
        if reversed_fraction > 0.1
        else ""
    )
    max_x, max_y = bad.select(
        pl.max_horizontal("x1", "x2").max().alias("x"), pl.max_horizontal("y1", "y2").max().alias("y")
    ).row(0)
    known = bad.join(videos, on="video", how="inner")
    fits = (pl.max_horizontal("x1", "x2") <= 1.02 * pl.col("width")) & (
        pl.max_horizontal("y1", "y2") <= 1.02 * pl.col("height")
    )
    if len(known) and known.select(fits.mean()).item() >= _NEARLY_ALL:
        sizes = known.select("width", "height").unique()
        if len(sizes) == 1:
            width, height = sizes.row(0)
            size = f"they fit the videos' frames of {width} x {height}"
            return f"{size}: divide x by {width} and y by {height}.{extra}"
        return f"they fit the frames: divide x and y by the width and height of their video.{extra}"
    likely = next(((w, h) for w, h in _COMMON_SIZES if max_x <= 1.02 * w and max_y <= 1.02 * h), None)
    guess = f", perhaps {likely[0]} x {likely[1]}" if likely else ""
    extent = f"they reach x = {max_x:g}, y = {max_y:g}"
    frames = ""
    if len(known):
        width, height = known.select("width", "height").row(0)
        frames = f", outside the videos' frames (such as {width} x {height})"
    return f"{extent}{frames}: divide by the size of the annotated frames{guess}.{extra}"


def _xywh_advice(bad: int, boxed: int) -> str:
    advice = "write x1,y1,x2,y2 with x2 = x + width and y2 = y + height"
    if bad < boxed:
        advice += (
            "; the other boxes of the file may also be x, y, width, height, although they do not show it"
        )
    return advice
