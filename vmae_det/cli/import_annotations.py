"""`vmae-det import`: import annotations from CVAT, VIA 3, COCO JSON and Label Studio as a dataset."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.cli.arguments import frame_rate, integer_in, keyframe_interval, output_folder, video_time
from vmae_det.dataset_tools.importers import ImportOptions, import_annotations
from vmae_det.dataset_tools.importers.base import AUTO, format_names
from vmae_det.dataset_tools.importers.file_names import video_id
from vmae_det.utils.errors import ConfigError, DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the input files, their format and the output folder."""
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", type=Path, help="annotation file exported by a tool"
    )
    parser.add_argument(
        "--format",
        choices=[AUTO, *format_names()],
        default=AUTO,
        help="format of the files (default: detect from content)",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        type=output_folder,
        help="write the dataset to this folder",
    )
    parser.add_argument(
        "--videos",
        metavar="FOLDER",
        type=Path,
        help="folder of the video files, to read their times and frame sizes (default: the dataset refers to "
        "OUTPUT/videos, where you put the videos later)",
    )
    parser.add_argument(
        "--every",
        type=keyframe_interval,
        default=1.0,
        metavar="SECONDS",
        help="time between keyframes (default: 1)",
    )
    parser.add_argument(
        "--label-map",
        metavar="FILE",
        type=Path,
        help="keep the action ids of this label map (.pbtxt), or of this built-in one",
    )
    parser.add_argument(
        "--video-start",
        type=video_time,
        default=0.0,
        metavar="SECOND",
        help="time on the clock of the dataset at which every video file starts (default: 0)",
    )
    parser.add_argument(
        "--rate",
        type=frame_rate,
        metavar="FPS",
        help="frame rate of the frame numbers in the annotations",
    )
    parser.add_argument(
        "--video",
        metavar="NAME",
        help="video of files that do not name it (default: the video in --videos with the same name, or the "
        "only one)",
    )
    parser.add_argument(
        "--frame-size",
        type=_size,
        metavar="WIDTHxHEIGHT",
        help="frame size in pixels, for files without it if --videos contains neither videos nor images",
    )
    parser.add_argument(
        "--first-frame",
        type=integer_in("[0, 1]"),
        default=0,
        metavar="{0,1}",
        help="number of a video's first frame in image names; ffmpeg uses 1 (default: 0)",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="NAME",
        help="skip this class, attribute or action; repeatable",
    )
    parser.add_argument("--overwrite", action="store_true", help="overwrite an existing dataset")


def run(args: argparse.Namespace) -> int:
    """Write the dataset and print its contents."""
    if args.videos is not None and not args.videos.is_dir():
        raise ConfigError(f"--videos: {args.videos} is not a folder")
    options = ImportOptions(
        format=args.format,
        videos=args.videos,
        every=args.every,
        label_map=args.label_map,
        video_start=args.video_start,
        rate=args.rate,
        first_frame=args.first_frame,
        ignored=frozenset(args.ignore),
        video=None if args.video is None else _video(args.video),
        frame_size=args.frame_size,
    )
    report = import_annotations(args.sources, args.output, options, args.overwrite)
    print(report.as_text())
    if args.videos is None:
        print(f"put the videos into {args.output / 'videos'}, then:")
    print(f"vmae-det check-data {args.output / 'dataset.yaml'}")
    return 0


def _video(text: str) -> str:
    try:
        return video_id(text)
    except DataError as error:
        raise ConfigError(f"--video: {error.problem}") from None


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(s.isascii() and s.isdigit() and 0 < len(s) < 6 and int(s) for s in sides):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, such as 1280x720, got '{text[:50]}'")
    return int(sides[0]), int(sides[1])
