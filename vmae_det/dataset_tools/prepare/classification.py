"""Steps shared by classification datasets: find the videos, check or re-encode them, write the lists."""

from __future__ import annotations

import argparse
import functools
from dataclasses import dataclass
from pathlib import Path

from vmae_det.dataset_tools.prepare.files import VideoIndex, check_link, link_folder, write_label_map
from vmae_det.dataset_tools.prepare.preparers import Outcome
from vmae_det.dataset_tools.prepare.resize import (
    add_gop_argument,
    parse_short_side,
    resize_videos,
    resized_name,
)
from vmae_det.dataset_tools.prepare.transcode import DEFAULT_GOP
from vmae_det.dataset_tools.prepare.video_jobs import Journal, header_problem, run_video_jobs
from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.output_files import write_text


@dataclass(frozen=True)
class ListedVideo:
    """A video that the annotations name.

    Args:
        stems: possible names of its file, without suffix, the most likely first.
        label: 0-based.
        folders: folders to prefer if several files have the name.
    """

    stems: tuple[str, ...]
    label: int
    folders: tuple[str, ...] = ()

    def find(self, index: VideoIndex) -> str | None:
        """Return its path in the folder of videos, or None."""
        found = (index.find(stem, *self.folders) for stem in self.stems)
        return next(filter(None, found), None)


def add_classification_arguments(parser: argparse.ArgumentParser, annotations: str, videos: str) -> None:
    """Add the paths of the official files, and --resize. `annotations` and `videos` are help texts."""
    parser.add_argument("--annotations", type=Path, required=True, metavar="DIR", help=annotations)
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help=videos)
    parser.add_argument(
        "--resize",
        type=parse_short_side,
        metavar="PIXELS",
        help="re-encode the videos (H.264, no audio) with a short side of at most this many pixels; without "
        "it, the original videos are used",
    )
    add_gop_argument(parser)


def prepare_classification(
    folder: Path,
    lists: dict[str, list[ListedVideo]],
    classes: list[str],
    args: argparse.Namespace,
    missing_is_normal: bool = False,
    remarks: tuple[str, ...] = (),
) -> Outcome:
    """Write `folder/videos`, a list NAME.csv for each of `lists`, and `folder/label_map.pbtxt`.

    Args:
        lists: list name to its videos.
        classes: names in the order of the labels.
        missing_is_normal, remarks: as of `Outcome`.

    Raises:
        DataError: none of the videos exists.
        UserError: the output would be in the folder of videos, or something else is in its place.
    """
    if folder.resolve().is_relative_to(args.videos.resolve()):
        raise UserError(
            f"--videos: {args.videos} contains the dataset's output folder {folder}; pass a folder that "
            "contains only the videos, or another --root"
        )
    if args.gop != DEFAULT_GOP and not args.resize:
        raise UserError("--gop: applies only to the videos of --resize; add --resize, or omit it")
    settings = f"{args.resize}" if args.gop == DEFAULT_GOP else f"{args.resize}_gop{args.gop}"
    target = folder / f"videos_{settings}" if args.resize else args.videos
    check_link(target, folder / "videos")
    index = VideoIndex(args.videos)
    listed = list(dict.fromkeys(video for videos in lists.values() for video in videos))
    paths = {video: path for video in listed if (path := video.find(index))}
    if not paths:
        raise DataError(
            f"contains none of the {len(listed)} videos of the annotations, such as {listed[0].stems[0]}.*",
            args.videos,
        )
    names = list(paths.values())
    if args.resize:
        journal = Journal(folder / f"journal_resize_{settings}.jsonl", args.videos)
        problems = resize_videos(names, args.videos, target, journal, args.resize, args.gop, args.workers)
    else:
        problems = _check_headers(names, folder, args)
    link_folder(target, folder / "videos")
    made = [f"videos: {target}"]
    for name, videos in lists.items():
        usable = [(paths[v], v.label) for v in videos if v in paths and not problems[paths[v]]]
        rows = [(resized_name(path) if args.resize else path, label) for path, label in usable]
        write_text(folder / f"{name}.csv", "".join(f"{path} {label}\n" for path, label in rows))
        made.append(f"{name}.csv: {len(rows)} videos of {len({label for _, label in rows})} classes")
    write_label_map(folder / "label_map.pbtxt", dict(enumerate(classes, start=1)))
    return Outcome(
        made,
        expected=len(listed),
        broken={name: problem for name, problem in problems.items() if problem},
        missing=[video.stems[0] for video in listed if video not in paths],
        missing_is_normal=missing_is_normal,
        remarks=list(remarks),
    )


def class_count_remark(classes: list[str], expected: int) -> tuple[str, ...]:
    """Return a remark if the annotations do not have all classes of the dataset, else nothing."""
    if len(classes) == expected:
        return ()
    return (
        f"NOTE: {len(classes)} classes; the complete dataset has {expected}: labels differ from published "
        "models",
    )


def _check_headers(names: list[str], folder: Path, args: argparse.Namespace) -> dict[str, str]:
    job = functools.partial(header_problem, folder=args.videos.resolve())
    journal = Journal(folder / "journal_headers.jsonl", args.videos)
    return run_video_jobs(journal, names, job, "checking headers", workers=args.workers)
