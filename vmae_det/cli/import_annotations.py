"""`vmae-det import`: annotations of CVAT, VIA 3, COCO JSON and Label Studio become a dataset."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.cli.arguments import every, frame_rate, moment, output_folder, whole
from vmae_det.dataset_tools.importers import ImportOptions, import_annotations
from vmae_det.dataset_tools.importers.file_names import video_id
from vmae_det.dataset_tools.importers.importer import AUTO, format_names
from vmae_det.utils.errors import ConfigError, DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files, what they are, and where the dataset goes."""
    parser.add_argument("sources", nargs="+", metavar="SOURCE", type=Path, help="a file that a tool exported")
    parser.add_argument("--format", choices=[AUTO, *format_names()], default=AUTO, help="default: by content")
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", type=output_folder, help="where the dataset goes"
    )
    parser.add_argument(
        "--videos",
        metavar="FOLDER",
        type=Path,
        help="the video files, for their times and frame sizes (else FOLDER/videos is named, to be filled)",
    )
    parser.add_argument(
        "--every",
        type=every,
        default=1.0,
        metavar="SECONDS",
        help="from keyframe to keyframe (default: 1)",
    )
    parser.add_argument("--label-map", metavar="FILE", type=Path, help="actions.pbtxt to keep ids of")
    parser.add_argument(
        "--video-start",
        type=moment,
        default=0.0,
        metavar="SECOND",
        help="second of the dataset's clock at which every video file starts (default: 0)",
    )
    parser.add_argument(
        "--rate",
        type=frame_rate,
        metavar="FPS",
        help="frames per second by which frames are numbered",
    )
    parser.add_argument(
        "--video",
        metavar="NAME",
        help="the video, where the files do not name it (default: the one in --videos of a file's own name, "
        "else the only one there)",
    )
    parser.add_argument(
        "--frame-size",
        type=_size,
        metavar="WIDTHxHEIGHT",
        help="pixels of the frames, where the files do not say it and --videos has neither videos nor images",
    )
    parser.add_argument(
        "--first-frame",
        type=whole("[0, 1]"),
        default=0,
        help="number of a video's first frame in names of images (ffmpeg: 1; default: 0)",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="NAME",
        help="a class, attribute or action that is not imported; may come several times",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the dataset's files")


def run(args: argparse.Namespace) -> int:
    """Write the dataset and say what is in it."""
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
