"""Detected actions drawn over a whole video."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from vmae_det.inference.predictor import ActionDetections
from vmae_det.inference.tracking import link
from vmae_det.utils.errors import DataError
from vmae_det.visualization.overlay import ActionLabel, PersonOverlay, draw_people
from vmae_det.visualization.video_writer import VideoWriter


def write_overlay(
    detections: ActionDetections,
    path: Path,
    *,
    top_k: int = 3,
    threshold: float = 0.3,
    progress: bool = False,
) -> Path:
    """Write the video of `detections` with boxes and actions on every frame, at its own rate, with its sound.

    Between keyframes boxes are interpolated; a person keeps the actions of the nearest keyframe.
    """
    tracks = link(detections.timestamp, detections.boxes)
    labels = [_labels(detections, row) for row in range(len(detections))]
    memory: dict[int, tuple[float, float]] = {}
    try:
        with av.open(str(detections.video)) as source:
            stream = source.streams.video[0]
            stream.thread_type = "AUTO"
            frames = source.decode(stream)
            first = next(frames)
            start = float(first.time or 0)
            height, width = first.height, first.width
            size = np.array([width, height, width, height])
            with (
                VideoWriter(path, width, height, stream.average_rate, audio_from=detections.video) as writer,
                tqdm(
                    total=stream.frames or None,
                    desc="drawing",
                    unit="frame",
                    disable=None if progress else True,
                ) as bar,
            ):
                frame = first
                while frame is not None:
                    time = float(frame.time or 0) - start
                    people = [
                        PersonOverlay(tuple(box * size), labels[row], int(tracks.track[row]))
                        for row, box in tracks.at(time + detections.video_start)
                    ]
                    picture = draw_people(
                        frame.to_ndarray(format="rgb24"),
                        people,
                        top_k=top_k,
                        threshold=threshold,
                        memory=memory,
                    )
                    writer.write(picture, time + start)
                    bar.update()
                    frame = next(frames, None)
    except (av.FFmpegError, StopIteration, IndexError) as error:
        raise DataError(f"cannot be decoded from end to end: {error}", detections.video) from None
    return path


def _labels(detections: ActionDetections, row: int) -> tuple[ActionLabel, ...]:
    scores, names = detections.scores[row], detections.label_map
    order = np.argsort(-scores, kind="stable")
    return tuple(ActionLabel(names.names[c], float(scores[c]), names.kinds[c] or None) for c in order)
