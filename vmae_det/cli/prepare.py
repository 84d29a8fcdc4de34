"""`vmae-det prepare`: prepare a public dataset for the configs of the model zoo."""

from __future__ import annotations

import argparse

from vmae_det.cli.arguments import fraction, positive_int
from vmae_det.data.catalog import datasets_root
from vmae_det.dataset_tools.prepare.preparers import PREPARERS, get_preparer, lock_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand per dataset, with its specific and the common arguments."""
    parser.epilog = (
        "Run the command again to resume an interrupted run.\n"
        "docs/guides/datasets/index.md describes each dataset.\n"
        "exit status: 0 on success, 1 if too many videos are broken or no dataset was written,\n"
        "2 on invalid usage"
    )
    datasets = parser.add_subparsers(dest="dataset", metavar="DATASET", required=True)
    for name in PREPARERS:
        module = get_preparer(name)
        summary = module.__doc__.split("\n")[0].removesuffix(".")
        dataset = datasets.add_parser(name, help=summary, description=summary)
        module.add_arguments(dataset)
        dataset.add_argument(
            "--root",
            default="",
            metavar="DIR",
            help="folder of all datasets (default: $VMAE_DET_DATASETS, else ./datasets)",
        )
        dataset.add_argument(
            "--workers", type=positive_int, metavar="N", help="number of processes that read and write videos"
        )
        dataset.add_argument(
            "--max-bad",
            type=fraction,
            default=0.01,
            metavar="FRACTION",
            help="fraction of broken videos to tolerate before exiting with status 1 (default: 0.01)",
        )


def run(args: argparse.Namespace) -> int:
    """Prepare one dataset and print the outcome; return the exit status."""
    folder = datasets_root(args.root) / args.dataset
    with lock_folder(folder):
        outcome = get_preparer(args.dataset).prepare(args.dataset, folder, args)
        outcome.write_lists(folder)
    print(f"{args.dataset} in {folder}\n{outcome.as_text()}")
    if outcome.problem:
        print(outcome.problem)
        return 1
    if outcome.bad_fraction > args.max_bad:
        print(f"{outcome.bad_fraction:.1%} of the videos are broken, more than --max-bad {args.max_bad:g}")
        return 1
    return 0
