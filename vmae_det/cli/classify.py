"""`vmae-det classify`: print and write the classes of videos, of whole videos or over time."""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vmae_det.cli.arguments import (
    fraction,
    keyframe_interval,
    number_in,
    output_folder,
    positive_int,
    refuse_unused,
)
from vmae_det.cli.video_jobs import (
    ProcessVideo,
    add_job_arguments,
    add_span_arguments,
    add_videos_argument,
    check_span,
    launch_jobs,
    process_videos,
)
from vmae_det.cli.weights_arguments import add_weights_arguments, load_weights_config
from vmae_det.utils.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from vmae_det.inference.classifier import ActionClassifier
    from vmae_det.video.discovery import VideoInput

_TABLE = "table"  # on the terminal; the other formats are files
_FORMATS = (_TABLE, "csv", "jsonl")
_TIMELINE_FORMATS = (*_FORMATS, "overlay", "html")
# Options of --every, with their defaults.
_TIMELINE_OPTIONS = {"start": 0.0, "end": math.inf, "smooth": 0.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the videos, the model, the times and the outputs."""
    add_videos_argument(parser)
    parser.add_argument(
        "--weights",
        required=True,
        metavar="WEIGHTS",
        help="weights of a classifier, such as model_final.pt, a published model by name, a Hugging Face "
        "folder, or an exported classifier",
    )
    parser.add_argument("--output", type=output_folder, metavar="FOLDER", help="write results to this folder")
    parser.add_argument(
        "--top-k",
        type=positive_int,
        default=5,
        metavar="K",
        help="print and draw at most K classes; files contain all of them (default: %(default)s)",
    )
    parser.add_argument(
        "--format",
        metavar="LIST",
        help="what to write: a list of table (on the terminal), csv, jsonl, and with --every also overlay "
        "and html (default: table; with --output table,csv,jsonl)",
    )
    timeline = parser.add_argument_group("over time")
    timeline.add_argument(
        "--every",
        type=keyframe_interval,
        metavar="SECONDS",
        help="classify the clip around every SECONDS instead of the whole video; required for live streams",
    )
    timeline.add_argument(
        "--smooth",
        type=number_in("[0, 1000000]"),
        default=0.0,
        metavar="SECONDS",
        help="average the scores over this time before a clip and half of it after (default: %(default)s)",
    )
    add_span_arguments(timeline)
    timeline.add_argument(
        "--threshold",
        type=fraction,
        default=0.1,
        metavar="SCORE",
        help="draw classes from this score on, in overlay and html (default: %(default)s)",
    )
    timeline.add_argument(
        "--font", metavar="FILE", help="font for class names in scripts that the default fonts lack"
    )
    add_job_arguments(parser)
    add_weights_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Classify all videos; return the exit status."""
    from vmae_det.video.discovery import find_video_inputs

    formats = _choose_formats(args)
    if args.every is None:
        refuse_unused(args, "requires --every", **_TIMELINE_OPTIONS)
    else:
        check_span(args)
    if not {"overlay", "html"} & set(formats):
        refuse_unused(args, "only used by overlay and html, and --format includes neither", threshold=0.1)
    if "overlay" not in formats:
        refuse_unused(args, "only used by the overlay, and --format does not include overlay", font=None)
        if _TABLE not in formats:
            reason = "only used by table and overlay, and --format includes neither"
            refuse_unused(args, reason, top_k=5)
    inputs = find_video_inputs(args.videos)
    live = next((video.video for video in inputs if video.is_live), None)
    if live is not None and args.every is None:
        raise UserError(f"{live}: a live stream has no end; classify it by --every SECONDS")
    return launch_jobs(classify_videos, args, inputs, formats)


def _choose_formats(args: argparse.Namespace) -> list[str]:
    known = _FORMATS if args.every is None else _TIMELINE_FORMATS
    default = ",".join(_FORMATS) if args.output else _TABLE
    formats = [name.strip() for name in (args.format or default).split(",")]
    for name in formats:
        if name not in _TIMELINE_FORMATS:
            raise UserError(f"--format: unknown format '{name}'{did_you_mean(name, _TIMELINE_FORMATS)}")
        if name not in known:
            raise UserError(f"--format: {name} requires --every SECONDS")
        if name != _TABLE and args.output is None:
            raise UserError(f"--format: {name} requires --output FOLDER")
    if args.output is None:
        refuse_unused(args, "requires --output", overwrite=False)
    elif formats == [_TABLE]:
        raise UserError("--output: not used, since --format only contains table")
    return [name for name in known if name in formats]


def classify_videos(args: argparse.Namespace, inputs: list[VideoInput], formats: list[str]) -> None:
    """Process this rank's share of the videos.

    Raises:
        UserError: videos could not be read. With several videos it is raised at the end, in all processes.
    """
    files = [name for name in formats if name != _TABLE]
    make = _prepare if args.every is None else _prepare_timeline
    process_videos(
        inputs,
        args.output,
        partial(_is_done, args, files),
        lambda: make(args, _load_classifier(args), files, _TABLE in formats, several=len(inputs) > 1),
        overwrite=args.overwrite,
    )


def _load_classifier(args: argparse.Namespace) -> ActionClassifier:
    from vmae_det.formats.label_map import LabelMap
    from vmae_det.inference.classifier import ActionClassifier

    label_map = LabelMap.from_file(args.label_map) if args.label_map else None
    return ActionClassifier(load_weights_config(args), label_map)


def _is_done(args: argparse.Namespace, files: list[str], video: VideoInput) -> bool:
    from vmae_det.rendering.class_writers import TIMELINE_WRITERS, class_file, timeline_stem
    from vmae_det.rendering.detect_video import is_done

    if args.output is None:
        return False
    stem = args.output / video.stem
    if args.every is None:
        return all(class_file(stem, name).is_file() for name in files)
    return is_done(timeline_stem(stem), files, TIMELINE_WRITERS)


def _prepare(
    args: argparse.Namespace, classifier: ActionClassifier, files: list[str], table: bool, several: bool
) -> ProcessVideo:
    """Return a function that classifies a whole video."""
    from tqdm import tqdm

    from vmae_det.rendering.class_writers import class_file, class_table, write_classes

    def process(video: VideoInput, title: str) -> list[Path]:
        result, name = classifier(video.video), video.stem.as_posix()
        paths = [class_file(args.output / video.stem, form) for form in files]
        for path in paths:
            write_classes(result, name, path)
        if table:
            tqdm.write(class_table(result, name, args.top_k))
        return paths

    return process


def _prepare_timeline(
    args: argparse.Namespace, classifier: ActionClassifier, files: list[str], table: bool, several: bool
) -> ProcessVideo:
    """Return a function that classifies a video over time."""
    from vmae_det.rendering.class_writers import TIMELINE_WRITERS, ClassPrinter, timeline_stem
    from vmae_det.rendering.detect_video import DetectionSettings, write_stream
    from vmae_det.rendering.overlay_video import OverlayStyle

    style = OverlayStyle(args.top_k, args.threshold, timeline=True, typeface=args.font, whole_frame=True)
    settings = DetectionSettings(files, args.every, 0.0, args.start, args.end, args.smooth, style)
    classifier.warn_about_segments()

    def process(video: VideoInput, title: str) -> list[Path]:
        stream = classifier.stream(video.video, every=args.every, options=settings.stream_options())
        name = f"{video.stem.as_posix()}  " if several else ""
        printer = ClassPrinter(name, classifier.label_map, args.top_k) if table else None
        stem = timeline_stem((args.output or Path()) / video.stem)
        return write_stream(
            stream, classifier.label_map, stem, settings, title, writers=TIMELINE_WRITERS, listener=printer
        )

    return process
