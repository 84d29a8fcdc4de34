"""Detected actions drawn over a whole video."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vmae_det.inference.detections import ActionDetections
from vmae_det.rendering.overlay_writer import OverlayStyle, OverlayWriter
from vmae_det.video.readers import open_video
from vmae_det.video.sources import FileSource

logger = logging.getLogger(__name__)


def write_overlay(
    detections: ActionDetections, path: Path, style: OverlayStyle | None = None, progress: bool = False
) -> Path:
    """Write the video of `detections` with boxes and actions on every frame, and with its sound.

    Frames are those of the readers: upright, each at its own time. Between keyframes boxes are interpolated;
    a person keeps the actions of the nearest keyframe.

    Args:
        style: what is drawn; None: as OverlayStyle has it.
        progress: show a bar.

    Raises:
        DataError: the video cannot be read.
        UserError: the file cannot be written, or there is no such typeface.
    """
    reader = open_video(detections.video)
    source = FileSource(reader)
    moments = np.unique(detections.timestamp)
    spacing = float(np.median(np.diff(moments))) if len(moments) > 1 else 1.0
    writer = OverlayWriter(
        path, source, detections.label_map, spacing, style or OverlayStyle(), overlap=False
    )
    hidden, drawn = None if progress else True, 0
    with writer, tqdm(total=len(reader), desc="drawing", unit="frame", disable=hidden) as bar:
        for keyframe in detections.keyframes():
            writer.write(keyframe)
        for frame in source.frames():
            writer.frame(frame, -math.inf)  # it waits for no keyframe
            bar.update(frame.index + 1 - bar.n)
            drawn += 1
    if drawn < len(reader):
        logger.warning(
            "%s: %d of its frames are damaged; those before stand in their place",
            detections.video,
            len(reader) - drawn,
        )
    return path
