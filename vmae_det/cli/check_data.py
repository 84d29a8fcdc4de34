"""`vmae-det check-data`: what is wrong with a dataset, without a model and without torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.cli.arguments import output_file, output_folder, positive, refuse_overwriting
from vmae_det.data.catalog import DatasetSpec, get_dataset
from vmae_det.dataset_tools.check import check_dataset
from vmae_det.dataset_tools.check.fix import fix_dataset
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.output_files import write_json
from vmae_det.video.probe import DECODE_MODES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The dataset, what to compare it with, and where the answer goes."""
    parser.epilog = "exit status: 0 without errors (warnings do not count), 1 with errors, 2 after wrong use"
    parser.add_argument(
        "dataset", metavar="DATASET", help="dataset file (.yaml), name of the catalog, or folder of videos"
    )
    parser.add_argument(
        "--against",
        metavar="DATASET",
        help="a set that must share no video with it (else the one called val instead of train, or train "
        "instead of val, where there is one)",
    )
    parser.add_argument(
        "--decode",
        choices=DECODE_MODES,
        default="ends",
        help="how much of each video is decoded: nothing (its header is read), its first and last frames "
        "(the default), or all",
    )
    parser.add_argument("--workers", type=positive, metavar="N", help="processes that read videos")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the findings there, too")
    parser.add_argument(
        "--fix",
        type=output_folder,
        metavar="OUTPUT",
        help="write a fixed dataset into this new folder, with a list of all changes, and check that: boxes "
        "slightly outside the frame are clipped, repeated rows dropped, ...",
    )
    parser.add_argument(
        "--sheets",
        type=output_folder,
        metavar="DIR",
        help="draw boxes and labels of keyframes there, as sheet_1.png, ...",
    )


def run(args: argparse.Namespace) -> int:
    """Print what was found; gives the exit status."""
    spec = get_dataset(args.dataset)
    against = get_dataset(args.against) if args.against else None
    if args.sheets and spec.type != "detection":
        raise ConfigError(f"--sheets: shows boxes, which {args.dataset}, of type '{spec.type}', has none of")
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
        _draw(spec, args.sheets)
    return 1 if report.errors else 0


def _draw(spec: DatasetSpec, folder: Path) -> None:
    from vmae_det.visualization.contact_sheet import draw_contact_sheets
    from vmae_det.visualization.reconstruction import write_png

    sheets = draw_contact_sheets(spec)
    for number, sheet in enumerate(sheets, start=1):
        write_png(folder / f"sheet_{number}.png", sheet)
    print(f"\ncontact sheets in {folder}: {len(sheets)}")
