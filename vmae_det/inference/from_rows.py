"""Detections of a file, as of AVA's CSV, in the form that this program's own detections have."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.detections import ActionDetections
from vmae_det.utils.errors import DataError


def detections_of(
    rows: ActionBoxes, video: str | Path, label_map: LabelMap, video_start: float = 0.0
) -> ActionDetections:
    """What the rows say of one video: those under its file's name without suffix.

    Rows of one keyframe and box are one person; an action that such a row lacks scores 0. The person's own
    score is not in the file: NaN.

    Args:
        rows: with action ids of the label map only.
        video_start: second of the rows' clock at which the file starts.

    Raises:
        DataError: no row is of this video.
    """
    path = Path(video)
    own = np.array([str(name) == path.stem for name in rows.videos], dtype=bool)
    if not own.any():
        known = ", ".join(str(name) for name in rows.videos[:5])
        raise DataError(f"no detections for the video '{path.stem}'; they are for: {known}", path)
    rows = rows.select(own[rows.video] & (rows.action >= 0))
    places = np.column_stack([rows.timestamp, rows.boxes])
    people, person = np.unique(places, axis=0, return_inverse=True)
    scores = np.zeros((len(people), len(label_map)), dtype=np.float32)
    np.maximum.at(scores, (person.reshape(-1), label_map.columns(rows.action)), rows.score)
    return ActionDetections(
        video=path,
        video_start=video_start,
        timestamp=people[:, 0],
        boxes=people[:, 1:],
        person_scores=np.full(len(people), np.nan),
        scores=scores,
        label_map=label_map,
    )
