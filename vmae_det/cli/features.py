"""`vmae-det features`: extract features of the clips or the persons of videos, for other models."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmae_det.cli.arguments import (
    integer_in,
    keyframe_interval,
    output_folder,
    positive_int,
    refuse_overwriting,
    refuse_unused,
)
from vmae_det.cli.video_jobs import (
    ProcessVideo,
    add_job_arguments,
    add_video_start_argument,
    add_videos_argument,
    launch_jobs,
    process_videos,
)
from vmae_det.cli.weights_arguments import add_weights_arguments, load_weights_config
from vmae_det.utils.errors import DataError, UserError

if TYPE_CHECKING:
    from vmae_det.config import CfgNode
    from vmae_det.video.discovery import VideoInput

_FORMATS = ("npy", "npz", "hdf5", "parquet")  # as in inference.feature_files, which imports torch
_RATE_KEY = "INPUT.SAMPLING_RATE"


def _sampling_rate(text: str) -> int | None:
    """Argument type: an integer; None for "config"."""
    return None if text == "config" else positive_int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the videos, the model, the clips, the persons and the outputs."""
    add_videos_argument(parser)
    parser.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help="weights of any model: pre-trained, of a classifier or of a detector; a file, or a published "
        "model by name",
    )
    parser.add_argument(
        "--output", type=output_folder, required=True, metavar="FOLDER", help="write results to this folder"
    )
    clips = parser.add_argument_group("clips")
    clips.add_argument(
        "--frames", type=positive_int, metavar="N", help="frames of a clip (default: INPUT.NUM_FRAMES)"
    )
    clips.add_argument(
        "--stride",
        type=positive_int,
        default=16,
        metavar="N",
        help="frames from the start of one clip to the start of the next one (default: %(default)s)",
    )
    clips.add_argument(
        "--sampling-rate",
        type=_sampling_rate,
        default=1,
        metavar="N",
        help="distance of the frames of a clip, or 'config' for INPUT.SAMPLING_RATE (default: %(default)s, "
        "consecutive frames)",
    )
    clips.add_argument(
        "--kind",
        choices=("mean", "tokens", "blocks"),
        default="mean",
        help="the mean token (C), normalized as for the head of a classifier; all tokens (t, h, w, C); or "
        "the mean token after each block (depth, C) (default: %(default)s)",
    )
    clips.add_argument(
        "--view",
        choices=("crop", "stretch"),
        default="crop",
        help="the center crop of testing, or the entire frame resized to INPUT.CROP_SIZE on both sides "
        "(default: %(default)s)",
    )
    clips.add_argument(
        "--batch-size",
        type=integer_in("[1, 100000]"),
        metavar="N",
        help="clips per batch (default: TEST.BATCH_SIZE; 1 on a CPU)",
    )
    _add_person_arguments(parser)
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        help="format of the features (default: npy; npz for persons, whose boxes npy cannot contain)",
    )
    parser.add_argument("--half", action="store_true", help="round the features to float16")
    add_job_arguments(parser)
    add_weights_arguments(parser, label_map=False)


def _add_person_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("persons (RoI features at keyframes instead of features of clips)")
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--persons", action="store_true", help="of the people that the config's PERSON_DETECTOR finds"
    )
    source.add_argument(
        "--boxes",
        type=Path,
        metavar="FILE",
        help="of the person boxes in a file: rows of VIDEO_NAME,SECOND,x1,y1,x2,y2,score, or another "
        "person-box format",
    )
    group.add_argument(
        "--every",
        type=keyframe_interval,
        default=1.0,
        metavar="SECONDS",
        help="time between keyframes; only used with --persons (default: %(default)s)",
    )
    add_video_start_argument(group)


def run(args: argparse.Namespace) -> int:
    """Extract the features of all videos; return the exit status."""
    from vmae_det.video.discovery import find_video_inputs

    of_persons = args.persons or args.boxes is not None
    _check_options(args, of_persons)
    inputs = find_video_inputs(args.videos)
    for video in inputs:
        if video.is_live:
            raise DataError("a live stream has no end; features need video files", video.video)
    if args.boxes:
        from vmae_det.inference.feature_files import manifest_path

        for video in inputs:
            refuse_overwriting(manifest_path(args.output / video.stem), args.boxes)
    cfg = _clip_config(args, of_persons)
    settings = _settings(args, cfg, of_persons)
    return launch_jobs(extract_features, args, inputs, cfg, settings, cfg=cfg)


def extract_features(
    args: argparse.Namespace, inputs: list[VideoInput], cfg: CfgNode, settings: dict[str, Any]
) -> None:
    """Process this rank's share of the videos.

    Raises:
        UserError: videos could not be read. With several videos it is raised at the end, in all processes.
    """
    from vmae_det.inference.feature_files import is_done

    process_videos(
        inputs,
        args.output,
        lambda video: is_done(args.output / video.stem, settings, _facts(args, video)),
        lambda: _prepare(args, cfg, settings),
        overwrite=args.overwrite,
    )


