"""Detects the persons in the keyframes of many videos and writes their boxes to a CSV (`detect-persons`)."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vmae_det.checkpoint.files import weights_checksum
from vmae_det.config import CfgNode
from vmae_det.config.checks import detects_with_person_head
from vmae_det.data import transforms
from vmae_det.data.catalog import DatasetSpec
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.box_csv import is_video_name
from vmae_det.formats.keyframes import rows_by_value
from vmae_det.formats.person_boxes import format_person_boxes
from vmae_det.inference.keyframe_clips import (
    ClipWithPersons,
    KeyframeClip,
    check_keyframe_count,
    plan_keyframes,
)
from vmae_det.inference.person_detectors import PersonDetector, build_person_detector
from vmae_det.inference.person_sources import PersonsOfModel
from vmae_det.inference.predictor import adapt_to_inference
from vmae_det.inference.scorers import load_scorer
from vmae_det.inference.stream import ActionStream, StreamOptions, collate_videos, to_keyframes
from vmae_det.utils import distributed
from vmae_det.utils.errors import ConfigError, DataError, UserError
from vmae_det.utils.logging import setup_logging
from vmae_det.utils.output_files import atomic_write, write_text
from vmae_det.utils.paths import local_path
from vmae_det.video.discovery import find_video_inputs, resolve_video_ids
from vmae_det.video.readers import VideoReader, open_video
from vmae_det.video.readers.base import locate_video
from vmae_det.video.sources import FileSource, is_endless

logger = logging.getLogger(__name__)

# Returns the CSV lines of the boxes of one video. The second argument hides the progress bar.
DetectVideo = Callable[["VideoKeyframes", bool | None], list[str]]


@dataclass(frozen=True)
class VideoKeyframes:
    """A video and its keyframes.

    Args:
        name: id of the video.
        path: a file, a folder of frames, or a member of a tar shard.
        start: second on the boxes' clock at which the file starts.
        times: keyframes in seconds on that clock; None: one every `every` seconds from the start.
        every: seconds between keyframes if `times` is None.
    """

    name: str
    path: Path
    start: float = 0.0
    times: tuple[float, ...] | None = None
    every: float = 1.0

    def keyframes(self, reader: VideoReader) -> np.ndarray:
        """Return the keyframes in seconds on the boxes' clock."""
        if self.times is not None:
            return np.array(self.times)
        count = reader.times[-1] / self.every + 1
        check_keyframe_count(count, len(reader), str(self.path))
        return self.start + self.every * np.arange(int(count))


def videos_from_paths(names: Sequence[str], start: float, every: float) -> list[VideoKeyframes]:
    """Return the given videos and those in the given folders, with regular keyframes.

    Videos are found and named as by `vmae-det detect`.

    Raises:
        DataError: there is no video, one is a live stream, two have the same name, or a name is not a valid
            video id.
    """
    files: dict[str, Path] = {}
    for found in find_video_inputs(names):
        if is_endless(found.video):
            raise DataError("a live stream, expected a video of finite length", found.video)
        file, name = local_path(found.video), found.stem.name
        if name in files:
            raise DataError(f"has the same name as {files[name]}; each video needs a unique name", file)
        if not is_video_name(name) or "," in name:
            raise DataError(f"'{name}' is not a valid video id in a CSV of boxes", file)
        files[name] = file
    return [VideoKeyframes(name, file, start, every=every) for name, file in files.items()]


def videos_from_dataset(spec: DatasetSpec) -> list[VideoKeyframes]:
    """Return the videos of a detection dataset, with the keyframes of its annotations."""
    if spec.type != "detection":
        raise ConfigError(f"--dataset: '{spec.name}' is of type '{spec.type}', expected 'detection'")
    rows = read_action_csv(spec.annotations)
    files = resolve_video_ids(rows.videos, spec.videos)
    numbers, rows_of_videos = rows_by_value(rows.video)
    return [
        VideoKeyframes(
            name := str(rows.videos[number]),
            files[number],
            spec.start_of(name),
            tuple(np.unique(rows.timestamp[video_rows]).tolist()),
        )
        for number, video_rows in zip(numbers.tolist(), rows_of_videos)
    ]


