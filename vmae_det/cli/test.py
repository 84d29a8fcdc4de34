"""`vmae-det test`: evaluate trained weights."""

from __future__ import annotations

import argparse

from vmae_det.cli import train
from vmae_det.cli.common import add_config_arguments, add_launch_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Config, overrides (MODEL.WEIGHTS among them) and processes."""
    add_launch_arguments(parser)
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """`train --eval-only` under its own name."""
    args.resume, args.eval_only, args.profile = False, True, False
    return train.run(args)
