"""`vmae-det check-data`: check a dataset for problems, without a model and without torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.cli.arguments import output_file, output_folder, positive_int, refuse_overwriting
from vmae_det.data.catalog import DatasetSpec, get_dataset
from vmae_det.dataset_tools.check import check_dataset
from vmae_det.dataset_tools.check.fix import fix_dataset
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.output_files import write_json
from vmae_det.video.probe import DECODE_MODES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the dataset, the dataset to compare with, and the outputs."""
    parser.epilog = (
        "exit status: 0 if there are no errors (warnings are allowed), 1 if there are, 2 on invalid usage"
    )
    parser.add_argument(
        "dataset", metavar="DATASET", help="dataset file (.yaml), name in the catalog, or folder of videos"
    )
    parser.add_argument(
        "--against",
        metavar="DATASET",
        help="report videos shared with this dataset (default: the matching val or train set, if any)",
    )
    parser.add_argument(
        "--decode",
        choices=DECODE_MODES,
        default="ends",
        help="what to decode of each video: none (only read the header), ends (first and last frames) or "
        "all (default: ends)",
    )
    parser.add_argument(
        "--workers", type=positive_int, metavar="N", help="number of processes that read videos"
    )
    parser.add_argument("--json", type=output_file, metavar="FILE", help="also write the findings as JSON")
    parser.add_argument(
        "--fix",
        type=output_folder,
        metavar="FOLDER",
        help="write a fixed dataset and a list of all changes to this new folder, then check it; clips boxes "
        "slightly outside the frame, drops repeated rows, ...",
    )
    parser.add_argument(
        "--sheets",
        type=output_folder,
        metavar="FOLDER",
        help="draw keyframes with their boxes and labels to sheet_1.png, ... in this folder",
    )


def run(args: argparse.Namespace) -> int:
    """Print the findings; return the exit status."""
    spec = get_dataset(args.dataset)
    against = get_dataset(args.against) if args.against else None
    if args.sheets and spec.type != "detection":
        raise ConfigError(
            f"--sheets: requires a dataset of type 'detection', {args.dataset} has type '{spec.type}'"
        )
    if args.json:
        for read in filter(None, (spec, against)):
            files = [value for value in vars(read).values() if isinstance(value, Path)]
            refuse_overwriting(args.json, read.name, getattr(read.video_start, "path", None), *files)
    if args.fix:
        fixed = fix_dataset(spec, args.fix, args.decode, args.workers)
        print(fixed.as_text() + "\n")
        spec = get_dataset(str(fixed.dataset))
    report = check_dataset(spec, against, args.decode, args.workers)
    print(report.as_text())
    if args.json:
        write_json(args.json, report.to_json())
    if args.sheets:
        _draw_sheets(spec, args.sheets)
    return 1 if report.errors else 0


def _draw_sheets(spec: DatasetSpec, folder: Path) -> None:
    from vmae_det.visualization.contact_sheet import draw_contact_sheets
    from vmae_det.visualization.pictures import write_png

    sheets = draw_contact_sheets(spec)
    for number, sheet in enumerate(sheets, start=1):
        write_png(folder / f"sheet_{number}.png", sheet)
    print(f"\ncontact sheets in {folder}: {len(sheets)}")
