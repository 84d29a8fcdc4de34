"""Boxes: pixels, x,y,w,h, swapped corners, no area, outside the frame; and the likely cause."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from vmae_det.dataset_tools.check.findings import Finding, finding_of_rows
from vmae_det.formats.ava_csv import GROUND_TRUTH_RULE
from vmae_det.formats.box_csv import COORDINATES, MAX_CLIP, BoxRule
from vmae_det.formats.person_boxes import PERSON_BOX_RULE

RULES: dict[str, BoxRule] = {"annotations": GROUND_TRUTH_RULE, "person_boxes": PERSON_BOX_RULE}
PIXELS_FROM = 1.5  # a coordinate beyond is taken for pixels

# Share of a file's boxes that must fit a guess before the guess is made for the whole file.
_NEARLY_ALL = 0.95
# Sizes that boxes are often relative to, width and height.
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


def mark_bad_boxes(rows: pl.DataFrame, holds: str) -> pl.DataFrame:
    """`rows` with a column `fault`: the finding that a row's box is, null of a sound one and of none."""
    rule = RULES[holds]
    x1, y1, x2, y2 = map(pl.col, COORDINATES)
    low, high = -rule.slack, 1 + rule.slack
    reversed_box = (x1 > x2) | (y1 > y2)
    both = (x1 > x2) & (y1 > y2)
    as_xywh = (x1 + x2 <= high) & (y1 + y2 <= high)
    if not _all_fit_xywh(rows, as_xywh, reversed_box):
        as_xywh &= ~both
    faults = (
        (pl.max_horizontal(*COORDINATES) > PIXELS_FROM, "box_in_pixels"),
        (
            (pl.min_horizontal(*COORDINATES) < low) | (pl.max_horizontal(*COORDINATES) > high),
            "box_outside_frame",
        ),
        (reversed_box & as_xywh, "box_as_xywh"),
        (reversed_box, "box_reversed"),
        ((x1 == x2) | (y1 == y2), "box_empty"),
    )
    return rows.with_columns(
        fault=pl.coalesce(*(pl.when(wrong).then(pl.lit(kind)) for wrong, kind in faults))
    )


def _all_fit_xywh(rows: pl.DataFrame, fits: pl.Expr, reversed_box: pl.Expr) -> bool:
    """Whether nearly all relative boxes could be x,y,w,h, and several cannot be anything else."""
    relative = rows.filter(pl.max_horizontal(*COORDINATES) <= PIXELS_FROM)
    if relative.is_empty():
        return False
    fit, wrong = relative.select(fits.mean().alias("fit"), reversed_box.sum().alias("wrong")).row(0)
    return wrong >= 2 and wrong >= len(relative) * (1 - _NEARLY_ALL) and fit >= _NEARLY_ALL


def box_findings(rows: pl.DataFrame, path: Path, sizes: pl.DataFrame, holds: str) -> list[Finding]:
    """Findings about rows that `mark_bad_boxes` marked.

    Args:
        sizes: `video`, `width` and `height`, in pixels, of the videos that can be read.
    """
    boxed = int(rows["x1"].is_not_null().sum())
    slack = RULES[holds].slack
    said = {
        "box_in_pixels": ("are in pixels", lambda bad: _pixel_advice(bad, sizes)),
        "box_as_xywh": ("look like x, y, width, height", lambda bad: _xywh_advice(len(bad), boxed)),
        "box_reversed": (
            "have x2 < x1 or y2 < y1",
            lambda bad: "swap the corners: x1,y1 is the upper left one, x2,y2 the lower right one",
        ),
        "box_empty": (
            "have no area (x1 = x2 or y1 = y2)",
            lambda bad: "remove these boxes, or write more digits of their coordinates",
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
    for kind, (text, advice) in said.items():
        bad = rows.filter(pl.col("fault") == kind)
        if not bad.is_empty():
            found += finding_of_rows(kind, bad, path, f"of {boxed} boxes {text}", advice(bad))
    return found


def _pixel_advice(bad: pl.DataFrame, sizes: pl.DataFrame) -> str:
    """What to divide by."""
    reversed_share = bad.select(((pl.col("x1") > pl.col("x2")) | (pl.col("y1") > pl.col("y2"))).mean()).item()
    extra = (
        " Many are x, y, width, height as well: x2 = x + width, y2 = y + height."
        if reversed_share > 0.1
        else ""
    )
    widest, tallest = bad.select(
        pl.max_horizontal("x1", "x2").max().alias("x"), pl.max_horizontal("y1", "y2").max().alias("y")
    ).row(0)
    known = bad.join(sizes, on="video", how="inner")
    fits = (pl.max_horizontal("x1", "x2") <= 1.02 * pl.col("width")) & (
        pl.max_horizontal("y1", "y2") <= 1.02 * pl.col("height")
    )
    if len(known) and known.select(fits.mean()).item() >= _NEARLY_ALL:
        of = known.select("width", "height").unique()
        if len(of) == 1:
            width, height = of.row(0)
            size = f"they fit the videos' frames of {width} x {height}"
            return f"{size}: divide x by {width} and y by {height}.{extra}"
        return f"they fit the frames: divide x and y by the width and height of each one's video.{extra}"
    likely = next(((w, h) for w, h in _COMMON_SIZES if widest <= 1.02 * w and tallest <= 1.02 * h), None)
    guess = f", perhaps {likely[0]} x {likely[1]}" if likely else ""
    reach = f"they reach x = {widest:g}, y = {tallest:g}"
    frames = ""
    if len(known):
        width, height = known.select("width", "height").row(0)
        frames = f", beyond the videos' frames (such as {width} x {height})"
    return f"{reach}{frames}: divide by the size of the frames they were drawn on{guess}.{extra}"


def _xywh_advice(bad: int, boxed: int) -> str:
    advice = "write x1,y1,x2,y2 with x2 = x + width and y2 = y + height"
    if bad < boxed:
        advice += "; the other boxes of the file may be meant in the same way, though they do not show it"
    return advice
