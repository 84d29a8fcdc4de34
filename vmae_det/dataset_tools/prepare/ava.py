"""AVA v2.2, from the official annotations and whole movies, 15-minute cuts, or SlowFast's extracted frames.

Seconds 902 to 1798 of a movie are annotated. Whole movies are on this clock. Cuts, and SlowFast's frames at
30 a second, begin at second 900. A model learns 80 actions; the benchmark scores 60 of them.

SlowFast's frames of a video are a folder ID with images ID_000001.jpg, ID_000002.jpg, ..., and lists of them.
For second S, SlowFast uses the image at index (S - 900) * 30 of its list, counted from 0. This is the image
nearest to the timestamp as long as no image is missing and the first has number 1, which is checked. See
ava_helper.py and DATASET.md in SlowFast.
"""

from __future__ import annotations

import argparse
import functools
import os
import string
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vmae_det.data.catalog import read_dataset_file
from vmae_det.dataset_tools.prepare.detection import (
    NO_PERSON_BOXES,
    VideoStatus,
    add_detection_arguments,
    check_headers,
    check_link_folder,
    find_videos_by_id,
    link_videos,
    rows_of,
    run_checker,
    video_status,
    write_dataset_file,
)
from vmae_det.dataset_tools.prepare.files import copy_file, require_file
from vmae_det.dataset_tools.prepare.preparers import Outcome
from vmae_det.dataset_tools.prepare.transcode import cut_to_folder, read_start, start_file
from vmae_det.dataset_tools.prepare.video_jobs import Journal, run_video_jobs
from vmae_det.formats.ava_csv import ActionBoxes, read_action_csv, read_excluded_keyframes, write_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import PersonBoxes, read_person_boxes, write_person_boxes
from vmae_det.formats.video_starts import write_video_starts
from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.file_types import IMAGE_SUFFIXES
from vmae_det.utils.input_files import decode, open_input
from vmae_det.video.readers import open_video
from vmae_det.video.sampling import describe_keyframe

ANNOTATIONS = {"train": "ava_train_v2.2.csv", "val": "ava_val_v2.2.csv"}
EXCLUDED = {part: f"ava_{part}_excluded_timestamps_v2.2.csv" for part in ANNOTATIONS}
ACTIONS = "ava_action_list_v2.2.pbtxt"
SCORED_ACTIONS = "ava_action_list_v2.2_for_activitynet_2019.pbtxt"
LAYOUTS = ("movies", "cuts", "frames")
CUT = (900.0, 1801.0)  # seconds, as in SlowFast's DATASET.md
CUT_TIMEOUT = 3600  # seconds to cut one movie
FIRST_KEYFRAME = 902.0
FRAME_LISTS = ("train.csv", "val.csv")
FRAME_LIST_COLUMNS = ["original_vido_id", "video_id", "frame_id", "path", "labels"]
_MAX_DIGITS = 9  # of an image's number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the paths of the official files, and their layout."""
    add_detection_arguments(
        parser,
        "folder with the CSV and pbtxt files of ava_v2.2.zip",
        "folder of movies, cuts or frames",
        "detected persons of the validation set, in any person-box format, such as SlowFast's "
        "person_box_67091280_iou90/ava_detection_val_boxes_and_labels.csv; needed for testing",
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="movies",
        help="content of --videos: whole movies (the default, dataset ava_v2.2_*), files that begin at "
        "second 900 (ava_v2.2_cuts_*), or a folder of images for each video, 30 a second (ava_v2.2_frames_*)",
    )
    parser.add_argument(
        "--cut",
        action="store_true",
        help="cut the movies to seconds 900 to 1801 without re-encoding, for ava_v2.2_cuts_*",
    )
    parser.add_argument(
        "--frame-lists",
        type=Path,
        metavar="DIR",
        help="SlowFast's train.csv and val.csv, to check frames with",
    )


