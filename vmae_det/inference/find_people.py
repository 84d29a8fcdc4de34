"""People in the keyframes of many videos, written as a file of person boxes."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vmae_det.config import CfgNode
from vmae_det.data.catalog import DatasetSpec
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.box_csv import is_video_name
from vmae_det.formats.keyframes import rows_by_value
from vmae_det.formats.person_boxes import format_person_boxes
from vmae_det.inference.clips import check_number_of_keyframes
from vmae_det.inference.person_detectors import PersonDetector, build_person_detector
from vmae_det.utils import distributed
from vmae_det.utils.errors import ConfigError, DataError, UserError
from vmae_det.utils.logging import setup_logging
from vmae_det.utils.output_files import atomic_write, write_text
from vmae_det.utils.paths import local_path
from vmae_det.video.discovery import find_video_inputs, resolve_video_ids
from vmae_det.video.readers import VideoReader, open_video
from vmae_det.video.readers.base import locate_video

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keyframed:
    """A video and its keyframes.

    Args:
        name: the video's id.
        path: the file, a folder of frames, or a place in a tar shard.
        start: second of the boxes' clock at which the file starts.
        times: keyframes, seconds on that clock; None: every `every` seconds from the start on.
    """

    name: str
    path: Path
    start: float = 0.0
    times: tuple[float, ...] | None = None
    every: float = 1.0

    def keyframes(self, reader: VideoReader) -> np.ndarray:
        """Seconds on the boxes' clock."""
        if self.times is not None:
            return np.array(self.times)
        count = reader.times[-1] / self.every + 1
        check_number_of_keyframes(count, len(reader), str(self.path))
        return self.start + self.every * np.arange(int(count))


def videos_at(names: Sequence[str], start: float, every: float) -> list[Keyframed]:
    """The videos named, and those below the folders named (see `find_video_inputs`).

    Raises:
        DataError: there is none, one has no end, two have one name, or a name cannot stand in a table.
    """
    files: dict[str, Path] = {}
    for found in find_video_inputs(names):
        if found.is_live:
            raise DataError("a live stream, expected videos that have an end", found.video)
        file, name = local_path(found.video), found.stem.name
        if name in files:
            raise DataError(f"has the name of {files[name]}; boxes are told apart by names", file)
        if not is_video_name(name) or "," in name:
            raise DataError(f"'{name}' cannot be a video's id in a table of boxes", file)
        files[name] = file
    return [Keyframed(name, file, start, every=every) for name, file in files.items()]


def annotated_videos(spec: DatasetSpec) -> list[Keyframed]:
    """The videos of a detection dataset, with the keyframes that its annotations name."""
    if spec.type != "detection":
        raise ConfigError(f"--dataset: '{spec.name}' is of type '{spec.type}', expected 'detection'")
    rows = read_action_csv(spec.annotations)
    files = resolve_video_ids(rows.videos, spec.videos)
    numbers, rows_of = rows_by_value(rows.video)
    return [
        Keyframed(
            name := str(rows.videos[number]),
            files[number],
            spec.start_of(name),
            tuple(np.unique(rows.timestamp[own]).tolist()),
        )
        for number, own in zip(numbers.tolist(), rows_of)
    ]


def parts_folder(output: Path) -> Path:
    """Where the boxes of each video are kept until those of all are there."""
    return output.with_name(f".{output.name}.parts")


def find_people(cfg: CfgNode, videos: Sequence[Keyframed], output: Path) -> None:
    """Write the people in the keyframes of all videos to `output`, a CSV of person boxes.

    Every process of a group takes its share of the videos. What is done stays beside `output`, by video, so
    that a run that was stopped goes on where it was; a change of the detector, of a video's file or of its
    keyframes has it done again.

    Raises:
        DataError: some of the videos cannot be read; the others' boxes are written.
    """
    setup_logging()
    parts = {video.name: parts_folder(output) / f"{_fingerprint(cfg, video)}.csv" for video in videos}
    left = [video for video in videos if not parts[video.name].exists()]
    if len(left) < len(videos) and distributed.is_main_process():
        logger.info("%d of %d videos are done already", len(videos) - len(left), len(videos))
    distributed.barrier()  # all have looked before one makes more of them
    detector = _build(cfg) if left else None
    problems: dict[str, str] = {}
    own = left[distributed.get_rank() :: distributed.get_world_size()]
    hidden = None if distributed.is_main_process() else True
    for video in tqdm(own, desc="finding people", unit="video", disable=hidden):
        try:
            lines = _people_of(video, detector, cfg, hidden)
        except DataError as error:
            problems[video.name] = str(error)
            logger.error("%s", error)
            continue
        write_text(parts[video.name], "".join(lines))
    problems = {name: text for each in distributed.all_gather_object(problems) for name, text in each.items()}
    if distributed.is_main_process():
        _join(output, [path for path in parts.values() if path.exists()], bool(problems))
    if problems:
        first = next(iter(problems.values()))
        raise DataError(
            f"{len(problems)} of {len(videos)} videos cannot be read, such as {first}; the others' boxes are "
            "written, and the same command goes on with those that are mended",
            output,
        )


