"""When the frames of an annotated video are shown, and how large they are: by the video or its images, the
annotations, or the options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from vmae_det.dataset_tools.importers.frame_fit import describe_stretch
from vmae_det.dataset_tools.importers.keyframes import Clock
from vmae_det.dataset_tools.importers.names import frame_of_image
from vmae_det.dataset_tools.importers.options import ImportOptions, ImportReport
from vmae_det.dataset_tools.importers.tracks import AnnotatedVideo
from vmae_det.utils.errors import DataError
from vmae_det.video.readers import open_video
from vmae_det.video.readers.image_folder import image_size


def clock_of(
    video: AnnotatedVideo, file: Path | None, options: ImportOptions, report: ImportReport
) -> tuple[Clock, tuple[float, float]]:
    """The clock of a video's frame numbers, and the corner of its frames; DataError says what to give."""
    first = options.first_frame if video.first_frame is None else video.first_frame
    numbers = None
    steps = {"step": video.frame_step, "step_from": video.step_from}
    extent, rate, end = video.extent or _stated_size(options), video.rate, math.inf
    times = None
    if file is not None:
        reader = open_video(file)
        end = float(reader.times[-1]) + 1 / float(reader.rate)
        shown = tuple(float(side) for side in reader.frames(np.array([0])).shape[2:0:-1])
        extent = extent or shown
        report.notes += describe_stretch(video.name, extent, shown)
        if file.is_dir() and video.first_frame is None:
            numbers = _image_numbers(reader.files)
        counted = video.expected_frames in (None, len(reader))
        if counted or rate is None:
            times = reader.times
        elif not video.own_ticks:
            report.notes.append(
                f"{video.name}: its annotations count {video.expected_frames} frames, the file has "
                f"{len(reader)}; times are by their own rate, {rate:.3f} a second"
            )
    extent = extent or _size_of_picture(video, options)
    if extent is None:
        raise DataError(
            f"the annotations do not say the frame size of '{video.name}'; give --videos FOLDER with its "
            "file or images, or --frame-size WIDTHxHEIGHT"
        )
    if options.rate and not video.own_ticks:
        if numbers is not None:
            _compare_numbers(numbers, first, times, video, options, report)
            end = math.inf
        times, rate = None, options.rate
    if times is not None and not video.own_ticks:
        return Clock(first, times, 1.0, end, numbers=numbers, **steps), extent
    if rate is None:
        raise DataError(
            f"the annotations do not say the frame rate of '{video.name}'; give --videos FOLDER with its "
            "file, or --rate FPS"
        )
    return Clock(first, None, rate, end, **steps), extent


def _stated_size(options: ImportOptions) -> tuple[float, float] | None:
    return None if options.frame_size is None else tuple(float(side) for side in options.frame_size)


def _size_of_picture(video: AnnotatedVideo, options: ImportOptions) -> tuple[float, float] | None:
    """Width and height of an image that the annotations name, in the folder of videos or in its own."""
    if video.picture is None or options.videos is None:
        return None
    name = PurePosixPath(video.picture.replace("\\", "/"))
    places = (options.videos / name, options.videos / name.name, options.videos / video.name / name.name)
    path = next((place for place in places if place.is_file()), None)
    return None if path is None else tuple(float(side) for side in image_size(path))


def _image_numbers(files: Sequence[Path]) -> np.ndarray | None:
    """The numbers in the names of images, which ascend; None where they are no such numbers."""
    try:
        numbers = np.array([frame_of_image(path.name)[1] for path in files])
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
    """Note where images are shown at other times than their numbers and --rate say."""
    apart = np.abs((numbers - first) / options.rate - times)
    wrong = np.flatnonzero(apart > 0.5 / options.rate + 1e-9)
    if len(wrong):
        number, shown = numbers[wrong[0]], times[wrong[0]]
        report.notes.append(
            f"WARNING: {video.name}: {len(wrong)} of {len(numbers)} images are not shown when their numbers "
            f"and --rate {options.rate:g} say: image {number} at second {shown:.3f}, not "
            f"{(number - first) / options.rate:.3f}. Training would put its boxes on other images: leave "
            "--rate away, write rate.txt, or add the images that are missing"
        )
