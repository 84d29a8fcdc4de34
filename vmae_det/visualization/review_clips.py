"""Writes short clips of videos for a page: H.264, which every browser plays, and a picture of the keyframe.

A clip is named after the video, the time and the settings, so a second call writes the missing clips only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from vmae_det.dataset_tools.isolated_map import WorkerFailure, isolated_map
from vmae_det.utils.cpu import count_cores
from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.output_files import atomic_write
from vmae_det.video.readers import VideoReader, open_video
from vmae_det.video.readers.base import locate_video, reduced_size
from vmae_det.video.sampling import frames_around
from vmae_det.video.writer import VideoWriter

MAX_RATE = 15.0  # frames per second
SHORT_SIDE = 360  # pixels
_CRF = 26  # a third smaller than the default, and still sharp at the size of the page
_JPEG_QUALITY = 80
_PICTURE_SIDE = 180  # short side of the picture of the keyframe
_TIMEOUT = 1800  # seconds for the clips of one video
_MAX_WORKERS = 16


class Moment(NamedTuple):
    """What a clip shows.

    Attributes:
        second: time in the file, from its first frame; None for the middle of the video.
        span: seconds before and after it.
    """

    second: float | None
    span: float


@dataclass(frozen=True)
class Clip:
    """A clip and its keyframe.

    Attributes:
        name: NAME.mp4 and NAME.jpg are the files; "" if there is no clip.
        at: second of the keyframe in the clip.
        problem: why there is no clip.
    """

    name: str = ""
    at: float = 0.0
    problem: str = ""


def write_clips(
    moments: Mapping[Path, Iterable[Moment]], folder: Path, workers: int | None = None
) -> dict[tuple[Path, Moment], Clip]:
    """Write the clips of videos into a folder, in parallel, and delete other clips there.

    Args:
        moments: the clips of each video.
        folder: folder of the clips.
        workers: number of processes. None: one for each CPU, at most 16.

    Returns:
        The clips. Those that cannot be read have a `problem`.

    Raises:
        UserError: a file cannot be written.
    """
    jobs = {str(path): tuple(dict.fromkeys(wanted)) for path, wanted in moments.items()}
    write = partial(_write_clips_of, jobs=jobs, folder=folder)
    results: dict[tuple[Path, Moment], Clip] = {}
    count = workers or min(count_cores(), _MAX_WORKERS)
    for path, clips in isolated_map(write, jobs, count, _TIMEOUT, "writing clips"):
        if isinstance(clips, UserError):
            raise clips
        if isinstance(clips, WorkerFailure):
            clips = [Clip(problem=str(clips))] * len(jobs[path])
        results |= {(Path(path), moment): clip for moment, clip in zip(jobs[path], clips)}
    _delete_others(folder, {clip.name for clip in results.values()})
    return results


def _delete_others(folder: Path, names: set[str]) -> None:
    for path in folder.glob("*.*") if folder.is_dir() else ():
        if re.fullmatch(r"[0-9a-f]{16}\.(mp4|jpg)", path.name) and path.stem not in names:
            path.unlink()


def _write_clips_of(path: str, jobs: Mapping[str, Sequence[Moment]], folder: Path) -> list[Clip] | UserError:
    """Write the clips of one video, in a worker process."""
    try:
        reader = open_video(path, short_side=SHORT_SIDE)
        identity = _identity(path)
    except DataError as error:
        return [Clip(problem=error.problem)] * len(jobs[path])
    clips = []
    for moment in jobs[path]:
        try:
            clips.append(_write_clip(reader, moment, folder, identity))
        except DataError as error:
            clips.append(Clip(problem=error.problem))
        except UserError as error:
            return error
    return clips


def _identity(path: str) -> str:
    status = locate_video(path).file.stat()
    return f"{path}|{status.st_size}|{status.st_mtime_ns}|{MAX_RATE}|{SHORT_SIDE}|{_CRF}|{_PICTURE_SIDE}"


def _write_clip(reader: VideoReader, moment: Moment, folder: Path, identity: str) -> Clip:
    times = reader.times
    keyframe = reader.index_at(float(times[-1]) / 2 if moment.second is None else moment.second)
    wanted = frames_around(times, float(times[keyframe]), moment.span, MAX_RATE)
    name = hashlib.sha256(f"{identity}|{keyframe}|{moment.span}".encode()).hexdigest()[:16]
    video, picture = folder / f"{name}.mp4", folder / f"{name}.jpg"
    if not (video.is_file() and picture.is_file()):
        _encode(reader, wanted, keyframe, video, picture)
    return Clip(name, float(times[keyframe] - times[wanted[0]]))


def _encode(reader: VideoReader, wanted: np.ndarray, keyframe: int, video: Path, picture: Path) -> None:
    """Write the frames as a video, and the one nearest to the keyframe as a picture."""
    frames = reader.stream(wanted=wanted)
    first = next(frames, None)
    if first is None:
        raise DataError("none of the frames at this time can be decoded", reader.path)
    times, (height, width), nearest = reader.times, first[1].shape[:2], first
    duration = float(times[wanted[-1]] - times[wanted[0]])
    rate = Fraction((len(wanted) - 1) / duration) if duration > 0 else reader.rate
    with VideoWriter(video, width, height, rate, crf=_CRF) as writer:
        # The clip starts at the first frame that was wanted, even if that one is damaged.
        writer.write(first[1], float(times[wanted[0]]))
        for index, frame in frames:
            writer.write(frame, float(times[index]))
            nearest = min(nearest, (index, frame), key=lambda entry: abs(entry[0] - keyframe))
    width, height = reduced_size(width, height, _PICTURE_SIDE)
    frame = cv2.resize(nearest[1], (width, height), interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    with atomic_write(picture) as temporary:
        temporary.write_bytes(jpeg.tobytes())
