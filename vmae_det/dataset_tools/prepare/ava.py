"""AVA v2.2: from the official annotations and whole movies, 15-minute cuts, or SlowFast's extracted frames.

Annotated are the seconds 902 to 1798 of a movie. Whole movies lie on this clock, cuts begin at second 900,
and so do SlowFast's frames, 30 a second. A model learns 80 actions; the benchmark scores 60 of them.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import replace
from pathlib import Path

import numpy as np

from vmae_det.data.catalog import read_dataset_file
from vmae_det.dataset_tools.prepare.ava_frames import frames_problem, read_frame_lists
from vmae_det.dataset_tools.prepare.common import Outcome, require_file
from vmae_det.dataset_tools.prepare.cutting import cut_to_folder, read_start, start_file
from vmae_det.dataset_tools.prepare.detection import (
    FoundVideos,
    add_detection_arguments,
    ask_doctor,
    check_headers,
    check_place,
    copy_file,
    find_videos_by_id,
    link_videos,
    rows_of,
    sort_videos,
    write_dataset_file,
    write_person_boxes,
)
from vmae_det.dataset_tools.prepare.work import Journal, work_through
from vmae_det.formats.ava_csv import ActionBoxes, read_action_csv, read_excluded_keyframes, write_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import PersonBoxes, read_person_boxes
from vmae_det.formats.video_starts import write_video_starts
from vmae_det.utils.errors import DataError, UserError
from vmae_det.video.readers import open_video
from vmae_det.video.sampling import describe_keyframe

ANNOTATIONS = {"train": "ava_train_v2.2.csv", "val": "ava_val_v2.2.csv"}
EXCLUDED = {part: f"ava_{part}_excluded_timestamps_v2.2.csv" for part in ANNOTATIONS}
ACTIONS = "ava_action_list_v2.2.pbtxt"
SCORED_ACTIONS = "ava_action_list_v2.2_for_activitynet_2019.pbtxt"
LAYOUTS = ("movies", "cuts", "frames")
CUT = (900.0, 1801.0)  # seconds, as in SlowFast's DATASET.md
CUT_SECONDS = 3600  # that cutting one movie may take
FIRST_KEYFRAME = 902.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the official files lie, and in which layout."""
    add_detection_arguments(
        parser,
        "the folder with the CSV and pbtxt files of ava_v2.2.zip",
        "the folder of movies, cuts or frames",
        "detected persons of the validation set, in any of the three formats, such as SlowFast's "
        "person_box_67091280_iou90/ava_detection_val_boxes_and_labels.csv; testing needs them",
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="movies",
        help="what --videos holds: whole movies (the default, dataset ava_v2.2_*), files that begin at "
        "second 900 (ava_v2.2_cuts_*), or a folder of 30 images a second for each (ava_v2.2_frames_*)",
    )
    parser.add_argument(
        "--cut",
        action="store_true",
        help="cut the movies to seconds 900 to 1801 without re-encoding, which makes ava_v2.2_cuts_*",
    )
    parser.add_argument(
        "--frame-lists", type=Path, metavar="DIR", help="SlowFast's train.csv and val.csv, to check frames by"
    )


def prepare(name: str, folder: Path, args: argparse.Namespace) -> Outcome:
    """Make `folder/LAYOUT`."""
    if args.cut and args.layout != "movies":
        raise UserError(f"--cut: cuts whole movies, and --layout is {args.layout}")
    if args.frame_lists and args.layout != "frames":
        raise UserError(f"--frame-lists: for --layout frames, which is {args.layout} here")
    place = folder / ("cuts" if args.cut else args.layout)
    check_place(place / "videos", args.videos)
    rows, persons = _read_official(args)
    expected = sorted({video for part in rows.values() for video in part.videos})
    if args.cut:
        found, source = _cut(expected, place, args), place / "files"
    elif args.layout == "frames":
        found, source = _check_frames(expected, place, args), args.videos
    else:
        paths = find_videos_by_id({video: video for video in expected}, args.videos)
        found, source = check_headers(paths, expected, place, args), args.videos
    start = _video_start(found, place, args)
    link_videos(found.paths, source, place / "videos")
    copy_file(args.annotations / ACTIONS, place / "actions.pbtxt")
    copy_file(args.annotations / SCORED_ACTIONS, place / "scored_actions.pbtxt")
    made, files = [f"{place}: {len(found.paths)} videos"], []
    for part, official in rows.items():
        kept = rows_of(official, found.paths)
        file = _write_part(part, kept, persons, start, place, args)
        files += [file] if file else []
        made.append(f"{part}: {len(kept)} rows" + ("" if file else ", so there is no such set"))
    remarks = _keyframe_remarks(found, source, place) + ask_doctor(files, args.workers)
    if persons is None:
        remarks.append("NOTE: a model is tested on val with detected persons: --person-boxes")
    return Outcome(made, len(expected), found.broken, found.missing, remarks=remarks)