def parts_folder(output: Path) -> Path:
    """Return the folder that contains the boxes of each video until all videos are done."""
    return output.with_name(f".{output.name}.parts")


def detect_persons(cfg: CfgNode, videos: Sequence[VideoKeyframes], output: Path) -> None:
    """Detect the persons in the keyframes of all videos and write their boxes to `output`, a CSV.

    The processes of a distributed group share the videos. The boxes of each video are kept next to `output`,
    so that a run that was stopped can be resumed. A video is processed again if the detector's config, its
    file or its keyframes have changed.

    Raises:
        DataError: some videos cannot be read; the boxes of the others have been written.
    """
    setup_logging()
    parts = {video.name: parts_folder(output) / f"{_fingerprint(cfg, video)}.csv" for video in videos}
    remaining = [video for video in videos if not parts[video.name].exists()]
    if len(remaining) < len(videos) and distributed.is_main_process():
        logger.info("Resuming: %d of %d videos are done", len(videos) - len(remaining), len(videos))
    distributed.barrier()  # every process has listed the parts before any process adds one
    detect = _build_detector(cfg) if remaining else None
    problems: dict[str, str] = {}
    share = remaining[distributed.get_rank() :: distributed.get_world_size()]
    hidden = None if distributed.is_main_process() else True
    for video in tqdm(share, desc="detecting persons", unit="video", disable=hidden):
        try:
            lines = detect(video, hidden)
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
            f"{len(problems)} of {len(videos)} videos cannot be read, such as {first}; the boxes of the "
            "others are written; repair the videos and run the same command again to add theirs",
            output,
        )


def _build_detector(cfg: CfgNode) -> DetectVideo:
    """Build the detector; if that fails in any process, raise the error in all of them."""
    detect, problem = None, None
    try:
        if detects_with_person_head(cfg):
            detect = PersonHeadDetector(cfg)
        else:
            detect = partial(_detect_video, build_person_detector(cfg), cfg)
    except UserError as error:
        problem = error
    distributed.raise_together(problem)
    return detect


