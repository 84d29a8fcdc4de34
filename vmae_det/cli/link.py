"""`vmae-det link`: detections in keyframes become tubes, for video-mAP."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from vmae_det.cli.arguments import frame_rate, output_file, positive, refuse_overwriting, whole
from vmae_det.evaluation.linking import LINKING_METHODS, link_boxes
from vmae_det.formats.ava_csv import ActionBoxes, read_action_csv
from vmae_det.formats.box_csv import MAX_TIMESTAMP
from vmae_det.formats.keyframes import keyframe_keys
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.tube_csv import write_tubes
from vmae_det.utils.errors import DataError, quoted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The detections, how their times become frames, and how they are linked."""
    parser.add_argument("detections", metavar="DETECTIONS", help="AVA CSV with scores, may be gzipped")
    parser.add_argument("--label-map", metavar="FILE", required=True, help="pbtxt with the actions' names")
    parser.add_argument("--output", type=output_file, metavar="FILE", required=True, help="CSV of tubes")
    parser.add_argument(
        "--method", choices=LINKING_METHODS, default="act", help="whose way of linking (default: %(default)s)"
    )
    parser.add_argument(
        "--min-frames", type=positive, metavar="N", help="of a tube (default: 15 of act, 8 of road)"
    )
    times = parser.add_mutually_exclusive_group()
    times.add_argument(
        "--keyframes",
        metavar="FILE",
        help="AVA CSV that names every frame, such as the val.csv of `prepare`: frames are counted in it",
    )
    times.add_argument(
        "--rate",
        type=frame_rate,
        metavar="FPS",
        help="frames per second (else times must be whole, and are the numbers of frames)",
    )
    parser.add_argument(
        "--first-frame",
        type=whole("[0, 1]"),
        help="number of the first frame with --keyframes or --rate (default: 0, as `prepare` writes tubes)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the tubes and say how many there are."""
    refuse_overwriting(args.output, args.detections, args.label_map, args.keyframes)
    detections = read_action_csv(args.detections, kind="detections")
    label_map = LabelMap.from_file(args.label_map)
    if len(detections) and not (label_map.columns(detections.action) >= 0).any():
        raise DataError(f"none of its action ids is in {args.label_map}", args.detections)
    rules = LINKING_METHODS[args.method]
    if args.min_frames is not None:
        rules = replace(rules, min_frames=args.min_frames)
    frame = _frames(detections, args)
    _check_frames(detections, frame, args.detections)
    tubes = link_boxes(detections, frame, label_map, rules)
    write_tubes(args.output, tubes)
    boxes, videos = len(tubes.tube), len(set(tubes.video))
    print(
        f"{args.output}: {len(tubes)} tubes with {boxes} boxes in {videos} of {len(detections.videos)} videos"
    )
    if len(detections) and not len(tubes):
        print(
            f"no tube has {rules.min_frames} frames; see --min-frames, and --rate for the numbers of frames"
        )
    return 0


def _frames(detections: ActionBoxes, args: argparse.Namespace) -> np.ndarray:
    """(R,) int64: the number of each row's frame."""
    first = args.first_frame or 0
    if args.keyframes:
        return first + _places(detections, Path(args.keyframes), Path(args.detections))
    if args.rate:
        return first + np.rint(detections.timestamp * args.rate).astype(np.int64)
    fraction = detections.timestamp % 1 != 0
    if fraction.any():
        time = detections.timestamp[fraction.argmax()]
        raise DataError(
            f"time {time:g} is no number of a frame: give --rate FPS, or --keyframes FILE", args.detections
        )
    if args.first_frame is not None:
        raise DataError(
            "whole times are the numbers of frames: --first-frame goes with --keyframes or --rate",
            args.detections,
        )
    return detections.timestamp.astype(np.int64)


def _check_frames(detections: ActionBoxes, frame: np.ndarray, source: str) -> None:
    """DataError where numbers of frames are too large, or one frame is that of two keyframes."""
    if not len(frame):
        return
    if frame.max() > MAX_TIMESTAMP:
        raise DataError(f"frames must have numbers up to {MAX_TIMESTAMP:g}, got {frame.max()}", source)
    video = detections.video.astype(np.int64)
    keys = keyframe_keys(video, detections.timestamp)
    _, first = np.unique(keys, return_index=True)
    order = first[np.argsort((video[first] << 40) + frame[first], kind="stable")]
    same = (np.diff(video[order]) == 0) & (np.diff(frame[order]) == 0)
    if same.any():
        row = order[int(same.argmax())]
        name = quoted(str(detections.videos[video[row]]))
        raise DataError(f"two keyframes of video {name} are frame {frame[row]}; is --rate too low?", source)


def _places(detections: ActionBoxes, path: Path, source: Path) -> np.ndarray:
    """Place of each row's keyframe among those of its video in a file."""
    named = read_action_csv(path)
    index = {name: i for i, name in enumerate(named.videos.tolist())}
    unknown = [name for name in detections.videos.tolist() if name not in index]
    if unknown:
        raise DataError(f"video {quoted(unknown[0])} is not in {path}", source)
    video = np.array([index[name] for name in detections.videos.tolist()], dtype=np.int64)
    keys = np.unique(keyframe_keys(named.video, named.timestamp))
    own = keyframe_keys(video[detections.video] if len(video) else detections.video, detections.timestamp)
    place = np.searchsorted(keys, own)
    missing = keys[np.minimum(place, len(keys) - 1)] != own
    if missing.any():
        row = int(missing.argmax())
        name = quoted(str(detections.videos[detections.video[row]]))
        raise DataError(f"keyframe {name}, {detections.timestamp[row]:g} is not in {path}", source)
    first = np.searchsorted(keys, np.arange(len(named.videos), dtype=np.int64) << 40)
    return place - first[video[detections.video]] if len(own) else place
