"""Explanations printed with a metric: why no detection matches, and the effect of the order of ties."""

from __future__ import annotations

import numpy as np

from vmae_det.formats.keyframes import rows_by_value
from vmae_det.utils.errors import quoted


def times_by_video(videos: np.ndarray, video: np.ndarray, time: np.ndarray) -> dict[str, np.ndarray]:
    """Return the sorted, distinct times of each video, in milliseconds.

    Args:
        videos: (V,) video ids.
        video: (R,) index into `videos`.
        time: (R,) seconds, or frame numbers.
    """
    present, rows = rows_by_value(video)
    milliseconds = np.rint(1000 * time)
    return {videos[index]: np.unique(milliseconds[own]) for index, own in zip(present, rows)}


def explain_no_match(
    ground_truth: dict[str, np.ndarray], detections: dict[str, np.ndarray], unit: str = "seconds"
) -> str:
    """Return how the video ids or times of two files differ, or '' if they have a time of a video in common.

    Args:
        ground_truth, detections: results of `times_by_video`.
        unit: of the times, for the message.
    """
    if not detections:
        return "there are no detections"
    common = sorted(ground_truth.keys() & detections.keys())
    if not common:
        ours, theirs = (quoted(min(times)) for times in (ground_truth, detections))
        return f"no video id is in both files: the ground truth has {ours}, the detections {theirs}"
    if any(np.isin(detections[name], ground_truth[name], assume_unique=True).any() for name in common):
        return ""
    ours, theirs = (
        f"{times[common[0]][0] / 1000:g} to {times[common[0]][-1] / 1000:g}"
        for times in (ground_truth, detections)
    )
    return (
        f"no keyframe is in both files: video {quoted(common[0])} has {unit} {ours} in the ground truth, "
        f"{theirs} in the detections"
    )


def describe_ties(mean_range: tuple[float, float], order: str) -> str:
    """Describe in one line how ties in score are broken, and the range of the mean under other orders."""
    low, high = (100 * end for end in mean_range)
    effect = (
        f"another order gives a mean from {low:.4f} to {high:.4f}"
        if high - low > 1e-9
        else "their order does not matter"
    )
    return f"ties in score are ordered by {order}; {effect}"
