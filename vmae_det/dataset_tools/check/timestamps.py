"""Timestamp checks: keyframes outside their videos, a wrong video_start, frame numbers as timestamps."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from vmae_det.dataset_tools.check.report import Finding, rows_finding
from vmae_det.formats.video_starts import VideoStarts
from vmae_det.video.readers.base import is_time_inside

AVA_START = 900.0  # second at which AVA's annotated part begins, and at which many cut the files


def add_starts(rows: pl.DataFrame, start: float | VideoStarts) -> pl.DataFrame:
    """Add a column `start`: second of the dataset's clock at which the row's video starts.

    It is null if the table of starts lacks the video.

    Args:
        rows: with the column `video`.
        start: the dataset's `video_start`.
    """
    if not isinstance(start, VideoStarts):
        return rows.with_columns(start=pl.lit(start, dtype=pl.Float64))
    names = rows["video"].unique()
    table = pl.DataFrame(
        {"video": names, "start": [start.get(name) for name in names]},
        schema={"video": pl.String, "start": pl.Float64},
    )
    return rows.join(table, on="video", how="left", maintain_order="left")


def mark_bad_timestamps(
    rows: pl.DataFrame, videos: pl.DataFrame, shifted_kind: str | None = "wrong_video_start"
) -> pl.DataFrame:
    """Add a column `time_fault`: the kind of finding of a row's timestamp; null if it is valid.

    Args:
        rows: `video`, `timestamp`, and `start` from `add_starts`. Rows without a start have no fault.
        videos: `video`, `frames`, `seconds`, `last`, `rate` of the readable videos. Rows of other videos have
            no fault.
        shifted_kind: kind of the rows that another video_start would move into their videos. None: each video
            has its own start, so this is not tried.
    """
    columns = ("frames", "seconds", "last", "rate")
    rows = rows.join(videos.select("video", *columns), on="video", how="left", maintain_order="left")
    position = pl.col("timestamp") - pl.col("start")
    rows = rows.with_columns(
        outside=(~is_time_inside(position, pl.col("last"), pl.col("rate"))).fill_null(False)
    )
    if shifted_kind and (rows["outside"].mean() or 0) >= 0.5 and _possible_starts(rows) is not None:
        fault = pl.when("outside").then(pl.lit(shifted_kind))
    else:
        kind = pl.when(_are_frame_numbers()).then(pl.lit("frame_number_as_timestamp"))
        fault = pl.when("outside").then(kind.otherwise(pl.lit("keyframe_outside_video")))
    return rows.with_columns(time_fault=fault).drop(*columns, "outside")


def _possible_starts(rows: pl.DataFrame) -> tuple[float, float] | None:
    """Return the first and last video_start that moves all rows with known `seconds` into their videos."""
    low, high = (
        rows.filter(pl.col("seconds").is_not_null())
        .select(
            (pl.col("timestamp") - pl.col("seconds")).max().alias("low"),
            pl.col("timestamp").min().alias("high"),
        )
        .row(0)
    )
    return None if low is None or low > high else (max(low, 0.0), high)


def _are_frame_numbers() -> pl.Expr:
    """Whether a video's timestamps are frame numbers.

    Half of them are outside the video, no other start moves all of them into it, and all are integers below
    the number of frames.
    """
    time, frames = pl.col("timestamp"), pl.col("frames")
    are_integers = (time == time.floor()).all()
    are_below = (time <= frames).all() | (time - pl.col("start")).is_between(0, frames).all()
    many_outside = pl.col("outside").mean() >= 0.5
    exceed_video = time.max() - time.min() > pl.col("seconds").first()
    return (are_integers & are_below & many_outside & exceed_video).over("video")


def timestamp_findings(
    rows: pl.DataFrame, path: Path, videos: pl.DataFrame, start: float | VideoStarts
) -> list[Finding]:
    """Return findings about rows from `mark_bad_timestamps`; they count rows.

    Args:
        start: the dataset's `video_start`.
    """
    bad = rows.filter(pl.col("time_fault").is_not_null())
    if bad.is_empty():
        return []
    bad = bad.join(videos, on="video", how="left", maintain_order="left")
    shown = pl.concat_str(
        "text",
        pl.lit("  (second "),
        (pl.col("timestamp") - pl.col("start")).round(2),
        pl.lit(" of a video of "),
        pl.col("seconds").round(2),
        pl.lit(" s, whose last frame begins at "),
        pl.col("last").round(3),
        pl.lit(")"),
    )
    bad = bad.with_columns(shown=shown)
    start_text = start.path.name if isinstance(start, VideoStarts) else f"{start:g}"
    outside = f"of {len(rows)} rows are outside their videos"
    seconds = "write seconds: frame number / frames per second"
    messages = {
        "wrong_video_start": (outside, lambda: _start_advice(rows, videos, start)),
        "person_boxes_wrong_time": (
            outside,
            lambda: (
                f"write the annotations' timestamps: {_start_advice(rows, videos, start)}; the annotations "
                "are inside their videos"
            ),
        ),
        "frame_number_as_timestamp": (
            f"of {len(rows)} rows have frame numbers as timestamps",
            lambda: f"{seconds}{f' + {start_text} (video_start)' if start else ''}{_frame_rate(bad)}",
        ),
        "keyframe_outside_video": (
            outside,
            lambda: (
                f"timestamp minus video_start ({start_text}) is the second of the video file; remove the "
                "rows, fix the timestamps, or use the complete videos"
            ),
        ),
    }
    found = []
    for kind, (text, advice) in messages.items():
        of_kind = bad.filter(pl.col("time_fault") == kind)
        if len(of_kind):
            found += rows_finding(kind, of_kind, path, text, advice(), "shown")
    return found


def _frame_rate(bad: pl.DataFrame) -> str:
    """Return the frame rate of the first video, as text."""
    video, frames, seconds = bad.select("video", "frames", "seconds").row(0)
    return f"; {video} has {frames / seconds:.5g} frames per second"


def _start_advice(rows: pl.DataFrame, videos: pl.DataFrame, start: float) -> str:
    low, high = _possible_starts(rows.join(videos, on="video"))
    likely = next((f"; {value:g} is likely" for value in (0.0, AVA_START) if low <= value <= high), "")
    return (
        f"video_start is {start:g}; any value from {low:g} to {high:g} moves all rows into their "
        f"videos{likely}"
    )
