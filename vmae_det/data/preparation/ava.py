"""AVA v2.2: from the official annotations and whole movies, 15-minute cuts, or SlowFast's extracted frames.

Annotated are the seconds 902 to 1798 of a movie. Whole movies lie on this clock, cuts begin at second 900, and
so do SlowFast's frames, 30 a second. A model learns and names 80 actions; the benchmark scores 60 of them.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from vmae_det.data.annotations import read_action_csv, read_excluded, write_action_csv
from vmae_det.data.label_map import LabelMap
from vmae_det.data.person_boxes import read_person_boxes
from vmae_det.data.preparation.ava_frames import check_frames, keyframe_image
from vmae_det.data.preparation.common import Outcome, require_file
from vmae_det.data.preparation.cutting import CUT_SECONDS, cut_movie, read_start
from vmae_det.data.preparation.detection import (
    FoundVideos,
    add_detection_arguments,
    ask_doctor,
    check_headers,
    copy_file,
    find_videos_by_id,
    link_videos,
    rows_of,
    sort_videos,
    write_dataset_file,
    write_person_boxes,
)
from vmae_det.data.preparation.work import Journal, work_through
from vmae_det.data.readers import open_video
from vmae_det.data.video_starts import write_video_starts
from vmae_det.utils.errors import UserError

ANNOTATIONS = {"train": "ava_train_v2.2.csv", "val": "ava_val_v2.2.csv"}
EXCLUDED = {part: f"ava_{part}_excluded_timestamps_v2.2.csv" for part in ANNOTATIONS}
ACTIONS = "ava_action_list_v2.2.pbtxt"
SCORED_ACTIONS = "ava_action_list_v2.2_for_activitynet_2019.pbtxt"
LAYOUTS = ("movies", "cuts", "frames")
CUT_START = 900.0
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
        help="what --videos holds: whole movies (the default, dataset ava_v2.2_*), files that begin at second "
        "900 (ava_v2.2_cuts_*), or a folder of 30 images a second for each (ava_v2.2_frames_*)",
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
    label_map = LabelMap.from_file(require_file(args.annotations, ACTIONS))
    LabelMap.from_file(require_file(args.annotations, SCORED_ACTIONS))
    rows = {
        part: read_action_csv(require_file(args.annotations, file), label_map)
        for part, file in ANNOTATIONS.items()
    }
    for file in EXCLUDED.values():
        read_excluded(require_file(args.annotations, file))
    persons = read_person_boxes(args.person_boxes) if args.person_boxes else None
    expected = sorted({video for part in rows.values() for video in part.videos})

    found, source, start = _videos(expected, place, args)
    link_videos(found.paths, source, place / "videos")
    copy_file(args.annotations / ACTIONS, place / "actions.pbtxt")
    copy_file(args.annotations / SCORED_ACTIONS, place / "scored_actions.pbtxt")
    made = [f"{place}: {'cut' if args.cut else 'linked'} {args.layout} of {len(found.paths)} videos"]
    files = []
    for part in ANNOTATIONS:
        kept = rows_of(rows[part], found.paths)
        if not len(kept):
            made.append(f"no dataset file {part}.yaml: none of its videos can be used")
            (place / f"{part}.yaml").unlink(missing_ok=True)
            continue
        write_action_csv(place / f"{part}.csv", kept, kind="ground_truth")
        copy_file(args.annotations / EXCLUDED[part], place / f"{part}_excluded.csv")
        content = {"videos": "videos", "annotations": f"{part}.csv", "label_map": "actions.pbtxt"}
        content |= {"scored_classes": "scored_actions.pbtxt", "excluded": f"{part}_excluded.csv"}
        if part == "val" and persons is not None:
            write_person_boxes(place / "val_persons.csv", rows_of(persons, set(found.paths) & set(kept.videos)))
            content["person_boxes"] = "val_persons.csv"
        files.append(place / f"{part}.yaml")
        write_dataset_file(files[-1], **content, video_start=start)
        made.append(f"{files[-1].name}: {len(kept)} rows of {len(set(kept.video.tolist()))} videos")
    remarks = _keyframe_remarks(found, source, place, args) + ask_doctor(files, args.workers)
    if persons is None:
        remarks.append("NOTE: without --person-boxes val can be scored, but no model tested on it")
    return Outcome(made, len(expected), found.broken, found.missing, remarks=remarks)
