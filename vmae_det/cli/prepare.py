"""`vmae-det prepare`: a known dataset, from what its site gives to what the configs want."""

from __future__ import annotations

import argparse

from vmae_det.cli.arguments import fraction, positive
from vmae_det.data.catalog import datasets_root
from vmae_det.dataset_tools.prepare.common import PREPARERS, only_run, preparer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command for each dataset: its own arguments, and those that all have."""
    parser.epilog = (
        "A run that was stopped goes on where it was when it is started again. Exit status: 0, "
        "1 when too many videos are broken, 2 after wrong use. datasets/README.md has a page on each dataset."
    )
    datasets = parser.add_subparsers(dest="dataset", metavar="DATASET", required=True)
    for name in PREPARERS:
        module = preparer(name)
        summary = module.__doc__.split("\n")[0]
        dataset = datasets.add_parser(name, help=summary, description=summary)
        module.add_arguments(dataset)
        dataset.add_argument(
            "--root",
            default="",
            metavar="DIR",
            help="where datasets lie (default: $VMAE_DET_DATASETS, else ./datasets)",
        )
        dataset.add_argument(
            "--workers", type=positive, metavar="N", help="processes that read and write videos"
        )
        dataset.add_argument(
            "--max-bad",
            type=fraction,
            default=0.01,
            metavar="PART",
            help="part of the videos, 0 to 1, that may be broken with an exit status of 0 (default: 0.01)",
        )


def run(args: argparse.Namespace) -> int:
    """Prepare one dataset and print the outcome; gives the exit status."""
    folder = datasets_root(args.root) / args.dataset
    with only_run(folder):
        outcome = preparer(args.dataset).prepare(args.dataset, folder, args)
        outcome.write_lists(folder)
    print(f"{args.dataset} in {folder}\n{outcome.as_text()}")
    if outcome.bad_fraction > args.max_bad:
        print(f"{outcome.bad_fraction:.1%} of the videos are bad, more than --max-bad {args.max_bad:g}")
        return 1
    return 0
