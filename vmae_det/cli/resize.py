"""`vmae-det resize`: re-encode a folder of videos, so that training decodes them faster."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.cli.arguments import fraction, output_folder, positive_int
from vmae_det.dataset_tools.prepare.preparers import lock_folder
from vmae_det.dataset_tools.prepare.resize import add_gop_argument, parse_short_side, resize_folder
from vmae_det.utils.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folders, the size and the key-frame interval."""
    parser.epilog = (
        "Writes H.264 without audio, with the same frames at the same times.\n"
        "Run the command again to resume an interrupted run.\n"
        "docs/guides/feed_gpus.md says which settings suit training.\n"
        "exit status: 0 on success, 1 if too many videos are broken, 2 on invalid usage"
    )
    parser.add_argument(
        "videos", type=Path, metavar="VIDEOS", help="folder of videos; its folders are read too"
    )
    parser.add_argument(
        "--output",
        type=output_folder,
        required=True,
        metavar="FOLDER",
        help="write the videos to this folder",
    )
    parser.add_argument(
        "--short-side",
        type=parse_short_side,
        default=256,
        metavar="PIXELS",
        help="short side of larger videos; smaller ones keep their size (default: %(default)s)",
    )
    add_gop_argument(parser)
    parser.add_argument("--workers", type=positive_int, metavar="N", help="number of processes")
    parser.add_argument(
        "--max-bad",
        type=fraction,
        default=0.01,
        metavar="FRACTION",
        help="fraction of broken videos to tolerate before exiting with status 1 (default: 0.01)",
    )


def run(args: argparse.Namespace) -> int:
    """Re-encode the videos and print the outcome; return the exit status."""
    if not args.videos.is_dir():
        raise UserError(f"{args.videos}: expected a folder of videos")
    with lock_folder(args.output):
        outcome = resize_folder(args.videos, args.output, args.short_side, args.gop, args.workers)
        outcome.write_lists(args.output)
    print(outcome.as_text())
    if outcome.bad_fraction > args.max_bad:
        print(f"{outcome.bad_fraction:.1%} of the videos are broken, more than --max-bad {args.max_bad:g}")
        return 1
    return 0
