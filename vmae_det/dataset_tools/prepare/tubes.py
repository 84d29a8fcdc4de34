"""Steps shared by datasets annotated with tubes, in every frame.

Frame numbers are converted to seconds by the videos' frame times. Tubes are kept for video-mAP.
"""

from __future__ import annotations

import argparse
import functools
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import polars as pl

from vmae_det.dataset_tools.prepare.detection import (
    NO_PERSON_BOXES,
    VideoStatus,
    check_link_folder,
    find_videos_by_id,
    link_videos,
    rows_of,
    run_checker,
    video_status,
    write_dataset_file,
)
from vmae_det.dataset_tools.prepare.files import write_label_map
from vmae_det.dataset_tools.prepare.preparers import Outcome
from vmae_det.dataset_tools.prepare.video_jobs import Journal, run_video_jobs
from vmae_det.formats.ava_csv import ActionBoxes, write_action_csv
from vmae_det.formats.box_csv import COORDINATES
from vmae_det.formats.person_boxes import PersonBoxes, read_person_boxes, write_person_boxes
from vmae_det.formats.tube_pickles import Tube, TubeAnnotations
from vmae_det.utils.errors import DataError
from vmae_det.utils.output_files import atomic_write
from vmae_det.video.readers import open_video

FRAME_TIMES_TIMEOUT = 600  # seconds to read the frame times of one video
PARTS = ("train", "val")


def prepare_tubes(
    splits: Mapping[Path, tuple[list[str], list[str]]],
    official: TubeAnnotations,
    folder: Path,
    args: argparse.Namespace,
    not_scored: Collection[str] = (),
) -> Outcome:
    """Write `folder/videos`, and the files of the training and the test set to the folder of each split.

    Args:
        splits: folder of a split to the videos of its training and test set, as named in `official.tubes`.
        official: content of the official annotation file.
        not_scored: names of classes that the metric ignores.

    Raises:
        DataError: an official file is invalid, or none of the videos exists.
    """
    check_link_folder(folder / "videos", args.videos)
    persons = read_person_boxes(args.person_boxes) if args.person_boxes else None
    ids = _video_ids(official, args)
    status, times = _frame_times(ids, folder, args)
    link_videos(status.paths, args.videos, folder / "videos")
    scored = {i: name for i, name in enumerate(official.labels, start=1) if name not in not_scored}
    write_label_map(folder / "actions.pbtxt", dict(enumerate(official.labels, start=1)))
    if not_scored:
        write_label_map(folder / "scored_actions.pbtxt", scored)
    made, remarks, files = [f"{folder}: {len(status.paths)} videos"], [], []
    for split_folder, split in splits.items():
        for part, videos in zip(PARTS, split):
            kept = {ids[video]: official.tubes[video] for video in videos if ids[video] in times}
            rows, dropped = action_rows(kept, times, every_frame=part == "val")
            title = f"{split_folder.relative_to(folder.parent)} {part}"
            if not (rows.action >= 0).any():
                made.append(f"{title}: no boxes; this set was not written")
                remarks += _dropped_remarks(title, dropped)
                (split_folder / f"{part}.yaml").unlink(missing_ok=True)
                continue
            write_action_csv(split_folder / f"{part}.csv", rows, kind="ground_truth")
            write_tubes(split_folder / f"{part}_tubes.csv", kept, official.labels)
            part_persons = persons if part == "val" else None
            if part_persons is not None:
                numbered = rows_of(part_persons, set(kept))
                part_persons = _frames_to_seconds(numbered, times)
                dropped["of detected persons have a frame number that does not exist"] += len(numbered) - len(
                    part_persons
                )
            files.append(_write_dataset(split_folder, part, part_persons, folder, bool(not_scored)))
            boxes = int((rows.action >= 0).sum())
            made.append(
                f"{title}: {boxes} boxes in {sum(map(len, kept.values()))} tubes of {len(kept)} videos"
            )
            remarks += _dropped_remarks(title, dropped)
    remarks += _length_warning(official, ids, times)
    if persons is None:
        remarks.append(NO_PERSON_BOXES)
    remarks += run_checker(files, args.workers)
    problem = "" if files else "none of the usable videos has a box, so no dataset was written"
    return Outcome(made, len(ids), status.broken, status.missing, remarks=remarks, problem=problem)