def prepare(name: str, folder: Path, args: argparse.Namespace) -> Outcome:
    """Write `folder/LAYOUT`."""
    if args.cut and args.layout != "movies":
        raise UserError(f"--cut: expected --layout movies, got --layout {args.layout}")
    if args.frame_lists and args.layout != "frames":
        raise UserError(f"--frame-lists: expected --layout frames, got --layout {args.layout}")
    target = folder / ("cuts" if args.cut else args.layout)
    check_link_folder(target / "videos", args.videos)
    rows, persons = _read_official(args)
    expected = sorted({video for part in rows.values() for video in part.videos})
    if args.cut:
        status, source = _cut_movies(expected, target, args), target / "files"
    elif args.layout == "frames":
        status, source = _check_frames(expected, target, args), args.videos
    else:
        paths = find_videos_by_id({video: video for video in expected}, args.videos)
        status, source = check_headers(paths, expected, target, args), args.videos
    start = _video_start(status, target, args)
    link_videos(status.paths, source, target / "videos")
    copy_file(args.annotations / ACTIONS, target / "actions.pbtxt")
    copy_file(args.annotations / SCORED_ACTIONS, target / "scored_actions.pbtxt")
    made, files = [f"{target}: {len(status.paths)} videos"], []
    for part, official in rows.items():
        kept = rows_of(official, status.paths)
        file = _write_part(part, kept, persons, start, target, args)
        files += [file] if file else []
        made.append(f"{part}: {len(kept)} rows" + ("" if file else "; this set was not written"))
    remarks = _keyframe_remarks(status, source, target) + run_checker(files, args.workers)
    if persons is None:
        remarks.append(NO_PERSON_BOXES)
    return Outcome(made, len(expected), status.broken, status.missing, remarks=remarks)


def _read_official(args: argparse.Namespace) -> tuple[dict[str, ActionBoxes], PersonBoxes | None]:
    """Return annotations by set, and detected persons; DataError if an official file is invalid."""
    label_map = LabelMap.from_file(require_file(args.annotations, ACTIONS))
    LabelMap.from_file(require_file(args.annotations, SCORED_ACTIONS))
    for file in EXCLUDED.values():
        read_excluded_keyframes(require_file(args.annotations, file))
    rows = {
        part: read_action_csv(require_file(args.annotations, file), label_map)
        for part, file in ANNOTATIONS.items()
    }
    return rows, read_person_boxes(args.person_boxes) if args.person_boxes else None


def _cut_movies(expected: list[str], target: Path, args: argparse.Namespace) -> VideoStatus:
    """Cut the movies that are not cut yet; paths of usable videos are relative to `target/files`."""
    paths = find_videos_by_id({video: video for video in expected}, args.videos)
    files, starts = target / "files", target / "starts"
    for unfinished in files.glob(".*.tmp.*"):
        unfinished.unlink()
    problems = run_video_jobs(
        Journal(target / "journal_cuts.jsonl", args.videos),
        paths.values(),
        functools.partial(cut_to_folder, source=args.videos, files=files, starts=starts, seconds=CUT),
        "cutting",
        workers=args.workers,
        timeout=CUT_TIMEOUT,
        is_done=lambda path: start_file(path, starts).is_file() and (files / Path(path).name).is_file(),
    )
    status = video_status(paths, expected, problems)
    cuts = {video: Path(path).name for video, path in status.paths.items()}
    return replace(status, paths=cuts)


def _check_frames(expected: list[str], target: Path, args: argparse.Namespace) -> VideoStatus:
    counts = read_frame_lists(args.frame_lists) if args.frame_lists else {}
    paths = {video: video for video in expected if (args.videos / video).is_dir()}
    if not paths:
        raise DataError(f"expected a folder of images for each video, such as {expected[0]}/", args.videos)
    job = functools.partial(frames_problem, folder=args.videos, counts=counts)
    journal = Journal(target / "journal_frames.jsonl", args.videos)
    problems = run_video_jobs(journal, paths.values(), job, "counting frames", workers=args.workers)
    return video_status(paths, expected, problems)


def read_frame_lists(folder: Path) -> dict[str, int]:
    """Return video id to number of images, from lists with lines of `FRAME_LIST_COLUMNS`.

    Raises:
        DataError: a line is invalid, or a video's images are not numbered 0, 1, 2, ...
    """
    counts: dict[str, int] = {}
    for name in FRAME_LISTS:
        path = require_file(folder, name)
        with open_input(path) as file:
            bar = tqdm(file, desc=f"reading {name}", unit="line", disable=None, leave=False)
            for line, text in enumerate(bar, start=1):
                fields = decode(text, path, "a list of images", line).split()
                if (line == 1 and fields[:4] == FRAME_LIST_COLUMNS[:4]) or not fields:
                    continue
                _count_image(fields, counts, path, line)
    if not counts:
        raise DataError("the lists contain no images", folder)
    return counts