def _build(cfg: CfgNode) -> PersonDetector:
    """The detector, or the error of whichever process cannot build it."""
    detector, problem = None, None
    try:
        detector = build_person_detector(cfg)
    except UserError as error:
        problem = error
    distributed.raise_together(problem)
    return detector


def _fingerprint(cfg: CfgNode, video: Keyframed) -> str:
    """What the boxes of a video follow from, as a name."""
    status = locate_video(video.path).file.stat()
    content = [
        sorted(cfg.PERSON_DETECTOR.items()),
        cfg.SEED,
        cfg.DATALOADER.READER,
        video.name,
        str(video.path.absolute()),
        [status.st_size, status.st_mtime_ns],
        [video.start, video.times, video.every],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _people_of(video: Keyframed, detector: PersonDetector, cfg: CfgNode, hidden: bool | None) -> list[str]:
    """Lines of the boxes of one video."""
    reader = open_video(video.path, cfg.DATALOADER.READER)
    times = video.keyframes(reader)
    indices = np.array([reader.index_at(time - video.start) for time in times])
    lines, seen = [], 0
    with tqdm(total=len(times), desc=video.name, unit="keyframe", leave=False, disable=hidden) as bar:
        for numbers, frames in _batches(reader, indices, cfg.PERSON_DETECTOR.BATCH_SIZE):
            for number, frame, (boxes, scores) in zip(numbers, frames, detector.detect(frames)):
                height, width = frame.shape[:2]
                lines += format_person_boxes(
                    video.name, float(times[number]), boxes / [width, height, width, height], scores
                )
            seen += len(frames)
            bar.update(numbers[-1] + 1 - bar.n)
    if not seen:
        raise DataError("none of its keyframes can be decoded", video.path)
    if seen < len(times):
        logger.warning("%s: %d of %d keyframes cannot be decoded", video.path, len(times) - seen, len(times))
    return lines


def _batches(
    reader: VideoReader, indices: np.ndarray, size: int
) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Numbers of keyframes and their frames, less damaged ones; the next are decoded meanwhile."""
    starts = range(0, len(indices), size)
    with ThreadPoolExecutor(1) as pool:
        coming = None
        for first in starts:
            read = coming or pool.submit(_read, reader, indices, first, size)
            following = first + size
            coming = pool.submit(_read, reader, indices, following, size) if following in starts else None
            numbers, frames = read.result()
            if frames:
                yield numbers, frames


def _read(
    reader: VideoReader, indices: np.ndarray, first: int, size: int
) -> tuple[list[int], list[np.ndarray]]:
    numbers = list(range(first, min(first + size, len(indices))))
    try:
        return numbers, list(reader.frames(indices[numbers]))
    except DataError:
        pass  # one of them is damaged: which?
    good, frames = [], []
    for number in numbers:
        try:
            frames.append(reader.frames(indices[[number]])[0])
        except DataError:
            continue
        good.append(number)
    return good, frames


def _join(output: Path, parts: Sequence[Path], keep: bool) -> None:
    """All boxes in one file, in the order of the videos; the parts go unless there is more to come."""
    rows = 0
    with atomic_write(output) as temporary, temporary.open("wb") as file:
        for part in parts:
            content = part.read_bytes()
            rows += content.count(b"\n")
            file.write(content)
    if not rows:
        logger.warning("%s: empty, for no person was found; PERSON_DETECTOR.SCORE may be too high", output)
    if not keep:
        shutil.rmtree(parts_folder(output), ignore_errors=True)
