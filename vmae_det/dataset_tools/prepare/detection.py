"""The steps that detection datasets share: find and check the videos, link them by their ids, write the
dataset files, and ask the data doctor."""

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
from vmae_det.dataset_tools.prepare.video_index import VideoIndex
from vmae_det.dataset_tools.prepare.work import Journal, header_problem, work_through
from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.box_csv import COORDINATES
from vmae_det.formats.person_boxes import PersonBoxes
from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.output_files import atomic_write, make_output_folder, write_text


@dataclass(frozen=True)
class FoundVideos:
    """The videos of a dataset, by their ids.

    Args:
        paths: of usable videos, relative to the folder of videos.
        broken: path of a video that cannot be used, to the reason.
        missing: ids.
    """

    paths: dict[str, str]
    broken: dict[str, str]
    missing: list[str]


def add_detection_arguments(
    parser: argparse.ArgumentParser, annotations: str, videos: str, person_boxes: str
) -> None:
    """Where the official files lie."""
    parser.add_argument("--annotations", type=Path, required=True, metavar="PATH", help=annotations)
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help=videos)
    parser.add_argument("--person-boxes", type=Path, metavar="FILE", help=person_boxes)


def find_videos_by_id(stems: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Path below `folder` of each video that is there.

    Args:
        stems: video id to the name of its file without suffix.

    Raises:
        DataError: none of the videos is there.
    """
    index = VideoIndex(folder)
    paths = {video: path for video, stem in stems.items() if (path := index.find(stem))}
    if not paths:
        example = next(iter(stems.values()), "")
        problem = f"holds none of the {len(stems)} videos of the annotations, such as {example}.*"
        raise DataError(problem, folder)
    return paths


def check_headers(
    paths: Mapping[str, str], expected: Iterable[str], folder: Path, args: argparse.Namespace
) -> FoundVideos:
    """Sort the videos that are there by what their headers say."""
    ask = functools.partial(header_problem, folder=args.videos.resolve())
    journal = Journal(folder / "journal_headers.jsonl", args.videos)
    problems = work_through(journal, paths.values(), ask, "checking headers", workers=args.workers)
    return sort_videos(paths, expected, problems)


def sort_videos(
    paths: Mapping[str, str], expected: Iterable[str], problems: Mapping[str, str]
) -> FoundVideos:
    """Videos by id into usable, broken and missing, by the problems of their paths."""
    return FoundVideos(
        paths={video: path for video, path in paths.items() if not problems[path]},
        broken={path: problems[path] for path in paths.values() if problems[path]},
        missing=[video for video in expected if video not in paths],
    )


def check_place(folder: Path, videos: Path) -> None:
    """UserError where `link_videos` could not make `folder` of what lies in `videos`, before long work."""
    if folder.resolve().is_relative_to(videos.resolve()):
        raise UserError(f"--videos: {videos} holds {folder}, where links are made; keep the videos elsewhere")
    for entry in os.scandir(folder) if folder.is_dir() else ():
        if not entry.is_symlink():
            raise UserError(f"{entry.path}: expected links to videos alone in this folder; move it away")


def link_videos(paths: Mapping[str, str], source: Path, folder: Path) -> None:
    """Make `folder` hold a link ID.SUFFIX to each video, or ID to a folder of frames, and no other link."""
    check_place(folder, source)
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
    """The rows whose video is one of `videos`."""
    known = pl.Series(rows.videos.tolist(), dtype=pl.String).is_in(list(videos)).to_numpy()
    return rows.select(known[rows.video])


def write_person_boxes(path: Path, boxes: PersonBoxes) -> None:
    """Write SlowFast's CSV of person boxes; times to the millisecond."""
    columns = dict(zip(COORDINATES, boxes.boxes.T))
    frame = pl.DataFrame(
        {
            "video": boxes.videos[boxes.video].tolist(),
            "timestamp": boxes.timestamp.round(3),
            **columns,
            "label": pl.Series([None] * len(boxes), dtype=pl.String),
            "score": boxes.score,
        },
        schema_overrides={"video": pl.String},
    )
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        frame.with_columns(pl.col(COORDINATES).round(6)).write_csv(file, include_header=False)


def write_label_map(path: Path, names: Mapping[int, str]) -> None:
    """Write a label map of ids and names."""
    lines = [f'item {{ name: "{_quotable(name)}" id: {number} }}\n' for number, name in names.items()]
    write_text(path, "".join(lines))


def _quotable(name: str) -> str:
    return " ".join(name.replace('"', "'").replace("\\", "/").split())


def copy_file(source: Path, target: Path) -> None:
    """A copy, whole or not at all."""
    with atomic_write(target) as temporary:
        temporary.write_bytes(source.read_bytes())


def write_dataset_file(path: Path, **content: str | float) -> None:
    """Write the dataset file of a detection dataset; `content` are its keys, paths relative to it."""
    write_text(path, yaml.safe_dump({"type": "detection", **content}, sort_keys=False))


def ask_doctor(files: Iterable[Path], workers: int | None) -> list[str]:
    """What the data doctor says of dataset files by the headers of their videos: a few lines for each."""
    lines = []
    for file in files:
        report = check_dataset(read_dataset_file(file), decode="none", workers=workers)
        counts = ", ".join(f"{count} {name}" for name, count in report.counts.items())
        lines.append(f"check-data {file}: {counts}; {report.verdict}")
        for finding in report.findings:
            severity = "warning" if finding.is_warning else "ERROR"
            lines.append(f"  {severity} {finding.kind}: {finding.what}")
    return lines
