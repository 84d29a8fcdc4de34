"""Detected actions drawn over a whole video."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vmae_det.data.readers import VideoReader, open_video
from vmae_det.inference.detections import ActionDetections
from vmae_det.inference.tracking import link
from vmae_det.utils.errors import DataError
from vmae_det.visualization.overlay import ActionLabel, PersonOverlay, draw_people
from vmae_det.visualization.video_writer import VideoWriter

logger = logging.getLogger(__name__)


def write_overlay(
    detections: ActionDetections,
    path: Path,
    *,
    top_k: int = 3,
    threshold: float = 0.3,
    progress: bool = False,
) -> Path:
    """Write the video of `detections` with boxes and actions on every frame, and with its sound.

    Frames are those of the readers: upright, each at its own time. Between keyframes boxes are interpolated;
    a person keeps the actions of the nearest keyframe.

    Raises:
        DataError: the video cannot be read.
        UserError: the file cannot be written.
    """
    tracks = link(detections.timestamp, detections.boxes)
    labels = [_labels(detections, row) for row in range(len(detections))]
    reader = open_video(detections.video)
    memory: dict[int, tuple[float, float]] = {}

    def draw(index: int, frame: np.ndarray) -> np.ndarray:
        size = np.tile(frame.shape[1::-1], 2)
        people = [
            PersonOverlay(tuple(box * size), labels[row], int(tracks.track[row]))
            for row, box in tracks.at(float(reader.times[index]) + detections.video_start)
        ]
        return draw_people(frame, people, top_k=top_k, threshold=threshold, memory=memory)

    _redraw(reader, path, draw, progress)
    return path


def _redraw(
    reader: VideoReader, path: Path, draw: Callable[[int, np.ndarray], np.ndarray], progress: bool
) -> None:
    """Write the frames of a video as `draw` gives them, upright, at their own times, and with their sound."""
    sound = reader.path if reader.path.is_file() else None
    hidden = None if progress else True
    written, writer = 0, None
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(reader), desc="drawing", unit="frame", disable=hidden))
        for index, frame in reader.stream():
            if writer is None:
                height, width = frame.shape[:2]
                writer = stack.enter_context(VideoWriter(path, width, height, reader.rate, sound))
            writer.write(draw(index, frame), reader.start + float(reader.times[index]))
            written += 1
            bar.update(index + 1 - bar.n)
    if not written:
        raise DataError("none of its frames can be decoded", reader.path)
    if written < len(reader):
        logger.warning(
            "%s: %d of %d frames are damaged; the one before is shown in their place",
            reader.path,
            len(reader) - written,
            len(reader),
        )


def _labels(detections: ActionDetections, row: int) -> tuple[ActionLabel, ...]:
    scores, names = detections.scores[row], detections.label_map
    order = np.argsort(-scores, kind="stable")
    return tuple(ActionLabel(names.names[c], float(scores[c]), names.kinds[c] or None) for c in order)
