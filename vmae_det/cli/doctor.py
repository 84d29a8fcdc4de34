"""`vmae-det doctor`: facts about this machine and smoke tests, for a new installation or a bug report."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from pathlib import Path

from vmae_det.cli.arguments import number_in, output_file, output_folder
from vmae_det.doctor.report import FAILED
from vmae_det.utils.errors import UserError, one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.description += (
        ".\nIt needs no network. The report contains no user name and no paths of yours; paste it into bug\n"
        "reports. The exit status is 0 if nothing failed (warnings are allowed), and 1 if a check failed."
    )
    parser.add_argument("--quick", action="store_true", help="only collect facts; run no checks")
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda", "mps"],
        default="auto",
        help="device on which training is checked; auto: the CPU and each type of GPU (default: %(default)s)",
    )
    parser.add_argument("--no-compile", action="store_true", help="do not check torch.compile")
    parser.add_argument(
        "--folder",
        type=output_folder,
        default=Path(),
        metavar="FOLDER",
        help="folder in which outputs will be written, such as OUTPUT_DIR (default: the current folder)",
    )
    parser.add_argument(
        "--time-limit",
        type=number_in("[1, 100000]"),
        default=110.0,
        metavar="SECONDS",
        help="skip checks that are not expected to end within this time (default: %(default)g)",
    )
    parser.add_argument(
        "--json",
        type=output_file,
        metavar="FILE",
        help="also write the report to this file (docs/guides/doctor.md)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the report, and return 1 if a check failed, else 0."""
    for name in ("numpy", "tqdm"):  # doctor needs them itself
        _import_or_explain(name)
    from vmae_det.doctor.examine import examine
    from vmae_det.utils.output_files import write_json

    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise UserError(
            "cannot write to any folder for temporary files; free disk space, or set TMPDIR to another folder"
        ) from None
    try:
        folder = args.folder.absolute()
    except OSError:
        raise UserError("the current folder was deleted; change to another folder") from None
    report = examine(
        folder,
        quick=args.quick,
        device=args.device,
        compiled=not args.no_compile,
        time_limit=args.time_limit,
    )
    print(report.render(color=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    if args.json:
        write_json(args.json, report.to_json())
    return 1 if report.status == FAILED else 0


def _import_or_explain(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception as error:  # broken packages raise anything
        raise UserError(
            f"{name} cannot be imported ({one_line(error)[:200]}); run pip install --force-reinstall {name}"
        ) from None
