"""Keyframes against the length of their videos: outside, another video_start, frame numbers."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from vmae_det.dataset_tools.check.findings import Finding, finding_of_rows
from vmae_det.formats.video_starts import VideoStarts
from vmae_det.video.readers.base import is_time_inside

AVA_START = 900.0  # second at which AVA's annotated part begins, and where many cut their files


def add_starts(rows: pl.DataFrame, start: float | VideoStarts) -> pl.DataFrame:
    """`rows` with a column `start`: second of the clock at which a row's video (column `video`) starts; null
    where the table lacks the video."""
    if not isinstance(start, VideoStarts):
        return rows.with_columns(start=pl.lit(start, dtype=pl.Float64))
    names = rows["video"].unique()
    table = pl.DataFrame(
        {"video": names, "start": [start.get(name) for name in names]},
        schema={"video": pl.String, "start": pl.Float64},
    )
    return rows.join(table, on="video", how="left", maintain_order="left")


def mark_times(
    rows: pl.DataFrame, videos: pl.DataFrame, shifted: str | None = "wrong_video_start"
) -> pl.DataFrame:
    """`rows` with a column `time_fault`: the kind of finding that a row's timestamp is, or null.

    Args:
        rows: `video`, `timestamp`, and `start` as of `add_starts`; rows without a start have no fault.
        videos: `video`, `frames`, `seconds`, `last`, `rate` of readable videos; rows of others have no fault.
        shifted: the finding that rows are which another video_start would put into their videos; None where
            each video has its own start.
    """
    facts = ("frames", "seconds", "last", "rate")
    rows = rows.join(videos.select("video", *facts), on="video", how="left", maintain_order="left")
    position = pl.col("timestamp") - pl.col("start")
    rows = rows.with_columns(
        outside=(~is_time_inside(position, pl.col("last"), pl.col("rate"))).fill_null(False)
    )
    if shifted and (rows["outside"].mean() or 0) >= 0.5 and _possible_starts(rows) is not None:
        fault = pl.when("outside").then(pl.lit(shifted))
    else:
        kind = pl.when(_counts_frames()).then(pl.lit("frame_number_as_timestamp"))
        fault = pl.when("outside").then(kind.otherwise(pl.lit("keyframe_outside_video")))
    return rows.with_columns(time_fault=fault).drop(*facts, "outside")


def _possible_starts(rows: pl.DataFrame) -> tuple[float, float] | None:
    """First and last video_start that puts all rows of known `seconds` into their videos, or None."""
    low, high = (
        rows.filter(pl.col("seconds").is_not_null())
        .select(
            (pl.col("timestamp") - pl.col("seconds")).max().alias("low"),
            pl.col("timestamp").min().alias("high"),
        )
        .row(0)
    )
    return None if low is None or low > high else (max(low, 0.0), high)


def _counts_frames() -> pl.Expr:
    """Whether a video's timestamps are frame numbers: half lie outside, no shift of the whole mends it, and
    all are whole numbers below the number of frames."""
    time, frames = pl.col("timestamp"), pl.col("frames")
    whole = (time == time.floor()).all()
    below = (time <= frames).all() | (time - pl.col("start")).is_between(0, frames).all()
    many = pl.col("outside").mean() >= 0.5
    spread = time.max() - time.min() > pl.col("seconds").first()
    return (whole & below & many & spread).over("video")


def time_findings(
    rows: pl.DataFrame, path: Path, videos: pl.DataFrame, start: float | VideoStarts
) -> list[Finding]:
    """Findings about rows that `mark_times` marked; they count rows. `start`: the dataset's `video_start`."""
    bad = rows.filter(pl.col("time_fault").is_not_null())
    if bad.is_empty():
        return []
    bad = bad.join(videos, on="video", how="left", maintain_order="left")
    length = pl.concat_str(
        "text",
        pl.lit("  (second "),
        (pl.col("timestamp") - pl.col("start")).round(2),
        pl.lit(" of a video of "),
        pl.col("seconds").round(2),
        pl.lit(" s, whose last frame begins at "),
        pl.col("last").round(3),
        pl.lit(")"),
    )
    bad = bad.with_columns(shown=length)
    shown_start = start.path.name if isinstance(start, VideoStarts) else f"{start:g}"
    outside = f"of {len(rows)} rows lie outside their videos"
    seconds = "write seconds: the frame's number / frames per second"
    said = {
        "wrong_video_start": (outside, lambda: _start_advice(rows, videos, start)),
        "person_boxes_wrong_time": (
            outside,
            lambda: (
                f"write the annotations' timestamps: {_start_advice(rows, videos, start)}, other than the "
                "annotations, which lie in their videos"
            ),
        ),
        "frame_number_as_timestamp": (
            f"of {len(rows)} rows give frame numbers as times",
            lambda: f"{seconds}{f' + {shown_start} (video_start)' if start else ''}{_rates(bad)}",
        ),
        "keyframe_outside_video": (
            outside,
            lambda: (
                f"a timestamp less video_start ({shown_start}) is the second of the video file; remove the "
                "rows, mend the times, or use the whole videos"
            ),
        ),
    }
    found = []
    for kind, (text, advice) in said.items():
        of_kind = bad.filter(pl.col("time_fault") == kind)
        if len(of_kind):
            found += finding_of_rows(kind, of_kind, path, text, advice(), "shown")
    return found


def _rates(bad: pl.DataFrame) -> str:
    """Frames per second of the first video."""
    video, frames, seconds = bad.select("video", "frames", "seconds").row(0)
    return f"; {video} has {frames / seconds:.5g} frames a second"


def _start_advice(rows: pl.DataFrame, videos: pl.DataFrame, start: float) -> str:
    low, high = _possible_starts(rows.join(videos, on="video"))
    likely = next((f"; {value:g} is likely" for value in (0.0, AVA_START) if low <= value <= high), "")
    return f"video_start is {start:g}; any from {low:g} to {high:g} puts all rows into their videos{likely}"
