"""`vmae-det serve`: detect or classify videos that are sent to a page in the browser or an HTTP interface."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vmae_det.cli.annotate import add_server_arguments
from vmae_det.cli.arguments import integer_in, number_in, output_folder, refuse_unused
from vmae_det.cli.weights_arguments import (
    add_precision_argument,
    add_weights_arguments,
    load_weights_config,
)
from vmae_det.utils.errors import UserError

if TYPE_CHECKING:
    from vmae_det.web.serve.model import ServedModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the limits and the address."""
    parser.epilog = "The page and the HTTP interface are described in docs/guides/serve.md."
    parser.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help="weights of an action detector or of a classifier, as vmae-det detect and classify take them",
    )
    parser.add_argument(
        "--whole-frame", action="store_true", help="treat the whole frame as one person, as vmae-det detect"
    )
    parser.add_argument(
        "--output",
        type=output_folder,
        default=Path("output/serve"),
        metavar="FOLDER",
        help="write results to this folder (default: %(default)s)",
    )
    parser.add_argument(
        "--keep-hours",
        type=number_in("(0, 100000]"),
        default=24.0,
        metavar="HOURS",
        help="delete results after this time (default: %(default)s)",
    )
    _add_limits(parser)
    add_server_arguments(parser)
    add_precision_argument(parser)
    add_weights_arguments(parser)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--queue",
        type=integer_in("[1, 10000]"),
        default=16,
        metavar="N",
        help="videos that may wait; more get status 503 (default: %(default)s)",
    )
    limits.add_argument(
        "--max-mb",
        type=number_in("(0, 1000000]"),
        default=1024.0,
        metavar="MIB",
        help="largest video file, in MiB (default: %(default)s)",
    )
    limits.add_argument(
        "--max-seconds",
        type=number_in("(0, 1000000]"),
        default=3600.0,
        metavar="SECONDS",
        help="longest video (default: %(default)s)",
    )
    limits.add_argument(
        "--max-memory",
        type=number_in("[0.25, 10000]"),
        default=4.0,
        metavar="GIB",
        help="memory of the process that decodes a video, in GiB (default: %(default)s)",
    )
    limits.add_argument(
        "--timeout",
        type=number_in("(0, 1000000]"),
        default=3600.0,
        metavar="SECONDS",
        help="longest time in which a video is received, and in which it is processed (default: %(default)s)",
    )
    limits.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="download videos also from this machine and from private networks, which every user of the "
        "server can then read",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C; return the exit status."""
    from vmae_det.web import require_web

    require_web("vmae-det serve")
    from vmae_det.utils.logging import setup_logging
    from vmae_det.utils.output_files import make_output_folder
    from vmae_det.web.serve.app import ServeSettings, VideoService, build_app
    from vmae_det.web.serve.worker import Limits
    from vmae_det.web.server import LocalServer, lock_file

    setup_logging()
    settings = ServeSettings(
        args.output,
        args.queue,
        int(args.max_mb * 2**20),
        args.keep_hours * 3600,
        args.allow_private_addresses,
        Limits(args.max_seconds, int(args.max_memory * 2**30), args.timeout),
    )
    with LocalServer(args.host, args.port, args.token) as server:
        make_output_folder(args.output)
        with lock_file(args.output / ".serve.lock", str(args.output)):
            model = _load_model(args)
            service = VideoService(model, settings)
            server.run(build_app(service), open_browser=not args.no_browser, body_limits=settings.body_limits)
    if service.worker.is_alive:  # nothing can interrupt a call of the model
        sys.stdout.flush()
        os._exit(0)
    return 0


def _load_model(args: argparse.Namespace) -> ServedModel:
    from vmae_det.formats.label_map import LabelMap
    from vmae_det.inference.precision import set_precision
    from vmae_det.web.serve.model import ServedModel

    cfg = load_weights_config(args)
    if cfg.MODEL.META_ARCHITECTURE == "VideoClassifier":
        refuse_unused(args, "not used with a classifier", precision="auto")
    elif cfg.MODEL.META_ARCHITECTURE == "ActionDetector":
        set_precision(cfg, args.precision, amp_is_set="SOLVER.AMP" in args.opts[::2])
    else:
        raise UserError(
            f"--weights: {args.weights} is a {cfg.MODEL.META_ARCHITECTURE}; expected an action detector or a "
            "classifier"
        )
    label_map = LabelMap.from_file(args.label_map) if args.label_map else None
    return ServedModel(cfg, label_map, args.whole_frame)
