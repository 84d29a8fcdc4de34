"""Frame times and frame size of an annotated video, and checks that its boxes fit the frame.

Both come from the video file or its images, from the annotations, or from the options. Tools differ in box
units, frame sizes and box forms, so boxes that do not fit the frame are reported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from vmae_det.dataset_tools.importers.base import ImportOptions, ImportReport
from vmae_det.dataset_tools.importers.file_names import parse_image_name
from vmae_det.dataset_tools.importers.keyframes import FrameClock
from vmae_det.dataset_tools.importers.tracks import PERCENT, AnnotatedVideo
from vmae_det.utils.errors import DataError
from vmae_det.video.readers import open_video
from vmae_det.video.readers.image_folder import image_size

_MIN_SIDE = 16  # pixels; in larger frames, a box of one pixel is not a person
_MAX_OUTSIDE = 0.05  # of the frame's side; hand-drawn boxes overshoot the edge by less
_MAX_STRETCH = 1.05


def frame_clock_and_size(
    video: AnnotatedVideo, file: Path | None, options: ImportOptions, report: ImportReport
) -> tuple[FrameClock, tuple[float, float]]:
    """Return the clock of a video's frame numbers, and the frame size in the units of the boxes.

    Raises:
        DataError: one of them is unknown; the error names the option that sets it.
    """
    first = options.first_frame if video.first_frame is None else video.first_frame
    numbers = None
    steps = {"step": video.frame_step, "step_offset": video.step_offset}
    size, rate, end = video.frame_size or _size_option(options), video.frame_rate, math.inf
    times = None
    if file is not None:
        reader = open_video(file)
        end = float(reader.times[-1]) + 1 / float(reader.rate)
        file_size = tuple(float(side) for side in reader.frames(np.array([0])).shape[2:0:-1])
        size = size or file_size
        report.notes += aspect_ratio_warning(video.name, size, file_size)
        if file.is_dir() and video.first_frame is None:
            numbers = _image_numbers(reader.files)
        same_count = video.expected_frames in (None, len(reader))
        if same_count or rate is None:
            times = reader.times
        elif not video.frames_are_ticks:
            report.notes.append(
                f"{video.name}: the annotations count {video.expected_frames} frames, but the file has "
                f"{len(reader)}; times are computed from the annotations' frame rate, {rate:.3f} fps"
            )
    size = size or _size_of_image(video, options)
    if size is None:
        raise DataError(
            f"the annotations do not contain the frame size of '{video.name}'; pass --videos FOLDER with its "
            "file or images, or --frame-size WIDTHxHEIGHT"
        )
    if options.rate and not video.frames_are_ticks:
        if numbers is not None:
            _compare_numbers(numbers, first, times, video, options, report)
            end = math.inf
        times, rate = None, options.rate
    if times is not None and not video.frames_are_ticks:
        return FrameClock(first, times, 1.0, end, numbers=numbers, **steps), size
    if rate is None:
        raise DataError(
            f"the annotations do not contain the frame rate of '{video.name}'; pass --videos FOLDER with its "
            "file, or --rate FPS"
        )
    return FrameClock(first, None, rate, end, **steps), size


def _size_option(options: ImportOptions) -> tuple[float, float] | None:
    return None if options.frame_size is None else tuple(float(side) for side in options.frame_size)


def _size_of_image(video: AnnotatedVideo, options: ImportOptions) -> tuple[float, float] | None:
    """Return width and height of the image that the annotations name, from --videos; None without one."""
    if video.image_name is None or options.videos is None:
        return None
    name = PurePosixPath(video.image_name.replace("\\", "/"))
    candidates = (options.videos / name, options.videos / name.name, options.videos / video.name / name.name)
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    return None if path is None else tuple(float(side) for side in image_size(path))


def _image_numbers(files: Sequence[Path]) -> np.ndarray | None:
    """Return the frame numbers in the names of images; None if there are none or they are not ascending."""
    try:
        numbers = np.array([parse_image_name(path.name)[1] for path in files])
    except DataError:
        return None
    return numbers if (np.diff(numbers) > 0).all() else None


def _compare_numbers(
    numbers: np.ndarray,
    first: int,
    times: np.ndarray,
    video: AnnotatedVideo,
    options: ImportOptions,
    report: ImportReport,
) -> None:
    """Add a warning if images are shown at other times than their numbers and --rate give."""
    difference = np.abs((numbers - first) / options.rate - times)
    wrong = np.flatnonzero(difference > 0.5 / options.rate + 1e-9)
    if len(wrong):
        number, time = numbers[wrong[0]], times[wrong[0]]
        report.notes.append(
            f"WARNING: {video.name}: {len(wrong)} of {len(numbers)} images are not shown at the time that "
            f"their number and --rate {options.rate:g} give: image {number} is shown at {time:.3f} s, not at "
            f"{(number - first) / options.rate:.3f} s. Training would put its boxes on other images. Omit "
            "--rate, write rate.txt, or add the missing images"
        )


def check_box_units(video: AnnotatedVideo, frame_size: tuple[float, float]) -> None:
    """Raise a DataError if all boxes are inside the first pixel of large frames: they are relative boxes."""
    sides = [side for track in video.tracks for point in track.points if point.box for side in point.box]
    if sides and max(map(abs, sides)) <= 1.5 and min(frame_size) > _MIN_SIDE:
        raise DataError(
            f"expected boxes of '{video.name}' in units of its frames, {frame_size[0]:g} x "
            f"{frame_size[1]:g}, got no coordinate above {max(sides):g}; they look like relative boxes in "
            "[0, 1]"
        )


def boxes_outside_warning(video: AnnotatedVideo, frame_size: tuple[float, float]) -> list[str]:
    """Return a warning if boxes reach far outside the frame, else nothing."""
    boxes = [point.box for track in video.tracks for point in track.points if point.box]
    slack = [_MAX_OUTSIDE * side for side in frame_size]
    far = sum(
        any(box[i] < -slack[i] or box[i + 2] > frame_size[i] + slack[i] for i in (0, 1)) for box in boxes
    )
    if not far:
        return []
    return [
        f"WARNING: {video.name}: {far} of {len(boxes)} boxes reach far outside the frame of "
        f"{frame_size[0]:g} x {frame_size[1]:g} and are clipped to it; check the frame size, and whether "
        "boxes are x1, y1, x2, y2 or x, y, width, height"
    ]


def aspect_ratio_warning(name: str, annotated: tuple[float, float], actual: tuple[float, float]) -> list[str]:
    """Return a warning if the annotated frames have another aspect ratio than the file's, else nothing."""
    stretch = annotated[0] / annotated[1] * actual[1] / actual[0]
    if annotated == PERCENT or 1 / _MAX_STRETCH < stretch < _MAX_STRETCH:
        return []
    return [
        f"WARNING: {name}: annotated frames are {annotated[0]:g} x {annotated[1]:g}, but the file has "
        f"{actual[0]:g} x {actual[1]:g}; boxes are correct only if the frames were stretched, not if they "
        "were rotated, cropped or padded"
    ]
