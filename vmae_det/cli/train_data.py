"""`vmae-det train --data FILE`: the options, and the table of the chosen settings."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vmae_det.cli.arguments import refuse_unused
from vmae_det.cli.config_arguments import find_config_file, load_config
from vmae_det.config import CfgNode, get_cfg
from vmae_det.config.origins import origins_in_files
from vmae_det.utils.errors import UserError
from vmae_det.utils.output_files import make_output_folder, write_text

if TYPE_CHECKING:
    from vmae_det.engine.auto_config import AutoConfig

CHOICES = "choices.txt"
_DATASETS = ("DATASETS.TRAIN", "DATASETS.TEST")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--data` and the options that need it."""
    group = parser.add_argument_group("training on your own data, with all settings chosen")
    group.add_argument(
        "--data",
        metavar="DATASET",
        default="",
        help="training set: a dataset file (.yaml), a folder of videos, or a name; every setting that is not "
        "given is chosen from the data and the device (docs/guides/train_your_data.md)",
    )
    group.add_argument(
        "--val", metavar="DATASET", default="", help="validation set (default: split the videos of --data)"
    )
    group.add_argument(
        "--model",
        metavar="NAME",
        default="",
        help="tiny, small, base, large, huge, a config of the model zoo or published weights (default: small "
        "with published weights, or tiny if these are not available)",
    )
    group.add_argument(
        "--weights",
        metavar="FILE",
        default="",
        help="initial weights: file, URL or name (default: published)",
    )
    group.add_argument(
        "--dry-run", action="store_true", help="print the choices with their reasons, and do not train"
    )


def check_data_arguments(args: argparse.Namespace) -> None:
    """Raise a UserError for options that need --data, or contradict it."""
    if not args.data:
        refuse_unused(args, "needs --data", val="", model="", weights="", dry_run=False)
        return
    refuse_unused(args, "cannot be combined with --data", eval_only=False)
    if args.resume:
        refuse_unused(args, "cannot be combined with --resume", dry_run=False)
    if args.config_file and args.model:
        raise UserError("--model: cannot be combined with --config-file, which names the network")
    for key in args.opts[0::2]:
        if key in _DATASETS:
            raise UserError(f"{key}: cannot be combined with --data; use --data and --val")


def config_for_data(args: argparse.Namespace) -> CfgNode | None:
    """Return the config for --data and print its choices; None after a dry run.

    With --resume, the config is that of the run to resume.
    """
    from vmae_det.engine.auto_config import choose_config
    from vmae_det.engine.auto_data import default_output
    from vmae_det.engine.train import build_checkpointer

    given = get_cfg()
    _merge_given(given, args)
    in_file = origins_in_files(find_config_file(args.config_file)) if args.config_file else ()
    keys = frozenset([*in_file, *args.opts[0::2]])
    if "OUTPUT_DIR" not in keys:
        given.OUTPUT_DIR = default_output(args.data)
    saved = Path(given.OUTPUT_DIR) / "config.yaml"
    if args.resume and saved.exists():
        print(f"resuming with the settings of {saved}")
        return load_config(str(saved), args.opts)
    if not args.dry_run:
        build_checkpointer(given, resume=args.resume)  # before files of another run are replaced
    with tempfile.TemporaryDirectory() as scratch:
        result = choose_config(
            args.data,
            args.val,
            base=lambda cfg: _merge_given(cfg, args),
            given_keys=keys - {*_DATASETS},
            model=args.model,
            weights=args.weights,
            processes=_num_processes(args),
            folder=Path(scratch),
        )
        if int(os.environ.get("RANK", 0)) == 0:  # other processes of torchrun wait for it in `launch`
            print(table(result))
            for warning in result.warnings:
                print(f"vmae-det: warning: {warning}", file=sys.stderr)
            if not args.dry_run:
                _write_files(Path(result.cfg.OUTPUT_DIR), table(result), Path(scratch))
    return None if args.dry_run else result.cfg


def table(result: AutoConfig) -> str:
    """Return the choices as lines of text: key, value and reason."""
    rows = [(choice.key, str(choice.value), choice.reason) for choice in result.choices]
    widths = [min(max(len(row[column]) for row in rows), 40) for column in (0, 1)]
    return "\n".join(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {reason}" for key, value, reason in rows)


def _write_files(output: Path, choices: str, split: Path) -> None:
    """Write the table of choices, and the files of a split, to the folder of the run."""
    from vmae_det.engine.auto_data import DATA_FOLDER

    write_text(make_output_folder(output) / CHOICES, f"{choices}\n")
    for file in split.iterdir():
        write_text(make_output_folder(output / DATA_FOLDER) / file.name, file.read_text(encoding="utf-8"))


def _num_processes(args: argparse.Namespace) -> int:
    if "RANK" in os.environ:  # started by torchrun
        return int(os.environ["WORLD_SIZE"])
    return args.num_gpus * args.num_machines


def _merge_given(cfg: CfgNode, args: argparse.Namespace) -> None:
    if args.config_file:
        cfg.merge_from_file(find_config_file(args.config_file))
    cfg.merge_from_list(args.opts)
