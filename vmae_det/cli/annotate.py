"""`vmae-det annotate`: annotate people and their actions on a page in the browser."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vmae_det.cli.arguments import integer_in, keyframe_interval, output_folder
from vmae_det.cli.weights_arguments import load_weights_config, person_head_overrides
from vmae_det.utils.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmae_det.config import CfgNode
    from vmae_det.web.annotate.dataset import AnnotatedDataset
    from vmae_det.web.annotate.proposals import Detector


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the dataset, the detector and the address of the page."""
    parser.epilog = "The page and its files are described in docs/guides/annotate.md."
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="dataset file (.yaml) or its folder, a folder of videos, or with --output a name in the catalog",
    )
    parser.add_argument(
        "--output",
        type=output_folder,
        metavar="FOLDER",
        help="annotate a copy, or a new dataset, in this folder (default: the dataset itself; for a "
        "folder of videos FOLDER_annotations next to it)",
    )
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument(
        "--actions", metavar="NAMES", help="names of the actions of a new dataset, separated by commas"
    )
    classes.add_argument(
        "--label-map",
        metavar="FILE",
        default="",
        help="label map of a new dataset (.pbtxt), or the name of a built-in one, such as ava_v2.2",
    )
    parser.add_argument(
        "--every",
        type=keyframe_interval,
        default=1.0,
        metavar="SECONDS",
        help="time between keyframes (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        default="",
        metavar="FILE",
        help="weights of an action detector, which proposes people and actions (default: the person detector "
        "of PERSON_DETECTOR proposes people)",
    )
    add_server_arguments(parser)
    add_detector_arguments(parser)


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the address of a local server."""
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to bind to; other machines can open any other than 127.0.0.1, with the token that is "
        "printed (default: %(default)s)",
    )
    parser.add_argument(
        "--port",
        type=integer_in("[0, 65535]"),
        default=8000,
        metavar="N",
        help="port; 0 for a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--token", action="store_true", help="ask for a token on 127.0.0.1, too, which other users can open"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")


def add_detector_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config of the detector."""
    from vmae_det.cli.config_arguments import add_overrides

    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="config with the PERSON_DETECTOR keys"
    )
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C; return the exit status."""
    from vmae_det.web import require_web

    require_web("vmae-det annotate")
    from vmae_det.utils.logging import setup_logging
    from vmae_det.web.annotate.app import MAX_BODY, Annotation, build_app
    from vmae_det.web.annotate.dataset import open_dataset
    from vmae_det.web.annotate.proposal_files import ProposalFiles
    from vmae_det.web.annotate.proposals import Proposer
    from vmae_det.web.annotate.store import Store
    from vmae_det.web.server import LocalServer, lock_file

    setup_logging()
    cfg = _detector_config(args)
    actions = [name.strip() for name in args.actions.split(",")] if args.actions is not None else []
    if args.actions is not None and not all(actions):
        raise UserError(f"--actions: expected names separated by commas, got '{args.actions}'")
    with LocalServer(args.host, args.port, args.token) as server:
        dataset = open_dataset(args.dataset, args.output, args.label_map, actions)
        with lock_file(dataset.lock, str(dataset.annotations)), Store(dataset) as store:
            persons = dataset.spec.person_boxes if dataset.persons is None else None
            name = Path(args.weights).name if args.weights else cfg.PERSON_DETECTOR.NAME
            detector = _describe_detector(cfg, bool(args.weights), dataset, args.every)
            files = ProposalFiles(dataset.proposals, detector, dataset.videos())
            proposer = Proposer(_detector(cfg, bool(args.weights), dataset), name, persons, files=files)
            annotation = Annotation(store, proposer, args.every)
            print(f"annotating {dataset.annotations}")
            server.run(build_app(annotation), open_browser=not args.no_browser, max_body=MAX_BODY)
    return 0


def _detector_config(args: argparse.Namespace) -> CfgNode:
    """Return the config of the detector of proposals."""
    from vmae_det.cli.config_arguments import load_config

    if args.weights:
        return load_weights_config(args)
    return load_config(args.config_file, [*person_head_overrides(args.opts), *args.opts])


def _detector(cfg: CfgNode, with_actions: bool, dataset: AnnotatedDataset) -> Callable[[], Detector]:
    """Return a function that builds the detector, which imports torch and reads weights."""

    def build() -> Detector:
        from vmae_det.formats.person_boxes import read_person_boxes
        from vmae_det.web.annotate.proposals import ActionDetections, PersonDetections

        if not with_actions:
            return PersonDetections(cfg)
        boxes = dataset.spec.person_boxes if dataset.persons is None else None
        return ActionDetections(cfg, dataset.label_map, boxes and read_person_boxes(boxes))

    return build


def _describe_detector(cfg: CfgNode, with_actions: bool, dataset: AnnotatedDataset, every: float) -> str:
    """Return text that is the same as long as a video gets the same proposals."""
    from vmae_det.web.annotate.proposal_files import describe_file

    files = [cfg.PERSON_DETECTOR.WEIGHTS, *([cfg.MODEL.WEIGHTS, dataset.spec.person_boxes] * with_actions)]
    settings = cfg.dump() if with_actions else cfg.PERSON_DETECTOR.dump()
    return repr((settings, [describe_file(file) for file in files], dataset.label_map, every))