def _fingerprint(cfg: CfgNode, video: VideoKeyframes) -> str:
    """Return a hash of everything that determines the boxes of a video."""
    status = locate_video(video.path).file.stat()
    content = [
        sorted(cfg.PERSON_DETECTOR.items()),
        _person_head_facts(cfg),
        cfg.SEED,
        cfg.DATALOADER.READER,
        video.name,
        str(video.path.absolute()),
        [status.st_size, status.st_mtime_ns],
        [video.start, video.times, video.every],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _person_head_facts(cfg: CfgNode) -> list[str]:
    """Return what determines the boxes of a person head."""
    if not detects_with_person_head(cfg):
        return []
    sides = [*transforms.detection_short_sides(cfg), cfg.DATALOADER.DECODE_SMALLER, cfg.SOLVER.AMP]
    return [weights_checksum(cfg.MODEL.WEIGHTS), cfg.MODEL.dump(), cfg.INPUT.dump(), str(sides)]


class PersonHeadDetector:
    """Detects the persons of videos with the person head of MODEL.WEIGHTS.

    Its boxes are those of `vmae-det test` and of `vmae-det detect`.

    Raises:
        WeightsError: the weights cannot be read, or have no person head.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg = cfg.clone()
        adapt_to_inference(cfg)
        cfg.TEST.SHORT_SIDES = transforms.detection_short_sides(cfg)[:1]  # that of the first view
        self.scorer = load_scorer(cfg)

    def __call__(self, video: VideoKeyframes, hidden: bool | None) -> list[str]:
        """Return the CSV lines of the boxes of one video; `hidden`: show no progress bar."""
        cfg = self.cfg
        (side,) = cfg.TEST.SHORT_SIDES
        smaller = side if cfg.DATALOADER.DECODE_SMALLER else None
        source = FileSource(open_video(video.path, cfg.DATALOADER.READER, short_side=smaller))
        given = None if video.times is None else np.array(video.times) - video.start
        plan = plan_keyframes(source, cfg, given, video.every)
        persons = PersonsOfModel(self.find)
        options = StreamOptions(video.start)
        lines: list[str] = []
        with (
            ActionStream(source, plan, persons, _no_scores, cfg, options) as stream,
            tqdm(stream, video.name, len(plan.times), unit="keyframe", leave=False, disable=hidden) as bar,
        ):
            for result in bar:
                lines += format_person_boxes(video.name, result.timestamp, result.boxes, result.person_scores)
        if stream.truncated:
            raise DataError("cannot be read to its end", video.path)
        return lines

    def find(self, clips: Sequence[KeyframeClip]) -> list[ClipWithPersons]:
        """Return keyframe clips with the persons in them."""
        found = self.scorer.find(collate_videos(clips))
        return to_keyframes(clips, *found)


def _no_scores(clips: Sequence[ClipWithPersons]) -> list[np.ndarray]:
    raise AssertionError("the persons of a model have scores")


def _detect_video(
    detector: PersonDetector, cfg: CfgNode, video: VideoKeyframes, hidden: bool | None
) -> list[str]:
    """Return the CSV lines of the boxes of one video."""
    reader = open_video(video.path, cfg.DATALOADER.READER)
    times = video.keyframes(reader)
    indices = np.array([reader.index_at(time - video.start) for time in times])
    lines, decoded = [], 0
    with tqdm(total=len(times), desc=video.name, unit="keyframe", leave=False, disable=hidden) as bar:
        for numbers, frames in keyframe_batches(reader, indices, cfg.PERSON_DETECTOR.BATCH_SIZE):
            for number, frame, (boxes, scores) in zip(numbers, frames, detector.detect(frames)):
                height, width = frame.shape[:2]
                lines += format_person_boxes(
                    video.name, float(times[number]), boxes / [width, height, width, height], scores
                )
            decoded += len(frames)
            bar.update(numbers[-1] + 1 - bar.n)
    if not decoded:
        raise DataError("none of its keyframes can be decoded", video.path)
    if decoded < len(times):
        logger.warning(
            "%s: %d of %d keyframes cannot be decoded", video.path, len(times) - decoded, len(times)
        )
    return lines


def keyframe_batches(
    reader: VideoReader, indices: np.ndarray, size: int
) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Yield the numbers and frames of keyframes, without damaged ones; prefetches the next batch."""
    starts = range(0, len(indices), size)
    with ThreadPoolExecutor(1) as pool:
        prefetched = None
        for start in starts:
            current = prefetched or pool.submit(_read, reader, indices, start, size)
            following = start + size
            prefetched = pool.submit(_read, reader, indices, following, size) if following in starts else None
            numbers, frames = current.result()
            if frames:
                yield numbers, frames


def _read(
    reader: VideoReader, indices: np.ndarray, start: int, size: int
) -> tuple[list[int], list[np.ndarray]]:
    numbers = list(range(start, min(start + size, len(indices))))
    try:
        return numbers, list(reader.frames(indices[numbers]))
    except DataError:
        pass  # at least one frame is damaged: read them one by one
    good, frames = [], []
    for number in numbers:
        try:
            frames.append(reader.frames(indices[[number]])[0])
        except DataError:
            continue
        good.append(number)
    return good, frames


def _join(output: Path, parts: Sequence[Path], keep: bool) -> None:
    """Concatenate the parts in the order of the videos, and delete them unless `keep`."""
    rows = 0
    with atomic_write(output) as temporary, temporary.open("wb") as file:
        for part in parts:
            content = part.read_bytes()
            rows += content.count(b"\n")
            file.write(content)
    if not rows:
        logger.warning("%s is empty: no person was detected; try a lower PERSON_DETECTOR.SCORE", output)
    if not keep:
        shutil.rmtree(parts_folder(output), ignore_errors=True)
