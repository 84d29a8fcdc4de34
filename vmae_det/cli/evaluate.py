"""`vmae-det evaluate`: compute metrics of predictions in a file, without a model and without torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vmae_det.cli.arguments import number_in, output_file, output_folder, refuse_overwriting
from vmae_det.evaluation.frame_map import FrameMAP
from vmae_det.evaluation.matching import PROTOCOLS, match
from vmae_det.evaluation.report import build_report
from vmae_det.evaluation.video_map import TUBE_PROTOCOLS, video_map
from vmae_det.formats.ava_csv import read_action_csv, read_excluded_keyframes
from vmae_det.formats.class_csv import find_class_files, read_class_scores
from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.errors import UserError
from vmae_det.utils.output_files import write_json
from vmae_det.visualization.evaluation_report import write_report

_DESCRIPTION = {
    "challenge": "the 50 best rows per keyframe, keyframes in the ground truth",
    "slowfast": "all rows in file order, all keyframes",
    "mmaction2": "all rows, keyframes in the ground truth, classes with detections",
}
# Options that only apply to some kinds of predictions.
_OPTIONS = {
    "detections": {"label_map", "protocol", "iou", "report", "compare", "excluded"},
    "tubes": {"label_map", "protocol", "iou"},
    "person_boxes": {"images", "excluded"},
    "classes": {"label_map", "report"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the files, the protocol and the thresholds."""
    parser.add_argument(
        "--ground-truth",
        metavar="FILE",
        required=True,
        help="AVA CSV, may be gzipped; with --tubes, a tube CSV; with --classes, a list of lines FILE LABEL",
    )
    predictions = parser.add_mutually_exclusive_group(required=True)
    predictions.add_argument("--detections", metavar="FILE", help="AVA CSV with scores; compute frame-mAP")
    predictions.add_argument(
        "--tubes", metavar="FILE", help="tube CSV with scores; compute video-mAP, and frame-mAP of all frames"
    )
    predictions.add_argument(
        "--person-boxes",
        metavar="FILE",
        help="CSV, JSON or pickle; compute COCO-style AP and recall of persons",
    )
    predictions.add_argument(
        "--classes",
        metavar="PATH",
        help="NAME_classes.csv of `vmae-det classify`, or their folder; compute top-1 and top-5 accuracy",
    )
    parser.add_argument(
        "--label-map",
        metavar="FILE",
        help="label map (.pbtxt) of the actions to evaluate, or name of a built-in one, such as "
        "ava_v2.2_scored; optional with --tubes, where the default is all",
    )
    parser.add_argument(
        "--protocol",
        choices=(*PROTOCOLS, *TUBE_PROTOCOLS),
        metavar="NAME",
        help="evaluation protocol, see below (default: challenge; with --tubes: continuous)",
    )
    parser.add_argument(
        "--iou",
        type=number_in("(0, 1]"),
        nargs="+",
        metavar="IOU",
        help="IoU thresholds (default: 0.5; with --tubes: those of the protocol)",
    )
    parser.add_argument(
        "--report",
        type=output_folder,
        metavar="FOLDER",
        help="with --detections or --classes: write an error analysis to this folder, as HTML, JSON and CSV",
    )
    parser.add_argument(
        "--compare",
        metavar="FILE",
        help="with --detections: detections of another run to compare with in the report",
    )
    parser.add_argument(
        "--images",
        metavar="FILE",
        help="with --person-boxes: COCO annotations that define the image ids of a JSON file",
    )
    parser.add_argument("--excluded", metavar="FILE", help="CSV of keyframes to ignore; not with --tubes")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="also write the result as JSON")
    summaries = {name: protocol.summary for name, protocol in TUBE_PROTOCOLS.items()}
    parser.epilog = "\n".join(
        [
            "protocols with --detections:",
            *(f"  {name:12} {text}" for name, text in _DESCRIPTION.items()),
            "protocols with --tubes:",
            *(f"  {name:12} {text}" for name, text in summaries.items()),
        ]
    )


def run(args: argparse.Namespace) -> int:
    """Print the tables; return the exit status."""
    evaluators = {
        "detections": _evaluate_detections,
        "tubes": _evaluate_tubes,
        "person_boxes": _evaluate_persons,
        "classes": _evaluate_classes,
    }
    (kind,) = (name for name in evaluators if getattr(args, name) is not None)
    _refuse_unused(args, kind)
    if args.json:
        read = find_class_files(args.classes) if args.classes else [getattr(args, kind)]
        others = (args.label_map, args.excluded, args.compare, args.images)
        refuse_overwriting(args.json, args.ground_truth, *read, *others)
    result = evaluators[kind](args)
    excluded = f", ignoring the keyframes of {args.excluded}" if args.excluded else ""
    print(f"{getattr(args, kind)} against {args.ground_truth}{excluded}")
    for table in result.pop("tables"):
        print(table)
    if args.json:
        write_json(args.json, result)
    return 0


