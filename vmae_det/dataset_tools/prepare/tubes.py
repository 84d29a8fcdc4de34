"""The steps of datasets that are annotated with tubes, in every frame: frames become seconds by the videos'
own times, and tubes are kept for video-mAP."""

from __future__ import annotations

import argparse
import functools
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import polars as pl

from vmae_det.dataset_tools.prepare.common import Outcome
from vmae_det.dataset_tools.prepare.detection import (
    FoundVideos,
    ask_doctor,
    check_place,
    find_videos_by_id,
    link_videos,
    rows_of,
    sort_videos,
    write_dataset_file,
    write_label_map,
    write_person_boxes,
)
from vmae_det.dataset_tools.prepare.work import Journal, work_through
from vmae_det.formats.ava_csv import ActionBoxes, write_action_csv
from vmae_det.formats.box_csv import COORDINATES
from vmae_det.formats.person_boxes import PersonBoxes, read_person_boxes
from vmae_det.formats.tube_pickles import Tube, TubeAnnotations
from vmae_det.utils.errors import DataError
from vmae_det.utils.output_files import atomic_write
from vmae_det.video.readers import open_video

TIME_SECONDS = 600  # that reading the times of one video may take
PARTS = ("train", "val")


def prepare_tubes(
    splits: Mapping[Path, tuple[list[str], list[str]]],
    official: TubeAnnotations,
    folder: Path,
    args: argparse.Namespace,
    not_scored: Collection[str] = (),
) -> Outcome:
    """Make `folder/videos` and in the folder of each split the files of its training and its test set.

    Args:
        splits: folder to the videos of both sets, of `official.tubes`.
        not_scored: names of classes that the metric leaves out.

    Raises:
        DataError: bad official files, or none of the videos is there.
    """
    check_place(folder / "videos", args.videos)
    persons = read_person_boxes(args.person_boxes) if args.person_boxes else None
    ids = _ids(official, args)
    found, times = _times(ids, folder, args)
    link_videos(found.paths, args.videos, folder / "videos")
    scored = {i: name for i, name in enumerate(official.labels, start=1) if name not in not_scored}
    write_label_map(folder / "actions.pbtxt", dict(enumerate(official.labels, start=1)))
    if not_scored:
        write_label_map(folder / "scored_actions.pbtxt", scored)
    made, remarks, files = [f"{folder}: {len(found.paths)} videos"], [], []
    for place, split in splits.items():
        for part, videos in zip(PARTS, split):
            kept = {ids[video]: official.tubes[video] for video in videos if ids[video] in times}
            rows, lost = action_rows(kept, times, every_frame=part == "val")
            what = f"{place.relative_to(folder.parent)} {part}"
            if not (rows.action >= 0).any():
                made.append(f"{what}: no boxes, so there is no such set")
                remarks += _remarks(what, lost)
                (place / f"{part}.yaml").unlink(missing_ok=True)
                continue
            write_action_csv(place / f"{part}.csv", rows, kind="ground_truth")
            write_tubes(place / f"{part}_tubes.csv", kept, official.labels)
            here = persons if part == "val" else None
            if here is not None:
                every = rows_of(here, set(kept))
                here = _in_seconds(every, times)
                lost["of detected persons have no frame of their number"] += len(every) - len(here)
            files.append(_write_dataset(place, part, here, folder, bool(not_scored)))
            boxes = int((rows.action >= 0).sum())
            made.append(
                f"{what}: {boxes} boxes in {sum(map(len, kept.values()))} tubes of {len(kept)} videos"
            )
            remarks += _remarks(what, lost)
    remarks += _other_lengths(official, ids, times)
    if persons is None:
        remarks.append("NOTE: a model is tested on val with detected persons: --person-boxes")
    return Outcome(
        made, len(ids), found.broken, found.missing, remarks=remarks + ask_doctor(files, args.workers)
    )


def _remarks(what: str, lost: Counter) -> list[str]:
    return [f"NOTE: {what}: {number} boxes {why}" for why, number in lost.items() if number]


def _other_lengths(
    official: TubeAnnotations, ids: Mapping[str, str], times: Mapping[str, np.ndarray]
) -> list[str]:
    """A warning of videos that are not those which were annotated, by their numbers of frames, or nothing."""
    counts = {ids[video]: count for video, count in official.num_frames.items() if ids.get(video) in times}
    other = [v for v, count in counts.items() if abs(len(times[v]) - count) > max(2, 0.02 * count)]
    if not other:
        return []
    return [
        f"WARNING: {len(other)} of {len(counts)} videos have another number of frames than was annotated, "
        f"such as {other[0]}: {len(times[other[0]])}, not {counts[other[0]]}; boxes may lie in other frames"
    ]


