"""`vmae-det evaluate`: frame-mAP of a detection file, without a model and without torch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vmae_det.data.annotations import read_action_csv, read_excluded
from vmae_det.data.label_map import LabelMap
from vmae_det.evaluation.frame_map import FrameMAP
from vmae_det.evaluation.matching import PROTOCOLS, match
from vmae_det.utils.files import write_whole

_DESCRIPTION = {
    "challenge": "the 50 best-scored rows of a keyframe, keyframes that the ground truth names",
    "slowfast": "all rows in their order, all keyframes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files, the protocol and the thresholds."""
    parser.add_argument("--ground-truth", metavar="FILE", required=True, help="AVA CSV, may be gzipped")
    parser.add_argument("--detections", metavar="FILE", required=True, help="AVA CSV with scores")
    parser.add_argument("--label-map", metavar="FILE", required=True, help="pbtxt of the actions that count")
    parser.add_argument("--excluded", metavar="FILE", help="CSV of keyframes to leave out")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default=PROTOCOLS[0],
        help="; ".join(f"{name}: {text}" for name, text in _DESCRIPTION.items()),
    )
    parser.add_argument("--iou", type=float, nargs="+", default=[0.5], help="one threshold or several")
    parser.add_argument("--json", metavar="FILE", help="write the result there, too")


def run(args: argparse.Namespace) -> int:
    """Print a table for each threshold; gives the exit status."""
    matches = match(
        read_action_csv(args.ground_truth, kind="ground_truth"),
        read_action_csv(args.detections, kind="detections"),
        LabelMap.from_file(args.label_map),
        excluded=read_excluded(args.excluded) if args.excluded else None,
        protocol=args.protocol,
    )
    maps = [FrameMAP.from_matches(matches, iou) for iou in args.iou]
    excluded = f", without the keyframes of {args.excluded}" if args.excluded else ""
    print(f"{args.detections} against {args.ground_truth}{excluded}")
    print(f"protocol {args.protocol}: {_DESCRIPTION[args.protocol]}")
    for result in maps:
        print()
        print(result.table())
    if args.json:
        with write_whole(Path(args.json)) as temporary:
            temporary.write_text(json.dumps(_as_json(maps, args), indent=1) + "\n", encoding="utf-8")
    return 0


def _as_json(maps: list[FrameMAP], args: argparse.Namespace) -> dict:
    """The first threshold's result, with the files; further thresholds by their IoU."""
    names = ("ground_truth", "detections", "label_map", "excluded")
    result = maps[0].to_json() | {"files": {name: getattr(args, name) for name in names}}
    if len(maps) > 1:
        result["by_iou"] = {f"{each.iou:g}": each.to_json() for each in maps}
    return result
