"""`vmae-det detect`: detect actions in videos; write overlay videos, AVA CSV, JSON lines and pages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vmae_det.cli.arguments import (
    fraction,
    keyframe_interval,
    number_in,
    output_folder,
    positive_int,
    refuse_overwriting,
    refuse_unused,
)
from vmae_det.cli.video_jobs import (
    ProcessVideo,
    add_job_arguments,
    add_span_arguments,
    add_video_start_argument,
    add_videos_argument,
    check_span,
    launch_jobs,
    process_videos,
)
from vmae_det.cli.weights_arguments import (
    add_precision_argument,
    add_weights_arguments,
    load_inference_config,
)
from vmae_det.utils.errors import UserError

if TYPE_CHECKING:
    from vmae_det.formats.person_boxes import PersonBoxes
    from vmae_det.inference.person_sources import PersonSource
    from vmae_det.video.discovery import VideoInput


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the videos, the persons, the model and the outputs."""
    add_videos_argument(parser)
    persons = parser.add_mutually_exclusive_group()
    persons.add_argument(
        "--boxes",
        type=Path,
        metavar="FILE",
        help="person boxes at keyframes: rows of VIDEO_NAME,SECOND,x1,y1,x2,y2,score, or another person-box "
        "format (default: run the detector of the config's PERSON_DETECTOR)",
    )
    persons.add_argument("--whole-frame", action="store_true", help="treat the whole frame as one person")
    parser.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help="weights of an ActionDetector, such as model_final.pt, a published detector by name, or an "
        "exported detector",
    )
    parser.add_argument(
        "--output", type=output_folder, required=True, metavar="FOLDER", help="write results to this folder"
    )
    _add_time_arguments(parser)
    parser.add_argument(
        "--actions", nargs="+", metavar="ACTION", help="names or ids of the actions to keep (default: all)"
    )
    parser.add_argument(
        "--format",
        default="csv,jsonl,overlay",
        metavar="LIST",
        help="what to write: a list of csv, jsonl, overlay and html (default: %(default)s)",
    )
    parser.add_argument("--html", action="store_true", help="also write an HTML page, as --format html does")
    parser.add_argument(
        "--top-k",
        type=positive_int,
        default=3,
        metavar="K",
        help="draw at most K actions per person (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=fraction,
        default=0.3,
        metavar="SCORE",
        help="draw actions from this score on (default: %(default)s)",
    )
    parser.add_argument(
        "--timeline", action="store_true", help="draw a timeline of the actions below the frames"
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="draw which regions raise the score of a person's best action (docs/guides/overlay.md); "
        "requires --smooth 0",
    )
    parser.add_argument(
        "--font", metavar="FILE", help="font for action names in scripts that the default fonts lack"
    )
    add_job_arguments(parser)
    add_precision_argument(parser)
    add_weights_arguments(parser)


def _add_time_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--every",
        type=keyframe_interval,
        default=1.0,
        metavar="SECONDS",
        help="time between keyframes; not used with --boxes (default: %(default)s)",
    )
    parser.add_argument(
        "--smooth",
        type=number_in("[0, 1000000]"),
        default=2.0,
        metavar="SECONDS",
        help="average a person's scores over this time before a keyframe and half of it after; 0 disables "
        "smoothing (default: %(default)s)",
    )
    add_span_arguments(parser)
    add_video_start_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Run detection on all videos; return the exit status."""
    from vmae_det.rendering.result_writers import choose_formats, output_paths
    from vmae_det.video.discovery import find_video_inputs

    check_span(args)
    formats = choose_formats(args.format + ",html" * args.html)
    if args.boxes:
        refuse_unused(args, "not used with --boxes, which sets the times of the keyframes", every=1.0)
    elif args.video_start + args.start < 0:
        raise UserError(
            f"--video-start: {args.video_start:g} places keyframes before second 0 of the AVA clock"
        )
    if "overlay" not in formats:
        reason = "only used by the overlay, and --format does not include overlay"
        refuse_unused(args, reason, timeline=False, font=None, top_k=3, explain=False)
        if "html" not in formats:
            reason = "only used by overlay and html, and --format includes neither"
            refuse_unused(args, reason, threshold=0.3)
    if args.explain and args.smooth:
        raise UserError("--explain: explains the scores of single keyframes; add --smooth 0")
    inputs = find_video_inputs(args.videos)
    for video in inputs:
        for path in output_paths(args.output / video.stem, formats).values():
            refuse_overwriting(path, args.boxes)
    return launch_jobs(detect_videos, args, inputs, formats)


def detect_videos(args: argparse.Namespace, inputs: list[VideoInput], formats: list[str]) -> None:
    """Process this rank's share of the videos.

    Raises:
        UserError: videos could not be read. With several videos it is raised at the end, in all processes.
    """
    from vmae_det.rendering.detect_video import is_done

    process_videos(
        inputs,
        args.output,
        lambda video: is_done(args.output / video.stem, formats),
        lambda: _prepare(args, formats),
        overwrite=args.overwrite,
    )


def _prepare(args: argparse.Namespace, formats: list[str]) -> ProcessVideo:
    from vmae_det.formats.label_map import LabelMap
    from vmae_det.inference.predictor import ActionPredictor
    from vmae_det.rendering.detect_video import DetectionSettings, detect_video
    from vmae_det.rendering.overlay_video import OverlayStyle

    label_map = LabelMap.from_file(args.label_map) if args.label_map else None
    predictor = ActionPredictor(load_inference_config(args), label_map, args.actions)
    persons = _persons(args)
    settings = DetectionSettings(
        formats,
        args.every,
        args.video_start,
        args.start,
        args.end,
        args.smooth,
        OverlayStyle(args.top_k, args.threshold, args.timeline, args.font),
        explain=args.explain,
    )
    return lambda video, title: detect_video(
        predictor, video.video, persons, args.output / video.stem, settings, title
    )


def _persons(args: argparse.Namespace) -> PersonBoxes | PersonSource | None:
    from vmae_det.formats.person_boxes import read_person_boxes
    from vmae_det.inference.person_sources import WholeFramePerson

    if args.whole_frame:
        return WholeFramePerson()
    return read_person_boxes(args.boxes) if args.boxes else None