def action_rows(
    tubes: Mapping[str, list[Tube]], times: Mapping[str, np.ndarray], every_frame: bool
) -> tuple[ActionBoxes, Counter]:
    """The boxes of tubes at the times of their frames, cut at the frame's edge; and how many were not kept,
    by the reason.

    Args:
        tubes: by video id.
        times: seconds of each frame, by video id.
        every_frame: name frames without boxes, too: detections there count as false.
    """
    columns: dict[str, list[np.ndarray]] = {"video": [], "time": [], "box": [], "action": [], "person": []}
    lost: Counter = Counter()
    videos = sorted(tubes)

    def add(video: int, seconds: np.ndarray, boxes: np.ndarray, action: int, person: int) -> None:
        for name, value in zip(columns, (video, None, None, action, person)):
            if value is not None:
                columns[name].append(np.full(len(seconds), value, dtype=np.int32))
        columns["time"].append(seconds)
        columns["box"].append(boxes)

    for number, video in enumerate(videos):
        seconds = times[video]
        bare = np.ones(len(seconds), dtype=bool)
        for person, tube in enumerate(tubes[video]):
            inside = tube.frames < len(seconds)
            frames, boxes = tube.frames[inside], np.clip(tube.boxes[inside], 0, 1).round(6)
            good = (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
            lost["lie beyond the last frame of their video"] += int((~inside).sum())
            lost["have no area within the frame"] += int((~good).sum())
            bare[frames[good]] = False
            add(number, seconds[frames[good]], boxes[good], tube.label + 1, person)
        if every_frame:
            add(number, seconds[bare], np.full((int(bare.sum()), 4), np.nan), -1, -1)
    none = {"time": np.zeros(0), "box": np.zeros((0, 4))}
    video, time, box, action, person = (
        np.concatenate([none.get(name, np.zeros(0, np.int32)), *parts]) for name, parts in columns.items()
    )
    order = np.lexsort((person, time, video))
    names = np.array(videos, dtype=object)
    score = np.ones(len(order))
    rows = ActionBoxes(names, video[order], time[order], box[order], action[order], score, person[order])
    return rows, lost


def write_tubes(path: Path, tubes: Mapping[str, list[Tube]], labels: list[str]) -> None:
    """Write ground-truth tubes as `vmae_det.formats.tube_csv` reads them: frames from 0, boxes in [0, 1]."""
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


def measure_times(path: str, source: Path, target: Path) -> str:
    """Save when each frame of the video `source/path` is shown, float64 (frames,) of seconds from the first
    one on; gives the video's problem, or ''."""
    try:
        times = open_video(source / path).times
    except DataError as error:
        return error.problem
    with atomic_write(target / _times_name(path)) as temporary:
        np.save(temporary, times)
    return ""


def _times_name(path: str) -> str:
    return f"{PurePosixPath(path).name}.npy"


def _ids(official: TubeAnnotations, args: argparse.Namespace) -> dict[str, str]:
    """Video id, the name without the class, by the name in the official file."""
    ids = {video: PurePosixPath(video).name for video in official.tubes}
    twice = [video for video, count in Counter(ids.values()).items() if count > 1]
    if twice:
        raise DataError(f"several classes have a video '{twice[0]}'", args.annotations)
    return ids


def _times(
    ids: Mapping[str, str], folder: Path, args: argparse.Namespace
) -> tuple[FoundVideos, dict[str, np.ndarray]]:
    """The videos, and the times of the frames of each usable one by its id."""
    paths = _find(ids, args.videos)
    target = folder / "times"
    problems = work_through(
        Journal(folder / "journal_times.jsonl", args.videos),
        paths.values(),
        functools.partial(measure_times, source=args.videos, target=target),
        "reading times",
        workers=args.workers,
        seconds=TIME_SECONDS,
        is_done=lambda path: (target / _times_name(path)).is_file(),
    )
    found = sort_videos(paths, ids.values(), problems)
    times = {video: np.load(target / _times_name(path)) for video, path in found.paths.items()}
    return found, times


def _find(ids: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Path below `folder` by video id, of a video or of a folder of images CLASS/NAME."""
    images = {video: name for name, video in ids.items() if (folder / name).is_dir()}
    return images or find_videos_by_id({video: video for video in ids.values()}, folder)


def _write_dataset(
    place: Path,
    part: str,
    persons: PersonBoxes | None,
    folder: Path,
    has_scored: bool,
) -> Path:
    up = "" if place == folder else "../"
    content = {"videos": f"{up}videos", "annotations": f"{part}.csv", "label_map": f"{up}actions.pbtxt"}
    if has_scored:
        content["scored_classes"] = f"{up}scored_actions.pbtxt"
    if persons is not None:
        write_person_boxes(place / f"{part}_persons.csv", persons)
        content["person_boxes"] = f"{part}_persons.csv"
    write_dataset_file(place / f"{part}.yaml", **content)
    return place / f"{part}.yaml"


def _in_seconds(persons: PersonBoxes, times: Mapping[str, np.ndarray]) -> PersonBoxes:
    """Person boxes whose `timestamp` is the number of a frame, from 1, at the times of these frames; those of
    frames that the videos lack are left out."""
    lengths = np.array([len(times.get(str(video), ())) for video in persons.videos], dtype=np.int64)
    frame = persons.timestamp - 1
    kept = (frame >= 0) & (frame == np.floor(frame)) & (frame < lengths[persons.video])
    persons = persons.select(kept)
    frames = (persons.timestamp - 1).astype(np.int64)
    seconds = [times[str(persons.videos[v])][f] for v, f in zip(persons.video.tolist(), frames.tolist())]
    return PersonBoxes(
        persons.videos, persons.video, np.array(seconds, dtype=np.float64), persons.boxes, persons.score
    )