def _refuse_unused(args: argparse.Namespace, kind: str) -> None:
    """Raise UserError for an option that does not apply to this kind of predictions."""
    for option in sorted(set().union(*_OPTIONS.values()) - _OPTIONS[kind]):
        if getattr(args, option) is not None:
            users = " or ".join(_option(name) for name, options in _OPTIONS.items() if option in options)
            raise UserError(f"{_option(option)} requires {users}; it cannot be used with {_option(kind)}")
    known = TUBE_PROTOCOLS if kind == "tubes" else PROTOCOLS
    if args.protocol is not None and args.protocol not in known:
        choices = ", ".join(known)
        raise UserError(
            f"--protocol {args.protocol} cannot be used with {_option(kind)}; expected one of {choices}"
        )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _evaluate_detections(args: argparse.Namespace) -> dict[str, Any]:
    """Return the result at the first threshold; "by_iou" contains all results if there are several."""
    if not args.label_map:
        raise UserError("--detections requires --label-map, the pbtxt of the actions to evaluate")
    if args.compare and not args.report:
        raise UserError("--compare requires --report FOLDER")
    boxes = (
        read_action_csv(args.ground_truth, kind="ground_truth"),
        read_action_csv(args.detections, kind="detections"),
        LabelMap.from_file(args.label_map),
    )
    protocol = args.protocol or PROTOCOLS[0]
    thresholds = args.iou or [0.5]
    rules = {"excluded": _excluded(args), "protocol": protocol}
    matches = match(*boxes, **rules)
    maps = [FrameMAP.from_matches(matches, iou) for iou in thresholds]
    tables = [f"protocol {protocol}: {_DESCRIPTION[protocol]}"]
    result = maps[0].to_json() | _files(args, "detections", "label_map", "excluded")
    if len(maps) > 1:
        result["by_iou"] = {f"{each.iou:g}": each.to_json() for each in maps}
    tables += [f"\n{each.table()}" for each in maps]
    if args.report:
        base = read_action_csv(args.compare, kind="detections") if args.compare else None
        report = build_report(*boxes, iou=thresholds[0], base=base, **rules)
        if report["comparison"]:
            tables.append(f"\n{report['comparison']['summary']}")
        tables.append(f"\nreport: {write_report(args.report, report, args.detections)}")
    return result | {"tables": tables}


def _evaluate_tubes(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_det.formats.tube_csv import read_tubes

    labels = LabelMap.from_file(args.label_map).names if args.label_map else None
    result = video_map(
        read_tubes(args.ground_truth),
        read_tubes(args.tubes, kind="detections"),
        args.protocol or "continuous",
        labels=labels,
        thresholds=args.iou,
    )
    return result.to_json() | _files(args, "tubes", "label_map") | {"tables": ["", result.table()]}


def _evaluate_persons(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_det.evaluation.person_ap import evaluate_person_boxes
    from vmae_det.formats.person_boxes import read_person_boxes

    if args.images and Path(args.person_boxes).suffix.lower() != ".json":
        raise UserError(f"--images: only used with a JSON file of person boxes, got {args.person_boxes}")
    result = evaluate_person_boxes(
        read_action_csv(args.ground_truth),
        read_person_boxes(args.person_boxes, args.images, allow_empty=True),
        _excluded(args),
    )
    files = _files(args, "person_boxes", "images", "excluded")
    return result.to_json() | files | {"tables": ["", result.table()]}


def _evaluate_classes(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_det.evaluation.classification import evaluate_classes
    from vmae_det.formats.video_list import read_video_list
    from vmae_det.visualization.classification_report import write_classification_report

    result = evaluate_classes(
        read_video_list(Path(args.ground_truth)),
        read_class_scores(args.classes),
        LabelMap.from_file(args.label_map) if args.label_map else None,
    )
    tables = ["", result.table()]
    if args.report:
        tables.append(f"\nreport: {write_classification_report(args.report, result, args.classes)}")
    return result.to_json() | _files(args, "classes", "label_map") | {"tables": tables}


def _excluded(args: argparse.Namespace) -> frozenset[tuple[str, float]] | None:
    return read_excluded_keyframes(args.excluded) if args.excluded else None


def _files(args: argparse.Namespace, *names: str) -> dict[str, dict[str, str | None]]:
    return {"files": {name: getattr(args, name) for name in ("ground_truth", *names)}}
