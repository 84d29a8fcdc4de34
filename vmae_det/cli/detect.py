"""`vmae-det detect`: what the people in videos do, as overlay videos, AVA CSV and JSON lines."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from vmae_det.cli.arguments import (
    clock,
    decimal,
    every,
    fraction,
    moment,
    output_folder,
    positive,
    processes,
    refuse_unused,
)
from vmae_det.cli.common import add_weights_arguments
from vmae_det.utils.errors import UserError

_VIDEO = (
    "a video file, a folder of videos or of frames, a pattern such as frames/%%05d.jpg, an http(s) address, "
    "a stream (rtsp, rtmp, udp), or a camera: its number or device"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The videos, their people, the model, and what to make."""
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help=_VIDEO)
    persons = parser.add_mutually_exclusive_group()
    persons.add_argument(
        "--boxes",
        type=Path,
        metavar="FILE",
        help="persons at keyframes: lines VIDEO_NAME,SECOND,x1,y1,x2,y2,score, or another person-box format; "
        "without it, people are found by the config's PERSON_DETECTOR",
    )
    persons.add_argument("--whole-frame", action="store_true", help="the whole frame is one person")
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="of an ActionDetector, such as model_final.pt"
    )
    parser.add_argument("--output", type=output_folder, required=True, metavar="DIR")
    _add_time_arguments(parser)
    parser.add_argument(
        "--actions", nargs="+", metavar="ACTION", help="names or ids of the actions that are kept (all)"
    )
    parser.add_argument(
        "--format",
        default="csv,jsonl,overlay",
        metavar="LIST",
        help="what to write, of csv, jsonl, overlay and html (%(default)s)",
    )
    parser.add_argument("--html", action="store_true", help="write a page for the browser, too")
    parser.add_argument("--top-k", type=positive, default=3, help="actions drawn for a person (%(default)s)")
    parser.add_argument(
        "--threshold",
        type=fraction,
        default=0.3,
        help="lowest score of an action that is drawn (%(default)s)",
    )
    parser.add_argument(
        "--timeline", action="store_true", help="below the frames, people's actions over time"
    )
    parser.add_argument("--font", metavar="FILE", help="font for names in scripts that the usual ones lack")
    parser.add_argument("--overwrite", action="store_true", help="make again what is there already")
    parser.add_argument(
        "--num-gpus", type=processes, default=1, help="processes that share the videos (on the CPU too)"
    )
    add_weights_arguments(parser)


def _add_time_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--every",
        type=every,
        default=1.0,
        metavar="S",
        help="seconds between keyframes, where the boxes dictate none (%(default)s)",
    )
    parser.add_argument(
        "--smooth",
        type=decimal("[0, 1000000]"),
        default=2.0,
        metavar="S",
        help="seconds before a keyframe, and half as many after it, over which a person's scores are "
        "averaged (%(default)s); 0: as the model gives them",
    )
    parser.add_argument(
        "--start", type=moment, default=0.0, metavar="S", help="second of the video to begin at"
    )
    parser.add_argument(
        "--end", type=decimal("(0, inf]"), default=math.inf, metavar="S", help="second of the video to end at"
    )
    parser.add_argument(
        "--video-start",
        type=clock,
        default=0.0,
        metavar="S",
        help="second of the boxes' clock at which the file starts",
    )


def run(args: argparse.Namespace) -> int:
    """Detect in all videos; gives the exit status."""
    from vmae_det.cli.detect_videos import detect_videos
    from vmae_det.engine.launch import check_processes, launch
    from vmae_det.rendering.result_writers import choose_formats
    from vmae_det.video.discovery import find_video_inputs

    check_processes(args.num_gpus)
    if args.end <= args.start:
        raise UserError(f"--end: {args.end:g} s lie before --start {args.start:g}")
    formats = choose_formats(args.format + ",html" * args.html)
    if args.boxes:
        refuse_unused(args, "--boxes says at which times there are people", every=1.0)
    elif args.video_start + args.start < 0:
        raise UserError(f"--video-start: {args.video_start:g} puts keyframes before second 0 of AVA's clock")
    if "overlay" not in formats:
        missing = "the overlay alone shows it, which --format does not have"
        refuse_unused(args, missing, timeline=False, font=None, top_k=3)
        if "html" not in formats:
            refuse_unused(args, "--format has neither the overlay nor the page, which show it", threshold=0.3)
    inputs = find_video_inputs(args.videos)
    return launch(detect_videos, (args, inputs, formats), num_processes=min(args.num_gpus, len(inputs)))
