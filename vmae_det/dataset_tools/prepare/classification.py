"""The steps that classification datasets share: find the videos, check or re-encode them, write the lists."""

from __future__ import annotations

import argparse
import functools
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vmae_det.dataset_tools.prepare.common import Outcome, check_link, link_folder
from vmae_det.dataset_tools.prepare.resize import resize_video
from vmae_det.dataset_tools.prepare.video_index import VideoIndex
from vmae_det.dataset_tools.prepare.work import Journal, header_problem, work_through
from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.output_files import write_text

RESIZE_SECONDS = 1800  # that re-encoding one video may take


@dataclass(frozen=True)
class ListedVideo:
    """A video that the annotations name.

    Args:
        stems: names that its file may have, without suffix, the likeliest first.
        label: 0-based.
        folders: where to look first, where several files have the name.
    """

    stems: tuple[str, ...]
    label: int
    folders: tuple[str, ...] = ()

    def find(self, index: VideoIndex) -> str | None:
        """Its path below the folder of videos, or None."""
        found = (index.find(stem, *self.folders) for stem in self.stems)
        return next(filter(None, found), None)


def add_classification_arguments(parser: argparse.ArgumentParser, annotations: str, videos: str) -> None:
    """Where the official files lie, and whether to re-encode."""
    parser.add_argument("--annotations", type=Path, required=True, metavar="DIR", help=annotations)
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help=videos)
    parser.add_argument(
        "--resize",
        type=_short_side,
        metavar="PIXELS",
        help="re-encode the videos (H.264, no sound) with a short side of at most so many pixels; without it "
        "they are used where they lie",
    )


def prepare_classification(
    folder: Path,
    lists: dict[str, list[ListedVideo]],
    classes: list[str],
    args: argparse.Namespace,
    missing_is_normal: bool = False,
    remarks: tuple[str, ...] = (),
) -> Outcome:
    """Make `folder/videos`, a list NAME.csv for each of `lists`, and `folder/label_map.pbtxt`.

    Args:
        lists: videos by the name of their list.
        classes: names in the order of the labels.

    Raises:
        DataError: none of the videos is there.
        UserError: what is to be made would lie in the folder of videos, or there is something in its place.
    """
    if folder.resolve().is_relative_to(args.videos.resolve()):
        raise UserError(
            f"--videos: {args.videos} holds the dataset's own folder {folder}; "
            "name the folder of the videos alone, or another --root"
        )
    place = folder / f"videos_{args.resize}" if args.resize else args.videos
    check_link(place, folder / "videos")
    index = VideoIndex(args.videos)
    listed = list(dict.fromkeys(video for videos in lists.values() for video in videos))
    paths = {video: path for video in listed if (path := video.find(index))}
    if not paths:
        raise DataError(
            f"holds none of the {len(listed)} videos of the annotations, such as {listed[0].stems[0]}.*",
            args.videos,
        )
    names = list(paths.values())
    problems = (_resize if args.resize else _check)(names, folder, args)
    link_folder(place, folder / "videos")
    made = [f"videos: {place}"]
    for name, videos in lists.items():
        usable = [(paths[v], v.label) for v in videos if v in paths and not problems[paths[v]]]
        rows = [(_resized_name(path) if args.resize else path, label) for path, label in usable]
        _write_lines(folder / f"{name}.csv", [f"{path} {label}" for path, label in rows])
        made.append(f"{name}.csv: {len(rows)} videos of {len({label for _, label in rows})} classes")
    entries = enumerate(map(_quotable, classes), start=1)
    _write_lines(
        folder / "label_map.pbtxt", [f'item {{ name: "{name}" id: {number} }}' for number, name in entries]
    )
    return Outcome(
        made,
        expected=len(listed),
        broken={name: problem for name, problem in problems.items() if problem},
        missing=[video.stems[0] for video in listed if video not in paths],
        missing_is_normal=missing_is_normal,
        remarks=list(remarks),
    )


def class_count_remark(classes: list[str], expected: int) -> tuple[str, ...]:
    """A remark where the annotations have not all classes of the dataset, or none."""
    if len(classes) == expected:
        return ()
    return (
        f"NOTE: {len(classes)} classes, where the whole dataset has {expected}: labels differ from published "
        "models",
    )


def _check(names: list[str], folder: Path, args: argparse.Namespace) -> dict[str, str]:
    ask = functools.partial(header_problem, folder=args.videos.resolve())
    journal = Journal(folder / "journal_headers.jsonl", args.videos)
    return work_through(journal, names, ask, "checking headers", workers=args.workers)


def _resize(names: list[str], folder: Path, args: argparse.Namespace) -> dict[str, str]:
    place = folder / f"videos_{args.resize}"
    place.mkdir(parents=True, exist_ok=True)
    for unfinished in place.rglob(".*.tmp.mp4"):
        unfinished.unlink()
    encode = functools.partial(_resize_one, source=args.videos, target=place, short_side=args.resize)
    return work_through(
        Journal(folder / f"journal_resize_{args.resize}.jsonl", args.videos),
        names,
        encode,
        "re-encoding",
        workers=args.workers,
        seconds=RESIZE_SECONDS,
        is_done=lambda name: (place / _resized_name(name)).is_file(),
    )


def _resize_one(name: str, source: Path, target: Path, short_side: int) -> str:
    return resize_video(source / name, target / _resized_name(name), short_side)


def _resized_name(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(".mp4"))


def _write_lines(path: Path, lines: list[str]) -> None:
    write_text(path, "".join(f"{line}\n" for line in lines))


def _quotable(name: str) -> str:
    """A name that can stand between double quotes in a label map."""
    return " ".join(name.replace('"', "'").replace("\\", "/").split())


def _short_side(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text) or not 16 <= int(text) <= 4320:
        raise argparse.ArgumentTypeError(f"expected pixels, 16 to 4320, got '{text[:50]}'")
    return int(text)