def _read_official(args: argparse.Namespace) -> tuple[dict[str, ActionBoxes], PersonBoxes | None]:
    """Annotations by set, and detected persons; DataError where an official file is bad."""
    label_map = LabelMap.from_file(require_file(args.annotations, ACTIONS))
    LabelMap.from_file(require_file(args.annotations, SCORED_ACTIONS))
    for file in EXCLUDED.values():
        read_excluded_keyframes(require_file(args.annotations, file))
    rows = {
        part: read_action_csv(require_file(args.annotations, file), label_map)
        for part, file in ANNOTATIONS.items()
    }
    return rows, read_person_boxes(args.person_boxes) if args.person_boxes else None


def _cut(expected: list[str], place: Path, args: argparse.Namespace) -> FoundVideos:
    """Cut the movies, those that are not cut yet; usable paths are relative to `place/files`."""
    paths = find_videos_by_id({video: video for video in expected}, args.videos)
    files, starts = place / "files", place / "starts"
    for unfinished in files.glob(".*.tmp.*"):
        unfinished.unlink()
    problems = work_through(
        Journal(place / "journal_cuts.jsonl", args.videos),
        paths.values(),
        functools.partial(cut_to_folder, source=args.videos, files=files, starts=starts, seconds=CUT),
        "cutting",
        workers=args.workers,
        seconds=CUT_SECONDS,
        is_done=lambda path: start_file(path, starts).is_file() and (files / Path(path).name).is_file(),
    )
    found = sort_videos(paths, expected, problems)
    cut = {video: Path(path).name for video, path in found.paths.items()}
    return replace(found, paths=cut)


def _check_frames(expected: list[str], place: Path, args: argparse.Namespace) -> FoundVideos:
    counts = read_frame_lists(args.frame_lists) if args.frame_lists else {}
    paths = {video: video for video in expected if (args.videos / video).is_dir()}
    if not paths:
        raise DataError(f"expected a folder of images for each video, such as {expected[0]}/", args.videos)
    ask = functools.partial(frames_problem, folder=args.videos, counts=counts)
    journal = Journal(place / "journal_frames.jsonl", args.videos)
    problems = work_through(journal, paths.values(), ask, "counting frames", workers=args.workers)
    return sort_videos(paths, expected, problems)


def _video_start(found: FoundVideos, place: Path, args: argparse.Namespace) -> float | str:
    """`video_start` of the dataset file."""
    if args.cut:
        starts = place / "starts"
        write_video_starts(place / "starts.csv", {v: read_start(p, starts) for v, p in found.paths.items()})
        return "starts.csv"
    return 0.0 if args.layout == "movies" else CUT[0]


def _write_part(
    part: str,
    rows: ActionBoxes,
    persons: PersonBoxes | None,
    start: float | str,
    place: Path,
    args: argparse.Namespace,
) -> Path | None:
    """Write a set's files; gives its dataset file, None where there are no rows."""
    file = place / f"{part}.yaml"
    if not len(rows):
        file.unlink(missing_ok=True)
        return None
    write_action_csv(place / f"{part}.csv", rows, kind="ground_truth")
    copy_file(args.annotations / EXCLUDED[part], place / f"{part}_excluded.csv")
    content = {"videos": "videos", "annotations": f"{part}.csv", "label_map": "actions.pbtxt"}
    content |= {"scored_classes": "scored_actions.pbtxt", "excluded": f"{part}_excluded.csv"}
    if part == "val" and persons is not None:
        there = set(rows.videos[np.unique(rows.video)])
        write_person_boxes(place / "val_persons.csv", rows_of(persons, there))
        content["person_boxes"] = "val_persons.csv"
    write_dataset_file(file, **content, video_start=start)
    return file


def _keyframe_remarks(found: FoundVideos, source: Path, place: Path) -> list[str]:
    """Which frame a keyframe is, by the example of one video: results depend on it."""
    if not found.paths:
        return []
    files = [place / f"{part}.yaml" for part in ANNOTATIONS if (place / f"{part}.yaml").exists()]
    video, path = next(iter(found.paths.items()))
    start = read_dataset_file(files[0]).start_of(video)
    try:
        reader = open_video(source / path)
        index = reader.index_at(FIRST_KEYFRAME - start)
    except DataError as error:
        return [f"keyframes: {error}"]
    off = (reader.times[index] + start - FIRST_KEYFRAME) * 1000
    rule = describe_keyframe(video, FIRST_KEYFRAME, start)
    return [f"keyframes: {rule}; here it is frame {index} (from 0) of {len(reader)}, {off:+.1f} ms off"]
