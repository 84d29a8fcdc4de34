"""AVA-Kinetics: from kinetics_{train,val}_v1.0.csv and the clips of Kinetics-700.

Their time stamps are seconds of the YouTube video, of which a clip shows ten: its file's name,
YOUTUBEID_000012_000022.mp4, says from when on. So each video has its own start, in starts.csv. The rows of
AVA's movies come through `vmae-det prepare ava`; train on both by naming both sets.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np

from vmae_det.dataset_tools.prepare.ava import ACTIONS, SCORED_ACTIONS
from vmae_det.dataset_tools.prepare.common import Outcome, require_file
from vmae_det.dataset_tools.prepare.detection import (
    add_detection_arguments,
    ask_doctor,
    check_headers,
    check_place,
    copy_file,
    link_videos,
    rows_of,
    write_dataset_file,
    write_person_boxes,
)
from vmae_det.dataset_tools.prepare.video_index import VideoIndex
from vmae_det.formats.ava_csv import ActionBoxes, read_action_csv, write_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import PersonBoxes, read_person_boxes
from vmae_det.formats.video_starts import write_video_starts
from vmae_det.utils.errors import DataError

ANNOTATIONS = {"train": "kinetics_train_v1.0.csv", "val": "kinetics_val_v1.0.csv"}
_CLIP = re.compile(r"(.+)_([0-9]{6})_([0-9]{6})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the official files lie."""
    add_detection_arguments(
        parser,
        "the folder ava_kinetics_v1_0, with its CSV and pbtxt files",
        "the folder of Kinetics-700's clips, YOUTUBEID_000012_000022.mp4, in folders or not",
        "detected persons of the validation set, in any of the three formats, by the YouTube video's seconds",
    )


def prepare(name: str, folder: Path, args: argparse.Namespace) -> Outcome:
    """Make `folder`."""
    check_place(folder / "videos", args.videos)
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
            f"holds no clip of the {len(wanted)} annotated videos, ID_000012_000022.mp4", args.videos
        )
    found = check_headers({video: clip[0] for video, clip in clips.items()}, wanted, folder, args)
    link_videos(found.paths, args.videos, folder / "videos")
    spans = {video: clips[video][1:] for video in found.paths}
    write_video_starts(folder / "starts.csv", {video: start for video, (start, _) in spans.items()})
    copy_file(args.annotations / ACTIONS, folder / "actions.pbtxt")
    copy_file(args.annotations / SCORED_ACTIONS, folder / "scored_actions.pbtxt")

    made, remarks, files = [f"{folder}: {len(found.paths)} clips"], [], []
    for part, part_rows in rows.items():
        there = rows_of(part_rows, spans)
        kept = _inside(there, spans)
        file = _write_part(part, kept, persons, spans, folder)
        files += [file] if file else []
        made.append(f"{part}: {len(kept)} rows" + ("" if file else ", so there is no such set"))
        if len(kept) < len(there):
            remarks.append(f"NOTE: {part}: {len(there) - len(kept)} rows lie outside their video's clip")
    if persons is None:
        remarks.append("NOTE: a model is tested on val with detected persons: --person-boxes")
    remarks += ask_doctor(files, args.workers)
    return Outcome(made, len(wanted), found.broken, found.missing, missing_is_normal=True, remarks=remarks)


def choose_clips(keyframes: dict[str, list[float]], paths: list[str]) -> dict[str, tuple[str, float, float]]:
    """Of each video the clip that shows most of its keyframes: path, first and last second. A video may have
    several clips, as Kinetics puts one in several classes; without a keyframe in any it has none here."""
    clips: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    for path in paths:
        match = _CLIP.fullmatch(PurePosixPath(path).stem)
        if match and match[1] in keyframes:
            clips[match[1]].append((path, float(match[2]), float(match[3])))
    chosen = {}
    for video, several in clips.items():
        times = np.array(keyframes[video])
        shown = [int(((times >= start) & (times <= end)).sum()) for _, start, end in several]
        if max(shown):
            chosen[video] = several[int(np.argmax(shown))]
    return chosen


def _with_boxes(rows: ActionBoxes) -> ActionBoxes:
    """Without the lines that name a clip in which nobody is annotated."""
    return rows.select(rows.action >= 0)


def _keyframes(parts: object) -> dict[str, list[float]]:
    """Seconds of the annotated rows of each video."""
    keyframes: dict[str, list[float]] = defaultdict(list)
    for rows in parts:
        for video, time in zip(rows.video.tolist(), rows.timestamp.tolist()):
            keyframes[str(rows.videos[video])].append(time)
    return dict(sorted(keyframes.items()))


def _inside(
    rows: ActionBoxes | PersonBoxes, spans: dict[str, tuple[float, float]]
) -> ActionBoxes | PersonBoxes:
    """The rows that lie within their video's clip."""
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
    """Write a set's files; gives its dataset file, None where there are no rows."""
    file = folder / f"{part}.yaml"
    if not len(rows):
        file.unlink(missing_ok=True)
        return None
    write_action_csv(folder / f"{part}.csv", rows, kind="ground_truth")
    content = {"videos": "videos", "annotations": f"{part}.csv", "label_map": "actions.pbtxt"}
    content["scored_classes"] = "scored_actions.pbtxt"
    if part == "val" and persons is not None:
        there = {str(rows.videos[video]) for video in np.unique(rows.video)}
        write_person_boxes(folder / "val_persons.csv", _inside(rows_of(persons, there), spans))
        content["person_boxes"] = "val_persons.csv"
    write_dataset_file(file, **content, video_start="starts.csv")
    return file
