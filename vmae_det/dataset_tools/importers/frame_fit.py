"""Whether boxes fit the frames that they are said to lie in: units, frame sizes and forms of boxes differ
from tool to tool, and what does not fit gives boxes in wrong places."""

from __future__ import annotations

from vmae_det.dataset_tools.importers.tracks import PERCENT, AnnotatedVideo
from vmae_det.utils.errors import DataError

_MIN_SIDE = 16  # of frames in which a box of one pixel is no box of a person
_MAX_OUTSIDE = 0.05  # of the frame's side; by less, people who draw boxes miss the edge
_MAX_STRETCH = 1.05


def check_unit(video: AnnotatedVideo, extent: tuple[float, float]) -> None:
    """DataError where all boxes lie in the first pixel of large frames: they are relative to the frame."""
    sides = [side for track in video.tracks for point in track.points if point.box for side in point.box]
    if sides and max(map(abs, sides)) <= 1.5 and min(extent) > _MIN_SIDE:
        raise DataError(
            f"the boxes of '{video.name}' must be in units of its frames, {extent[0]:g} x {extent[1]:g}, and "
            f"no coordinate is above {max(sides):g}; they look like boxes in [0, 1]"
        )


def describe_cut(video: AnnotatedVideo, extent: tuple[float, float]) -> list[str]:
    """A warning where boxes reach far outside the frame, or nothing."""
    boxes = [point.box for track in video.tracks for point in track.points if point.box]
    slack = [_MAX_OUTSIDE * side for side in extent]
    far = sum(any(box[i] < -slack[i] or box[i + 2] > extent[i] + slack[i] for i in (0, 1)) for box in boxes)
    if not far:
        return []
    return [
        f"WARNING: {video.name}: {far} of {len(boxes)} boxes reach far outside the frame of {extent[0]:g} x "
        f"{extent[1]:g} and are cut to it; check the frame size, and whether boxes are corners or "
        "width and height"
    ]


def describe_stretch(name: str, extent: tuple[float, float], frame: tuple[float, float]) -> list[str]:
    """A warning where the annotated frames have another shape than the file's, `frame`, or nothing."""
    stretch = extent[0] / extent[1] * frame[1] / frame[0]
    if extent == PERCENT or 1 / _MAX_STRETCH < stretch < _MAX_STRETCH:
        return []
    return [
        f"WARNING: {name}: frames of {extent[0]:g} x {extent[1]:g} were annotated, and the "
        f"file shows {frame[0]:g} x {frame[1]:g}; boxes are right only if one is the other stretched, not if "
        "it was turned, cut or padded"
    ]