def _check_options(args: argparse.Namespace, of_persons: bool) -> None:
    if of_persons:
        reason = "only used for clips, not for persons, whose clips the config describes"
        refuse_unused(
            args, reason, frames=None, stride=16, sampling_rate=1, kind="mean", view="crop", batch_size=None
        )
        if args.boxes:
            refuse_unused(args, "not used with --boxes, which sets the times of the keyframes", every=1.0)
    else:
        refuse_unused(args, "only used for persons (--persons or --boxes)", every=1.0, video_start=0.0)
    args.format = args.format or ("npz" if of_persons else "npy")
    if of_persons and args.format == "npy":
        raise UserError("--format: npy has no columns for the boxes of persons; use npz, hdf5 or parquet")
    if args.format == "parquet":
        if args.kind == "tokens":
            raise UserError(
                "--format: parquet is written from memory, which tokens would fill; use npy or hdf5"
            )
        refuse_unused(
            args, "not used with --format parquet: many versions of polars have no float16", half=False
        )
    elif args.format == "hdf5":
        from vmae_det.inference.feature_files import import_h5py

        import_h5py()


def _clip_config(args: argparse.Namespace, of_persons: bool) -> CfgNode:
    """Return the config of the weights, with the clips that the options describe."""
    from vmae_det.config import check_config

    cfg = load_weights_config(args)
    cfg.defrost()
    if not of_persons:
        if args.frames is not None:
            cfg.INPUT.NUM_FRAMES = args.frames
        if args.sampling_rate is not None:
            if _RATE_KEY in args.opts[::2]:
                raise UserError(
                    f"{_RATE_KEY}: is set by --sampling-rate; add --sampling-rate config to use the key"
                )
            cfg.INPUT.SAMPLING_RATE = args.sampling_rate
    check_config(cfg)
    return cfg


def _settings(args: argparse.Namespace, cfg: CfgNode, of_persons: bool) -> dict[str, Any]:
    """Return what determines the features, for the manifest. Existing features must have the same."""
    from vmae_det.checkpoint.files import weights_checksum
    from vmae_det.inference.feature_files import describe_config
    from vmae_det.utils.input_files import check_regular_file, sha256_of

    node = cfg.INPUT
    clips = {
        "clip_frames": node.NUM_FRAMES,
        "sampling_rate": node.SAMPLING_RATE,
        "clip_span": (node.NUM_FRAMES - 1) * node.SAMPLING_RATE + 1,
    }
    if of_persons:
        boxes = None
        if args.boxes:
            check_regular_file(args.boxes)
            boxes = sha256_of(args.boxes)
        chosen = {
            "every": None if args.boxes else args.every,
            "video_start": args.video_start,
            "boxes_sha256": boxes,
        }
    else:
        chosen = {"stride": args.stride, "view": args.view}
    return {
        "format": args.format,
        "kind": "persons" if of_persons else args.kind,
        "dtype": "float16" if args.half else "float32",
        **clips,
        **chosen,
        "weights_sha256": weights_checksum(args.weights),
        "config": describe_config(cfg, of_persons),
    }


def _facts(args: argparse.Namespace, video: VideoInput) -> dict[str, Any]:
    size = os.path.getsize(video.video) if os.path.isfile(video.video) else None
    return {"video": video.video, "bytes": size, "weights": args.weights}


def _prepare(args: argparse.Namespace, cfg: CfgNode, settings: dict[str, Any]) -> ProcessVideo:
    from tqdm import tqdm

    from vmae_det.inference.feature_files import extract_to_files
    from vmae_det.utils import distributed

    extractor = _extractor(args, cfg)

    def process(video: VideoInput, title: str) -> list[Path]:
        stream = extractor.stream(video.video)
        seconds = stream.info["duration"]
        hidden = None if distributed.is_main_process() else True
        with tqdm(total=round(seconds, 1), desc=title, unit="s of video", disable=hidden) as bar:
            return extract_to_files(
                stream,
                args.output / video.stem,
                settings,
                _facts(args, video),
                lambda fraction: bar.update(fraction * seconds - bar.n),
            )

    return process


def _extractor(args: argparse.Namespace, cfg: CfgNode) -> Any:
    from vmae_det.formats.person_boxes import read_person_boxes
    from vmae_det.inference.features import FeatureExtractor
    from vmae_det.inference.person_features import PersonFeatureExtractor

    if args.persons or args.boxes:
        boxes = read_person_boxes(args.boxes) if args.boxes else None
        return PersonFeatureExtractor(cfg, boxes, every=args.every, video_start=args.video_start)
    return FeatureExtractor(
        cfg, stride=args.stride, kind=args.kind, view=args.view, batch_size=args.batch_size
    )
