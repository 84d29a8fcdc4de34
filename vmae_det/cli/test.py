"""`vmae-det test`: evaluate trained weights."""

from __future__ import annotations

import argparse

from vmae_det.cli import train
from vmae_det.cli.config_arguments import add_config_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add processes, config and overrides; MODEL.WEIGHTS names the weights."""
    train.add_launch_arguments(parser)
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run `train --eval-only`."""
    args.resume, args.eval_only, args.profile = False, True, False
    return train.run(args)
