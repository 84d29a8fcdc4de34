"""Steps shared by detection datasets: check and link the videos, write dataset files, run the checker."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import yaml

from vmae_det.data.catalog import read_dataset_file
from vmae_det.dataset_tools.check import check_dataset
from vmae_det.dataset_tools.prepare.files import VideoIndex
from vmae_det.dataset_tools.prepare.video_jobs import Journal, header_problem, run_video_jobs
from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.person_boxes import PersonBoxes
from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.output_files import make_output_folder, write_text

NO_PERSON_BOXES = "NOTE: testing on val requires detected persons; pass --person-boxes"


@dataclass(frozen=True)
class VideoStatus:
    """Usable, broken and missing videos of a dataset.

    Args:
        paths: video id to path of each usable video, relative to the folder of videos.
        broken: path of each unusable video to the reason.
        missing: ids of the videos without a file.
    """

    paths: dict[str, str]
    broken: dict[str, str]
    missing: list[str]


def add_detection_arguments(
    parser: argparse.ArgumentParser, annotations: str, videos: str, person_boxes: str
) -> None:
    """Add the paths of the official files; the arguments are help texts."""
    parser.add_argument("--annotations", type=Path, required=True, metavar="PATH", help=annotations)
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help=videos)
    parser.add_argument("--person-boxes", type=Path, metavar="FILE", help=person_boxes)


def find_videos_by_id(stems: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return video id to path in `folder` of each video that exists.

    Args:
        stems: video id to the name of its file without suffix.

    Raises:
        DataError: none of the videos exists.
    """
    index = VideoIndex(folder)
    paths = {video: path for video, stem in stems.items() if (path := index.find(stem))}
    if not paths:
        example = next(iter(stems.values()), "")
        problem = f"contains none of the {len(stems)} videos of the annotations, such as {example}.*"
        raise DataError(problem, folder)
    return paths


def check_headers(
    paths: Mapping[str, str], expected: Iterable[str], folder: Path, args: argparse.Namespace
) -> VideoStatus:
    """Check the headers of the videos in `paths` (id to path).

    Args:
        expected: ids of all videos.
        folder: folder of the journal.
    """
    job = functools.partial(header_problem, folder=args.videos.resolve())
    journal = Journal(folder / "journal_headers.jsonl", args.videos)
    problems = run_video_jobs(journal, paths.values(), job, "checking headers", workers=args.workers)
    return video_status(paths, expected, problems)


def video_status(
    paths: Mapping[str, str], expected: Iterable[str], problems: Mapping[str, str]
) -> VideoStatus:
    """Sort videos into usable, broken and missing.

    Args:
        paths: video id to path of each video that exists.
        expected: ids of all videos.
        problems: path to problem, '' for none.
    """
    return VideoStatus(
        paths={video: path for video, path in paths.items() if not problems[path]},
        broken={path: problems[path] for path in paths.values() if problems[path]},
        missing=[video for video in expected if video not in paths],
    )


def check_link_folder(folder: Path, videos: Path) -> None:
    """Raise a UserError if `link_videos` would fail for `folder`; call this before long work."""
    if folder.resolve().is_relative_to(videos.resolve()):
        raise UserError(
            f"--videos: {videos} contains {folder}, where links are created; keep the videos in another "
            "folder"
        )
    for entry in os.scandir(folder) if folder.is_dir() else ():
        if not entry.is_symlink():
            raise UserError(f"{entry.path}: expected only links to videos in this folder; move it away")


def link_videos(paths: Mapping[str, str], source: Path, folder: Path) -> None:
    """Fill `folder` with a link ID.SUFFIX to each video, or ID to a folder of frames; remove other links."""
    check_link_folder(folder, source)
    make_output_folder(folder)
    wanted = {f"{video}{_suffix(source / path)}": source.resolve() / path for video, path in paths.items()}
    for entry in os.scandir(folder):
        target = wanted.get(entry.name)
        if target is not None and os.readlink(entry.path) == str(target):
            del wanted[entry.name]
        else:
            os.unlink(entry.path)
    for name, target in wanted.items():
        (folder / name).symlink_to(target)


def _suffix(path: Path) -> str:
    return "" if path.is_dir() else path.suffix


def rows_of(rows: ActionBoxes | PersonBoxes, videos: Collection[str]) -> ActionBoxes | PersonBoxes:
    """Return the rows of the given videos."""
    known = pl.Series(rows.videos.tolist(), dtype=pl.String).is_in(list(videos)).to_numpy()
    return rows.select(known[rows.video])


def write_dataset_file(path: Path, **content: str | float | bool) -> None:
    """Write the dataset file of a detection dataset; `content` are its keys, with paths relative to it."""
    write_text(path, yaml.safe_dump({"type": "detection", **content}, sort_keys=False))


def run_checker(files: Iterable[Path], workers: int | None) -> list[str]:
    """Check datasets by the headers of their videos; return a few lines for each dataset file."""
    lines = []
    for file in files:
        report = check_dataset(read_dataset_file(file), decode="none", workers=workers)
        counts = ", ".join(f"{count} {name}" for name, count in report.counts.items())
        lines.append(f"check-data {file}: {counts}; {report.verdict}")
        for finding in report.findings:
            severity = "warning" if finding.is_warning else "ERROR"
            lines.append(f"  {severity} {finding.kind}: {finding.what}")
    return lines