def _count_image(fields: list[str], counts: dict[str, int], path: Path, line: int) -> None:
    if len(fields) != 5:
        raise DataError(f"expected 5 columns ({' '.join(FRAME_LIST_COLUMNS)}), got {len(fields)}", path, line)
    video, number, image = fields[0], fields[2], fields[3]
    expected = counts.get(video, 0)
    if number != str(expected):
        raise DataError(f"expected the frame_id {expected} of {video}, got '{number}'", path, line)
    if _image_number(Path(image).stem) != expected + 1:
        raise DataError(f"expected an image with the number {expected + 1}, got '{image}'", path, line)
    counts[video] = expected + 1


def frames_problem(video: str, folder: Path, counts: Mapping[str, int]) -> str:
    """Return the problem of a video's folder of images, by their names; '' for none.

    Args:
        counts: video id to number of images, of the videos in the frame lists.
    """
    with os.scandir(folder / video) as entries:
        names = [Path(entry.name) for entry in entries]
    numbers = [_image_number(name.stem) for name in names if name.suffix.lower() in IMAGE_SUFFIXES]
    if not numbers:
        return "a folder without images"
    if None in numbers:
        return "has images without a number in their name"
    if sorted(numbers) != list(range(1, len(numbers) + 1)):
        low, high = min(numbers), max(numbers)
        return f"its {len(numbers)} images are numbered {low} to {high}; expected 1 to {len(numbers)}"
    wanted = counts.get(video, len(numbers))
    return "" if len(numbers) == wanted else f"{len(numbers)} images; the frame list has {wanted}"


def _image_number(stem: str) -> int | None:
    """Return the number at the end of a name, or None."""
    digits = stem[len(stem.rstrip(string.digits)) :]
    return int(digits) if 0 < len(digits) <= _MAX_DIGITS else None


def _video_start(status: VideoStatus, target: Path, args: argparse.Namespace) -> float | str:
    """Return `video_start` of the dataset file."""
    if args.cut:
        starts = target / "starts"
        write_video_starts(target / "starts.csv", {v: read_start(p, starts) for v, p in status.paths.items()})
        return "starts.csv"
    return 0.0 if args.layout == "movies" else CUT[0]


def _write_part(
    part: str,
    rows: ActionBoxes,
    persons: PersonBoxes | None,
    start: float | str,
    target: Path,
    args: argparse.Namespace,
) -> Path | None:
    """Write the files of a set; return its dataset file, or None if there are no rows."""
    file = target / f"{part}.yaml"
    if not len(rows):
        file.unlink(missing_ok=True)
        return None
    write_action_csv(target / f"{part}.csv", rows, kind="ground_truth")
    copy_file(args.annotations / EXCLUDED[part], target / f"{part}_excluded.csv")
    content = {"videos": "videos", "annotations": f"{part}.csv", "label_map": "actions.pbtxt"}
    content |= {"scored_classes": "scored_actions.pbtxt", "excluded": f"{part}_excluded.csv"}
    if part == "val" and persons is not None:
        annotated = set(rows.videos[np.unique(rows.video)])
        write_person_boxes(target / "val_persons.csv", rows_of(persons, annotated))
        content["person_boxes"] = "val_persons.csv"
    write_dataset_file(file, **content, video_start=start)
    return file


def _keyframe_remarks(status: VideoStatus, source: Path, target: Path) -> list[str]:
    """Describe which frame is the keyframe, with one video as the example, because results depend on it."""
    if not status.paths:
        return []
    files = [target / f"{part}.yaml" for part in ANNOTATIONS if (target / f"{part}.yaml").exists()]
    video, path = next(iter(status.paths.items()))
    start = read_dataset_file(files[0]).start_of(video)
    try:
        reader = open_video(source / path)
        index = reader.index_at(FIRST_KEYFRAME - start)
    except DataError as error:
        return [f"keyframes: {error}"]
    offset = (reader.times[index] + start - FIRST_KEYFRAME) * 1000
    rule = describe_keyframe(video, FIRST_KEYFRAME, start)
    return [f"keyframes: {rule}; here it is frame {index} (from 0) of {len(reader)}, offset {offset:+.1f} ms"]
