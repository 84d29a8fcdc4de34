"""`vmae-det detect`: what the people in a video do, as an overlay video, AVA CSV and JSON."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The video, its people, the model, and what to show."""
    parser.add_argument("video", type=Path, metavar="VIDEO")
    persons = parser.add_mutually_exclusive_group(required=True)
    persons.add_argument(
        "--boxes",
        type=Path,
        metavar="FILE",
        help="persons at keyframes: lines VIDEO_NAME,SECOND,x1,y1,x2,y2,score, or another person-box format",
    )
    persons.add_argument(
        "--whole-frame",
        action="store_true",
        help="the whole frame is one person, once a second",
    )
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="of an ActionDetector, such as model_final.pt"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--config-file", metavar="FILE", default="", help="for weights that hold no config")
    parser.add_argument("--label-map", type=Path, metavar="FILE", help="for weights that hold no label map")
    parser.add_argument(
        "--video-start",
        type=float,
        default=0.0,
        metavar="S",
        help="second of the boxes' clock at which the file starts",
    )
    parser.add_argument("--top-k", type=int, default=3, help="actions shown for a person, at most")
    parser.add_argument(
        "--threshold", type=float, default=0.3, help="lowest score of an action that is shown"
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config keys to override, last of all",
    )


def run(args: argparse.Namespace) -> int:
    """Detect, then write what was found."""
    from vmae_det.cli.common import load_config
    from vmae_det.config import check_config
    from vmae_det.data.label_map import LabelMap
    from vmae_det.data.person_boxes import read_person_boxes
    from vmae_det.inference.predictor import ActionPredictor, read_config, whole_frame

    if args.config_file:
        cfg = load_config(args.config_file, [*args.opts, "MODEL.WEIGHTS", args.weights])
    else:
        cfg = read_config(args.weights)
        cfg.merge_from_list(args.opts)
        check_config(cfg)
    persons = whole_frame(args.video, args.video_start) if args.whole_frame else read_person_boxes(args.boxes)
    label_map = LabelMap.from_file(args.label_map) if args.label_map else None
    detections = ActionPredictor(cfg, label_map)(args.video, persons, args.video_start, progress=True)
    for path in write_detections(detections, args.output, args.top_k, args.threshold):
        print(path)
    return 0


def write_detections(detections, output: Path, top_k: int = 3, threshold: float = 0.3) -> list[Path]:  # noqa: ANN001
    """Write VIDEO.csv, VIDEO.json and VIDEO_actions.mp4 of ActionDetections into a folder; gives the
    paths."""
    import simplejson

    from vmae_det.data.annotations import write_action_csv
    from vmae_det.utils.files import write_whole
    from vmae_det.visualization.video import write_overlay

    stem = detections.video.stem
    csv, json, overlay = output / f"{stem}.csv", output / f"{stem}.json", output / f"{stem}_actions.mp4"
    write_action_csv(csv, detections.to_rows())
    with write_whole(json) as temporary:
        temporary.write_text(simplejson.dumps(detections.to_json(), indent=1) + "\n", encoding="utf-8")
    write_overlay(detections, overlay, top_k=top_k, threshold=threshold, progress=True)
    return [csv, json, overlay]
