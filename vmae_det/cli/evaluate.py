"""`vmae-det evaluate`: what a file of detections is worth, without a model and without torch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from vmae_det.data.annotations import read_action_csv, read_excluded
from vmae_det.data.label_map import LabelMap
from vmae_det.data.person_boxes import read_person_boxes
from vmae_det.data.tubes import read_tubes
from vmae_det.evaluation.frame_map import FrameMAP
from vmae_det.evaluation.matching import PROTOCOLS, match
from vmae_det.evaluation.report import explain
from vmae_det.evaluation.video_map import tube_map
from vmae_det.utils.errors import UserError
from vmae_det.utils.files import write_whole
from vmae_det.visualization.evaluation_report import write_report

_DESCRIPTION = {
    "challenge": "the 50 best-scored rows of a keyframe, keyframes that the ground truth names",
    "slowfast": "all rows in their order, all keyframes",
}
_EPILOG = """\
three kinds of files:
  AVA's         --ground-truth CSV --detections CSV --label-map PBTXT
                frame-mAP
  tubes         --tubes --ground-truth CSV --detections CSV
                frame-mAP and video-mAP, as for UCF101-24, JHMDB and MultiSports, from lines
                video_id,tube_id,label,score,frame,x1,y1,x2,y2 below a header that says so
  person boxes  --person-boxes FILE --ground-truth CSV
                AP and recall of a person detector on AVA's persons

Formats, protocols and what differs from published evaluations: docs/evaluation.md"""
# What goes with each kind of files, needed ones first.
_NEEDED = {"frame": ("detections", "label_map"), "tubes": ("detections",), "person_boxes": ()}
_ALLOWED = {
    "frame": ("excluded", "protocol", "iou", "report", "compare"),
    "tubes": ("label_map", "iou"),
    "person_boxes": ("images", "excluded"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files, the protocol and the thresholds."""
    parser.epilog = _EPILOG
    parser.add_argument("--ground-truth", metavar="FILE", required=True, help="CSV, may be gzipped")
    parser.add_argument("--detections", metavar="FILE", help="CSV with scores")
    parser.add_argument("--label-map", metavar="FILE", help="pbtxt of the actions that count")
    parser.add_argument("--tubes", action="store_true", help="both CSV files hold tubes")
    parser.add_argument(
        "--person-boxes",
        metavar="FILE",
        help="detected persons, in place of --detections: CSV, JSON or pickle",
    )
    parser.add_argument(
        "--images", metavar="FILE", help="COCO file that has the keyframes of person boxes in JSON"
    )
    parser.add_argument("--excluded", metavar="FILE", help="CSV of keyframes to leave out")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="; ".join(f"{name}: {text}" for name, text in _DESCRIPTION.items())
        + f" (default: {PROTOCOLS[0]})",
    )
    parser.add_argument(
        "--iou",
        type=float,
        nargs="+",
        help="one threshold or several (default: 0.5; for video-mAP 0.2 0.5, always with 0.5:0.95)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the result there, too")
    parser.add_argument(
        "--report", metavar="FOLDER", help="write what the rest was lost to, as a page, JSON and CSV"
    )
    parser.add_argument("--compare", metavar="FILE", help="detections of another run, for the report")


def run(args: argparse.Namespace) -> int:
    """Print the tables; gives the exit status."""
    if args.tubes and args.person_boxes:
        raise UserError("--tubes and --person-boxes are two kinds of evaluation: give one of them")
    kind = "tubes" if args.tubes else "person_boxes" if args.person_boxes else "frame"
    _check_options(args, kind)
    {"frame": _run_frame_map, "tubes": _run_tubes, "person_boxes": _run_person_boxes}[kind](args)
    return 0


def _check_options(args: argparse.Namespace, kind: str) -> None:
    """Raise UserError where an option is missing or has no meaning for this kind of files."""
    where = "" if kind == "frame" else f" with {_flag(kind)}"
    for name in _NEEDED[kind]:
        if getattr(args, name) is None:
            raise UserError(f"{_flag(name)} is needed{where}; see vmae-det evaluate --help")
    options = {name for names in (*_NEEDED.values(), *_ALLOWED.values()) for name in names}
    for name in sorted(options - {*_NEEDED[kind], *_ALLOWED[kind]}):
        if getattr(args, name) is not None:
            raise UserError(f"{_flag(name)} has no meaning{where or ' without --person-boxes'}")
    if args.compare and not args.report:
        raise UserError("--compare is part of the report: give --report FOLDER, too")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _run_frame_map(args: argparse.Namespace) -> None:
    """A table for each threshold."""
    boxes = (
        read_action_csv(args.ground_truth, kind="ground_truth"),
        read_action_csv(args.detections, kind="detections"),
        LabelMap.from_file(args.label_map),
    )
    protocol, ious = args.protocol or PROTOCOLS[0], args.iou or [0.5]
    rules = {"excluded": read_excluded(args.excluded) if args.excluded else None, "protocol": protocol}
    matches = match(*boxes, **rules)
    maps = [FrameMAP.from_matches(matches, iou) for iou in ious]
    print(f"{args.detections} against {args.ground_truth}{_without(args)}")
    print(f"protocol {protocol}: {_DESCRIPTION[protocol]}")
    for result in maps:
        print()
        print(result.table())
    # Further thresholds by their IoU.
    by_iou = {"by_iou": {f"{each.iou:g}": each.to_json() for each in maps}} if len(maps) > 1 else {}
    _write_json(args, maps[0].to_json() | by_iou, "detections", "label_map", "excluded")
    if args.report:
        base = read_action_csv(args.compare, kind="detections") if args.compare else None
        explanation = explain(*boxes, iou=ious[0], base=base, **rules)
        print(f"\nreport: {write_report(args.report, explanation, args.detections)}")


def _run_tubes(args: argparse.Namespace) -> None:
    """A table of frame AP and video AP."""
    truth, found = read_tubes(args.ground_truth), read_tubes(args.detections, "detections")
    label_map = LabelMap.from_file(args.label_map) if args.label_map else None
    result = tube_map(truth, found, label_map, **({"ious": tuple(args.iou)} if args.iou else {}))
    print(f"{args.detections} against {args.ground_truth}\n")
    print(result.table())
    _write_json(args, result.to_json(), "detections", "label_map")


def _run_person_boxes(args: argparse.Namespace) -> None:
    """COCO's measures, and what score thresholds keep."""
    # Here, for pycocotools serves only this.
    from vmae_det.evaluation.person_boxes import evaluate_person_boxes

    truth = read_action_csv(args.ground_truth, kind="ground_truth")
    persons = read_person_boxes(args.person_boxes, args.images)
    result = evaluate_person_boxes(truth, persons, read_excluded(args.excluded) if args.excluded else None)
    print(f"{args.person_boxes} against the persons of {args.ground_truth}{_without(args)}\n")
    print(result.table())
    _write_json(args, result.to_json(), "person_boxes", "images", "excluded")


def _without(args: argparse.Namespace) -> str:
    return f", without the keyframes of {args.excluded}" if args.excluded else ""


def _write_json(args: argparse.Namespace, result: dict[str, Any], *files: str) -> None:
    """The result and the files that it is of, where --json says."""
    if args.json:
        content = result | {"files": {name: getattr(args, name) for name in ("ground_truth", *files)}}
        with write_whole(Path(args.json)) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
