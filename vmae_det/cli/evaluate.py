"""`vmae-det evaluate`: the metric of a file of predictions, without a model and without torch."""

from __future__ import annotations

import argparse
from typing import Any

from vmae_det.cli.arguments import output_file, output_folder, refuse_overwriting
from vmae_det.data.annotations import read_action_csv, read_excluded
from vmae_det.data.label_map import LabelMap
from vmae_det.evaluation.frame_map import FrameMAP
from vmae_det.evaluation.matching import PROTOCOLS, match
from vmae_det.evaluation.report import explain
from vmae_det.utils.errors import UserError
from vmae_det.utils.files import write_json
from vmae_det.visualization.evaluation_report import write_report

_DESCRIPTION = {
    "challenge": "the 50 best-scored rows of a keyframe, keyframes that the ground truth names",
    "slowfast": "all rows in their order, all keyframes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files, the protocol and the thresholds."""
    parser.add_argument(
        "--ground-truth",
        metavar="FILE",
        required=True,
        help="AVA CSV, may be gzipped; of tubes, the CSV of tubes",
    )
    predictions = parser.add_mutually_exclusive_group(required=True)
    predictions.add_argument("--detections", metavar="FILE", help="AVA CSV with scores: frame-mAP")
    predictions.add_argument(
        "--tubes", metavar="FILE", help="CSV of tubes: video-mAP, and frame-mAP of all frames"
    )
    predictions.add_argument(
        "--person-boxes", metavar="FILE", help="CSV, JSON or pickle: AP and recall of persons, as COCO's"
    )
    frame_map = parser.add_argument_group("with --detections")
    frame_map.add_argument("--label-map", metavar="FILE", help="pbtxt of the actions that count")
    frame_map.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default=PROTOCOLS[0],
        help="; ".join(f"{name}: {text}" for name, text in _DESCRIPTION.items()),
    )
    frame_map.add_argument("--iou", type=float, nargs="+", default=[0.5], help="one threshold or several")
    frame_map.add_argument(
        "--report",
        type=output_folder,
        metavar="FOLDER",
        help="write what the rest was lost to, as a page, JSON and CSV",
    )
    frame_map.add_argument("--compare", metavar="FILE", help="detections of another run, for the report")
    persons = parser.add_argument_group("with --person-boxes")
    persons.add_argument(
        "--images", metavar="FILE", help="COCO annotations that say what a JSON's image ids are"
    )
    parser.add_argument("--excluded", metavar="FILE", help="CSV of keyframes to leave out; not with --tubes")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the result there, too")


def run(args: argparse.Namespace) -> int:
    """Print the tables; gives the exit status."""
    measure = _tubes if args.tubes else _person_boxes if args.person_boxes else _frame_map
    predictions = args.tubes or args.person_boxes or args.detections
    if args.json:
        refuse_overwriting(args.json, args.ground_truth, predictions, args.label_map, args.excluded)
    result = measure(args)
    excluded = f", without the keyframes of {args.excluded}" if args.excluded else ""
    print(f"{predictions} against {args.ground_truth}{excluded}")
    for table in result.pop("tables"):
        print(table)
    if args.json:
        write_json(args.json, result)
    return 0


def _frame_map(args: argparse.Namespace) -> dict[str, Any]:
    """The first threshold's result; of several, all of them by their IoU under "by_iou"."""
    if not args.label_map:
        raise UserError("--detections needs --label-map, the pbtxt of the actions that count")
    if args.compare and not args.report:
        raise UserError("--compare is part of the report: give --report FOLDER, too")
    boxes = (
        read_action_csv(args.ground_truth, kind="ground_truth"),
        read_action_csv(args.detections, kind="detections"),
        LabelMap.from_file(args.label_map),
    )
    rules = {"excluded": _excluded(args), "protocol": args.protocol}
    matches = match(*boxes, **rules)
    maps = [FrameMAP.from_matches(matches, iou) for iou in args.iou]
    tables = [f"protocol {args.protocol}: {_DESCRIPTION[args.protocol]}"]
    result = maps[0].to_json() | _files(args, "detections", "label_map", "excluded")
    if len(maps) > 1:
        result["by_iou"] = {f"{each.iou:g}": each.to_json() for each in maps}
    tables += [f"\n{each.table()}" for each in maps]
    if args.report:
        base = read_action_csv(args.compare, kind="detections") if args.compare else None
        explanation = explain(*boxes, iou=args.iou[0], base=base, **rules)
        tables.append(f"\nreport: {write_report(args.report, explanation, args.detections)}")
    return result | {"tables": tables}


def _tubes(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_det.data.tubes import read_tubes
    from vmae_det.evaluation.video_map import video_map

    if args.excluded:
        raise UserError("--excluded names keyframes, and does not go with --tubes")
    result = video_map(read_tubes(args.ground_truth), read_tubes(args.tubes, kind="detections"))
    return result.to_json() | _files(args, "tubes") | {"tables": ["", result.table()]}


def _person_boxes(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_det.data.person_boxes import read_person_boxes
    from vmae_det.evaluation.person_boxes import evaluate_person_boxes

    result = evaluate_person_boxes(
        read_action_csv(args.ground_truth), read_person_boxes(args.person_boxes, args.images), _excluded(args)
    )
    files = _files(args, "person_boxes", "images", "excluded")
    return result.to_json() | files | {"tables": ["", result.table()]}


def _excluded(args: argparse.Namespace) -> frozenset[tuple[str, float]] | None:
    return read_excluded(args.excluded) if args.excluded else None


def _files(args: argparse.Namespace, *names: str) -> dict[str, dict[str, str | None]]:
    return {"files": {name: getattr(args, name) for name in ("ground_truth", *names)}}
