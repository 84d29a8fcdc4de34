"""AVA-Kinetics, from kinetics_{train,val}_v1.0.csv and the clips of Kinetics-700.

Timestamps are seconds of the YouTube video. A clip is ten seconds of it; its file name, such as
YOUTUBEID_000012_000022.mp4, contains its start. So each video has its own start, in starts.csv. Prepare the
movies of AVA with `vmae-det prepare ava`; to train on both, name both sets.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np

from vmae_det.dataset_tools.prepare.ava import ACTIONS, SCORED_ACTIONS
from vmae_det.dataset_tools.prepare.detection import (
    NO_PERSON_BOXES,
    add_detection_arguments,
    check_headers,
    check_link_folder,
    link_videos,
    rows_of,
    run_checker,
    write_dataset_file,
)
from vmae_det.dataset_tools.prepare.files import VideoIndex, copy_file, require_file
from vmae_det.dataset_tools.prepare.preparers import Outcome
from vmae_det.formats.ava_csv import ActionBoxes, read_action_csv, write_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import PersonBoxes, read_person_boxes, write_person_boxes
from vmae_det.formats.video_starts import write_video_starts
from vmae_det.utils.errors import DataError

ANNOTATIONS = {"train": "kinetics_train_v1.0.csv", "val": "kinetics_val_v1.0.csv"}
_CLIP = re.compile(r"(.+)_([0-9]{6})_([0-9]{6})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the paths of the official files."""
    add_detection_arguments(
        parser,
        "folder ava_kinetics_v1_0, with its CSV and pbtxt files",
        "folder of the Kinetics-700 clips, YOUTUBEID_000012_000022.mp4, directly or in subfolders",
        "detected persons of the validation set, in any person-box format, with seconds of the YouTube video",
    )


def prepare(name: str, folder: Path, args: argparse.Namespace) -> Outcome:
    """Write `folder`."""
    check_link_folder(folder / "videos", args.videos)
    label_map = LabelMap.from_file(require_file(args.annotations, ACTIONS))
    LabelMap.from_file(require_file(args.annotations, SCORED_ACTIONS))
    official = {
        part: read_action_csv(require_file(args.annotations, file), label_map)
        for part, file in ANNOTATIONS.items()
    }
    persons = read_person_boxes(args.person_boxes) if args.person_boxes else None
    rows = {part: _with_boxes(part_rows) for part, part_rows in official.items()}
    wanted = _keyframes(rows.values())
    clips = choose_clips(wanted, VideoIndex(args.videos).paths())
    if not clips:
        raise DataError(
            f"contains no clip, ID_000012_000022.mp4, of the {len(wanted)} annotated videos", args.videos
        )
    status = check_headers({video: clip[0] for video, clip in clips.items()}, wanted, folder, args)
    link_videos(status.paths, args.videos, folder / "videos")
    spans = {video: clips[video][1:] for video in status.paths}
    write_video_starts(folder / "starts.csv", {video: start for video, (start, _) in spans.items()})
    copy_file(args.annotations / ACTIONS, folder / "actions.pbtxt")
    copy_file(args.annotations / SCORED_ACTIONS, folder / "scored_actions.pbtxt")

    made, remarks, files = [f"{folder}: {len(status.paths)} clips"], [], []
    for part, part_rows in rows.items():
        available = rows_of(part_rows, spans)
        kept = _inside(available, spans)
        file = _write_part(part, kept, persons, spans, folder)
        files += [file] if file else []
        made.append(f"{part}: {len(kept)} rows" + ("" if file else "; this set was not written"))
        if len(kept) < len(available):
            dropped = len(available) - len(kept)
            remarks.append(f"NOTE: {part}: {dropped} rows outside their video's clip were dropped")
    if persons is None:
        remarks.append(NO_PERSON_BOXES)
    remarks += run_checker(files, args.workers)
    return Outcome(made, len(wanted), status.broken, status.missing, missing_is_normal=True, remarks=remarks)


def choose_clips(keyframes: dict[str, list[float]], paths: list[str]) -> dict[str, tuple[str, float, float]]:
    """Choose the clip of each video that contains most of its keyframes.

    A video can have several clips, because Kinetics assigns it to several classes. A video without a keyframe
    in any clip is dropped.

    Args:
        keyframes: video id to seconds.
        paths: paths of all clips.

    Returns:
        Video id to path, first and last second of the clip.
    """
    clips: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    for path in paths:
        match = _CLIP.fullmatch(PurePosixPath(path).stem)
        if match and match[1] in keyframes:
            clips[match[1]].append((path, float(match[2]), float(match[3])))
    chosen = {}
    for video, several in clips.items():
        times = np.array(keyframes[video])
        counts = [int(((times >= start) & (times <= end)).sum()) for _, start, end in several]
        if max(counts):
            chosen[video] = several[int(np.argmax(counts))]
    return chosen


def _with_boxes(rows: ActionBoxes) -> ActionBoxes:
    """Drop lines without a box, which name clips without annotated persons."""
    return rows.select(rows.action >= 0)


def _keyframes(parts: object) -> dict[str, list[float]]:
    """Return video id to the seconds of its annotated rows."""
    keyframes: dict[str, list[float]] = defaultdict(list)
    for rows in parts:
        for video, time in zip(rows.video.tolist(), rows.timestamp.tolist()):
            keyframes[str(rows.videos[video])].append(time)
    return dict(sorted(keyframes.items()))


def _inside(
    rows: ActionBoxes | PersonBoxes, spans: dict[str, tuple[float, float]]
) -> ActionBoxes | PersonBoxes:
    """Return the rows inside their video's clip."""
    limits = np.array([spans.get(str(video), (np.inf, -np.inf)) for video in rows.videos]).reshape(-1, 2)
    start, end = limits[rows.video].T
    return rows.select((rows.timestamp >= start) & (rows.timestamp <= end))


def _write_part(
    part: str,
    rows: ActionBoxes,
    persons: PersonBoxes | None,
    spans: dict[str, tuple[float, float]],
    folder: Path,
) -> Path | None:
    """Write the files of a set; return its dataset file, or None if there are no rows."""
    file = folder / f"{part}.yaml"
    if not len(rows):
        file.unlink(missing_ok=True)
        return None
    write_action_csv(folder / f"{part}.csv", rows, kind="ground_truth")
    content = {"videos": "videos", "annotations": f"{part}.csv", "label_map": "actions.pbtxt"}
    content["scored_classes"] = "scored_actions.pbtxt"
    if part == "val" and persons is not None:
        annotated = {str(rows.videos[video]) for video in np.unique(rows.video)}
        write_person_boxes(folder / "val_persons.csv", _inside(rows_of(persons, annotated), spans))
        content["person_boxes"] = "val_persons.csv"
    write_dataset_file(file, **content, video_start="starts.csv")
    return file
