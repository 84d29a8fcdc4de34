"""Detected actions drawn over a whole video."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vmae_det.data.readers import VideoReader, open_video
from vmae_det.inference.detections import ActionDetections
from vmae_det.inference.tracking import Tracks, link
from vmae_det.utils.errors import DataError
from vmae_det.visualization.overlay import Habit, PersonOverlay, draw_people
from vmae_det.visualization.plates import ActionLabel
from vmae_det.visualization.timeline import ActionSpan, Timeline
from vmae_det.visualization.video_writer import VideoWriter

logger = logging.getLogger(__name__)


def write_overlay(
    detections: ActionDetections,
    path: Path,
    *,
    top_k: int = 3,
    threshold: float = 0.3,
    timeline: bool = False,
    typeface: str | None = None,
    progress: bool = False,
) -> Path:
    """Write the video of `detections` with boxes and actions on every frame, and with its sound.

    Frames are those of the readers: upright, each at its own time. Between keyframes boxes are interpolated;
    a person keeps the actions of the nearest keyframe.

    Args:
        top_k: at most so many actions a person.
        threshold: actions that score less are left out.
        timeline: add a strip under the video that shows the best action of each person over time.
        typeface: a font file for names in scripts that the usual typefaces lack; as of `fonts.load_font`.
        progress: show a bar.

    Raises:
        DataError: the video cannot be read.
        UserError: the file cannot be written, or there is no such typeface.
    """
    tracks = link(detections.timestamp, detections.boxes)
    labels = [_labels(detections, row, top_k, threshold) for row in range(len(detections))]
    reader = open_video(detections.video)
    start = detections.video_start
    memory: dict[int, Habit] = {}

    def draw(time: float, frame: np.ndarray) -> np.ndarray:
        size = np.tile(frame.shape[1::-1], 2)
        people = [
            PersonOverlay(tuple(box * size), labels[row], int(tracks.track[row]))
            for row, box in tracks.at(time + start)
        ]
        options = {"top_k": top_k, "threshold": threshold, "memory": memory, "typeface": typeface}
        return draw_people(frame, people, **options)

    def strip_for(frame_size: tuple[int, int]) -> Timeline:
        return Timeline.of_video(_spans(tracks, labels), start, start + _end(reader), frame_size, typeface)

    _redraw(reader, path, draw, strip_for if timeline else None, start, progress)
    return path


def _redraw(
    reader: VideoReader,
    path: Path,
    draw: Callable[[float, np.ndarray], np.ndarray],
    strip_for: Callable[[tuple[int, int]], Timeline] | None,
    start: float,
    progress: bool,
) -> None:
    """Write the frames of a video as `draw` gives them, upright, at their own times, with their sound.

    Below them comes the timeline that `strip_for` gives for their size; `start` is its time at the video's 0.
    """
    sound = reader.path if reader.path.is_file() else None
    hidden = None if progress else True
    written, writer, strip = 0, None, None
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(reader), desc="drawing", unit="frame", disable=hidden))
        for index, frame in reader.stream():
            time = float(reader.times[index])
            picture = draw(time, frame)
            if strip_for is not None:
                strip = strip or strip_for(frame.shape[:2])
                picture = np.vstack([picture, strip.draw(start + time)])
            if writer is None:
                height, width = picture.shape[:2]
                writer = stack.enter_context(VideoWriter(path, width, height, reader.rate, sound))
            writer.write(picture, reader.start + time)
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


def _end(reader: VideoReader) -> float:
    """Seconds at which the last frame ends."""
    return float(reader.times[-1]) + 1 / float(reader.rate)


def _labels(detections: ActionDetections, row: int, top_k: int, threshold: float) -> tuple[ActionLabel, ...]:
    """The actions of a row that are drawn, by falling score."""
    scores, names = detections.scores[row], detections.label_map
    order = [c for c in np.argsort(-scores, kind="stable")[:top_k] if scores[c] >= threshold]
    return tuple(ActionLabel(names.names[c], float(scores[c]), names.kinds[c] or None) for c in order)


def _spans(tracks: Tracks, labels: Sequence[Sequence[ActionLabel]]) -> list[ActionSpan]:
    """The best action of each row; from one keyframe's to the next's changes half-way."""
    spans = []
    for track, rows in tracks.rows.items():
        times = tracks.timestamp[rows]
        borders = [times[0] - tracks.reach, *(times[:-1] + times[1:]) / 2, times[-1] + tracks.reach]
        spans += [
            ActionSpan(int(track), float(start), float(end), labels[row][0])
            for row, start, end in zip(rows, borders, borders[1:])
            if labels[row]
        ]
    return spans
