"""`vmae-det link`: link boxes in keyframes into tubes, for video-mAP."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from vmae_det.cli.arguments import (
    frame_rate,
    integer_in,
    output_file,
    positive_int,
    refuse_overwriting,
    refuse_unused,
)
from vmae_det.evaluation.linking import LINKING_METHODS, link_boxes, link_persons
from vmae_det.formats.ava_csv import ActionBoxes, read_action_csv
from vmae_det.formats.box_csv import MAX_TIMESTAMP
from vmae_det.formats.keyframes import keyframe_keys
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.tube_csv import write_tubes
from vmae_det.utils.errors import DataError, quoted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the detections, how times map to frames, and the linking method."""
    parser.add_argument(
        "detections",
        metavar="DETECTIONS",
        help="AVA CSV with scores, may be gzipped; with --ground-truth, annotations with person ids",
    )
    parser.add_argument(
        "--label-map",
        metavar="FILE",
        required=True,
        help="label map (.pbtxt) with the action names, or name of a built-in one",
    )
    parser.add_argument(
        "--output", type=output_file, metavar="FILE", required=True, help="write tubes to this CSV"
    )
    parser.add_argument(
        "--method", choices=LINKING_METHODS, default="act", help="linking method (default: %(default)s)"
    )
    parser.add_argument(
        "--ground-truth",
        action="store_true",
        help="link annotations by their person ids, to tubes to evaluate against",
    )
    parser.add_argument(
        "--min-frames",
        type=positive_int,
        metavar="N",
        help="drop tubes of fewer frames (default: 15 for act, 8 for road, 1 with --ground-truth)",
    )
    times = parser.add_mutually_exclusive_group()
    times.add_argument(
        "--keyframes",
        metavar="FILE",
        help="AVA CSV of all frames, such as val.csv of `prepare`; frames are numbered in its order",
    )
    times.add_argument(
        "--rate",
        type=frame_rate,
        metavar="FPS",
        help="frame rate that converts times to frame numbers (default: times are integer frame numbers)",
    )
    parser.add_argument(
        "--first-frame",
        type=integer_in("[0, 1]"),
        metavar="{0,1}",
        help="number of the first frame, with --keyframes or --rate (default: 0, as in tubes of `prepare`)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the tubes and print how many there are."""
    if args.ground_truth:
        refuse_unused(args, "not used with --ground-truth, which links by person ids", method="act")
    refuse_overwriting(args.output, args.detections, args.label_map, args.keyframes)
    kind = "ground_truth" if args.ground_truth else "detections"
    detections = read_action_csv(args.detections, kind=kind)
    label_map = LabelMap.from_file(args.label_map)
    if len(detections) and not (label_map.columns(detections.action) >= 0).any():
        raise DataError(f"none of its action ids is in {args.label_map}", args.detections)
    rules = LINKING_METHODS[args.method]
    min_frames = args.min_frames or (1 if args.ground_truth else rules.min_frames)
    frame = _frames(detections, args)
    _check_frames(detections, frame, args.detections)
    if args.ground_truth:
        tubes = link_persons(detections, frame, label_map, min_frames, args.detections)
    else:
        tubes = link_boxes(detections, frame, label_map, replace(rules, min_frames=min_frames))
    write_tubes(args.output, tubes, kind)
    boxes, videos = len(tubes.tube), len(set(tubes.video))
    print(
        f"{args.output}: {len(tubes)} tubes with {boxes} boxes in {videos} of {len(detections.videos)} videos"
    )
    if len(detections) and not len(tubes):
        print(f"no tube has {min_frames} frames; lower --min-frames, or check --rate")
    return 0


def _frames(detections: ActionBoxes, args: argparse.Namespace) -> np.ndarray:
    """Return the frame number of each row, (R,) int64."""
    first = args.first_frame or 0
    if args.keyframes:
        return first + _keyframe_indices(detections, Path(args.keyframes), Path(args.detections))
    if args.rate:
        return first + np.rint(detections.timestamp * args.rate).astype(np.int64)
    fractional = detections.timestamp % 1 != 0
    if fractional.any():
        time = detections.timestamp[fractional.argmax()]
        raise DataError(
            f"time {time:g} is not a frame number; add --rate FPS or --keyframes FILE", args.detections
        )
    if args.first_frame is not None:
        raise DataError(
            "integer times are already frame numbers; --first-frame requires --keyframes or --rate",
            args.detections,
        )
    return detections.timestamp.astype(np.int64)


def _check_frames(detections: ActionBoxes, frame: np.ndarray, source: str) -> None:
    """Raise DataError if a frame number is too large, or two keyframes have the same frame number."""
    if not len(frame):
        return
    if frame.max() > MAX_TIMESTAMP:
        raise DataError(f"expected frame numbers up to {MAX_TIMESTAMP:g}, got {frame.max()}", source)
    video = detections.video.astype(np.int64)
    keys = keyframe_keys(video, detections.timestamp)
    _, first = np.unique(keys, return_index=True)
    order = first[np.argsort((video[first] << 40) + frame[first], kind="stable")]
    same = (np.diff(video[order]) == 0) & (np.diff(frame[order]) == 0)
    if same.any():
        row = order[int(same.argmax())]
        name = quoted(str(detections.videos[video[row]]))
        raise DataError(
            f"two keyframes of video {name} map to frame {frame[row]}; --rate may be too low", source
        )


def _keyframe_indices(detections: ActionBoxes, path: Path, source: Path) -> np.ndarray:
    """Return the index of each row's keyframe among the keyframes of its video in `path`."""
    named = read_action_csv(path)
    index = {name: i for i, name in enumerate(named.videos.tolist())}
    unknown = [name for name in detections.videos.tolist() if name not in index]
    if unknown:
        raise DataError(f"video {quoted(unknown[0])} is not in {path}", source)
    video = np.array([index[name] for name in detections.videos.tolist()], dtype=np.int64)
    keys = np.unique(keyframe_keys(named.video, named.timestamp))
    row_keys = keyframe_keys(
        video[detections.video] if len(video) else detections.video, detections.timestamp
    )
    index_in_keys = np.searchsorted(keys, row_keys)
    missing = keys[np.minimum(index_in_keys, len(keys) - 1)] != row_keys
    if missing.any():
        row = int(missing.argmax())
        name = quoted(str(detections.videos[detections.video[row]]))
        raise DataError(f"keyframe {name}, {detections.timestamp[row]:g} is not in {path}", source)
    first = np.searchsorted(keys, np.arange(len(named.videos), dtype=np.int64) << 40)
    return index_in_keys - first[video[detections.video]] if len(row_keys) else index_in_keys
