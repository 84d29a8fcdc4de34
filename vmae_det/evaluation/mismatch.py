"""Why none of the detections of a file finds anything, which a score of 0.00 does not say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmae_det.utils.errors import quoted


@dataclass(frozen=True)
class Places:
    """Where the rows of a file lie.

    Args:
        videos: (V,) unique video ids.
        video: (R,) index in videos.
        time: (R,) seconds, or numbers of frames.
    """

    videos: np.ndarray
    video: np.ndarray
    time: np.ndarray

    def names(self) -> list[str]:
        """The ids of videos that have rows, sorted."""
        return sorted(self.videos[np.unique(self.video)].tolist())

    def times(self, name: str) -> np.ndarray:
        """The times of a video, in milliseconds, sorted."""
        (index,) = np.flatnonzero(self.videos == name)
        return np.unique(np.rint(1000 * self.time[self.video == index]))


def why_nothing_matches(truth: Places, found: Places, what: str = "seconds") -> str:
    """How video ids or times, which are `what`, of two files differ; or '' where some are in both."""
    if not len(found.video):
        return "there are no detections"
    names = [places.names() for places in (truth, found)]
    common = sorted(set(names[0]) & set(names[1]))
    if not common:
        ours, theirs = (quoted(ids[0]) for ids in names)
        return f"no video id is in both files: the ground truth has {ours}, the detections {theirs}"
    spans = []
    for name in common:
        times = [places.times(name) for places in (truth, found)]
        if np.isin(times[1], times[0], assume_unique=True).any():
            return ""
        spans.append([f"{of[0] / 1000:g} to {of[-1] / 1000:g}" for of in times])
    ours, theirs = spans[0]
    return (
        f"no keyframe is in both files: of video {quoted(common[0])} the ground truth has {what} {ours}, the "
        f"detections {theirs}"
    )