def _dropped_remarks(title: str, dropped: Counter) -> list[str]:
    return [f"NOTE: {title}: {number} boxes {reason}" for reason, number in dropped.items() if number]


def _length_warning(
    official: TubeAnnotations, ids: Mapping[str, str], times: Mapping[str, np.ndarray]
) -> list[str]:
    """Return a warning if videos have another number of frames than the annotated ones, else nothing."""
    counts = {ids[video]: count for video, count in official.num_frames.items() if ids.get(video) in times}
    differ = [v for v, count in counts.items() if abs(len(times[v]) - count) > max(2, 0.02 * count)]
    if not differ:
        return []
    return [
        f"WARNING: {len(differ)} of {len(counts)} videos have another number of frames than was annotated, "
        f"such as {differ[0]}: {len(times[differ[0]])}, not {counts[differ[0]]}; boxes may belong to other "
        "frames"
    ]


def action_rows(
    tubes: Mapping[str, list[Tube]], times: Mapping[str, np.ndarray], every_frame: bool
) -> tuple[ActionBoxes, Counter]:
    """Convert tubes to boxes at the times of their frames, clipped to the frame.

    Args:
        tubes: by video id.
        times: seconds of each frame, by video id.
        every_frame: also add rows for frames without boxes, so that detections there count as false
            positives.

    Returns:
        The rows, and the number of dropped boxes by reason.
    """
    columns: dict[str, list[np.ndarray]] = {"video": [], "time": [], "box": [], "action": [], "person": []}
    dropped: Counter = Counter()
    videos = sorted(tubes)

    def add(video: int, seconds: np.ndarray, boxes: np.ndarray, action: int, person: int) -> None:
        for name, value in zip(columns, (video, None, None, action, person)):
            if value is not None:
                columns[name].append(np.full(len(seconds), value, dtype=np.int32))
        columns["time"].append(seconds)
        columns["box"].append(boxes)

    for number, video in enumerate(videos):
        seconds = times[video]
        is_empty = np.ones(len(seconds), dtype=bool)
        for person, tube in enumerate(tubes[video]):
            inside = tube.frames < len(seconds)
            frames, boxes = tube.frames[inside], np.clip(tube.boxes[inside], 0, 1).round(6)
            valid = (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
            dropped["are after the last frame of their video"] += int((~inside).sum())
            dropped["have no area inside the frame"] += int((~valid).sum())
            is_empty[frames[valid]] = False
            add(number, seconds[frames[valid]], boxes[valid], tube.label + 1, person)
        if every_frame:
            add(number, seconds[is_empty], np.full((int(is_empty.sum()), 4), np.nan), -1, -1)
    no_rows = {"time": np.zeros(0), "box": np.zeros((0, 4))}
    video, time, box, action, person = (
        np.concatenate([no_rows.get(name, np.zeros(0, np.int32)), *parts]) for name, parts in columns.items()
    )
    order = np.lexsort((person, time, video))
    names = np.array(videos, dtype=object)
    score = np.ones(len(order))
    rows = ActionBoxes(names, video[order], time[order], box[order], action[order], score, person[order])
    return rows, dropped


def write_tubes(path: Path, tubes: Mapping[str, list[Tube]], labels: list[str]) -> None:
    """Write ground-truth tubes in the format of `formats.tube_csv`: frames from 0, boxes in [0, 1]."""
    parts = [
        pl.DataFrame(dict(zip(COORDINATES, tube.boxes.T)) | {"frame": tube.frames}).with_columns(
            video_id=pl.lit(video), tube_id=pl.lit(number), label=pl.lit(labels[tube.label])
        )
        for video, of_video in sorted(tubes.items())
        for number, tube in enumerate(of_video)
        if len(tube.frames)
    ]
    frame = pl.concat(parts).filter((pl.col("x1") < pl.col("x2")) & (pl.col("y1") < pl.col("y2")))
    frame = frame.with_columns(pl.col(COORDINATES).round(6), score=pl.lit(None))
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        frame.select("video_id", "tube_id", "label", "score", "frame", *COORDINATES).write_csv(file)


def save_frame_times(path: str, source: Path, target: Path) -> str:
    """Save the frame times of the video `source/path`: float64 (frames,), in seconds from the first frame.

    Returns:
        The video's problem, or ''.
    """
    try:
        times = open_video(source / path).times
    except DataError as error:
        return error.problem
    with atomic_write(target / _times_name(path)) as temporary:
        np.save(temporary, times)
    return ""


def _times_name(path: str) -> str:
    return f"{PurePosixPath(path).name}.npy"


def _video_ids(official: TubeAnnotations, args: argparse.Namespace) -> dict[str, str]:
    """Return name in the official file to video id: the name without the class."""
    ids = {video: PurePosixPath(video).name for video in official.tubes}
    duplicates = [video for video, count in Counter(ids.values()).items() if count > 1]
    if duplicates:
        raise DataError(f"several classes have a video '{duplicates[0]}'", args.annotations)
    return ids


def _frame_times(
    ids: Mapping[str, str], folder: Path, args: argparse.Namespace
) -> tuple[VideoStatus, dict[str, np.ndarray]]:
    """Return the status of the videos, and the frame times of each usable video by its id."""
    paths = _find_videos(ids, args.videos)
    target = folder / "times"
    problems = run_video_jobs(
        Journal(folder / "journal_times.jsonl", args.videos),
        paths.values(),
        functools.partial(save_frame_times, source=args.videos, target=target),
        "reading times",
        workers=args.workers,
        timeout=FRAME_TIMES_TIMEOUT,
        is_done=lambda path: (target / _times_name(path)).is_file(),
    )
    status = video_status(paths, ids.values(), problems)
    times = {video: np.load(target / _times_name(path)) for video, path in status.paths.items()}
    return status, times


def _find_videos(ids: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return video id to path in `folder`, of videos or of folders of images CLASS/NAME."""
    images = {video: name for name, video in ids.items() if (folder / name).is_dir()}
    return images or find_videos_by_id({video: video for video in ids.values()}, folder)


def _write_dataset(
    split_folder: Path,
    part: str,
    persons: PersonBoxes | None,
    folder: Path,
    has_scored: bool,
) -> Path:
    up = "" if split_folder == folder else "../"
    content = {"videos": f"{up}videos", "annotations": f"{part}.csv", "label_map": f"{up}actions.pbtxt"}
    content["complete_persons"] = False  # only people with one of the actions are annotated
    if has_scored:
        content["scored_classes"] = f"{up}scored_actions.pbtxt"
    if persons is not None:
        write_person_boxes(split_folder / f"{part}_persons.csv", persons)
        content["person_boxes"] = f"{part}_persons.csv"
    write_dataset_file(split_folder / f"{part}.yaml", **content)
    return split_folder / f"{part}.yaml"


def _frames_to_seconds(persons: PersonBoxes, times: Mapping[str, np.ndarray]) -> PersonBoxes:
    """Convert person boxes whose `timestamp` is a frame number from 1 to seconds.

    Boxes of frames that the videos lack are dropped.
    """
    lengths = np.array([len(times.get(str(video), ())) for video in persons.videos], dtype=np.int64)
    frame = persons.timestamp - 1
    kept = (frame >= 0) & (frame == np.floor(frame)) & (frame < lengths[persons.video])
    persons = persons.select(kept)
    frames = (persons.timestamp - 1).astype(np.int64)
    seconds = [times[str(persons.videos[v])][f] for v, f in zip(persons.video.tolist(), frames.tolist())]
    return PersonBoxes(
        persons.videos, persons.video, np.array(seconds, dtype=np.float64), persons.boxes, persons.score
    )
