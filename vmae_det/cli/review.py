"""`vmae-det review`: show the worst errors of a run as playable clips."""

from __future__ import annotations

import argparse
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vmae_det.cli.arguments import output_folder, positive_int
from vmae_det.utils.errors import UserError
from vmae_det.utils.output_files import check_output_folder

if TYPE_CHECKING:
    from vmae_det.config import CfgNode
    from vmae_det.data.catalog import DatasetSpec

_FOLDER = "review"  # in the folder of the run
_DETECTIONS, _SCORES = "detections.csv", "scores.npz"  # results of a run
_ANNOTATE_PORT = 8000  # the default of vmae-det annotate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run, the files that it names, and the output."""
    parser.epilog = (
        "Writes index.html, which needs no server, review.csv and the folder clips.\n"
        "docs/guides/review.md describes them."
    )
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="output folder of `train` or `test`, with config.yaml and results",
    )
    parser.add_argument(
        "--output",
        type=output_folder,
        metavar="FOLDER",
        help=f"write to this folder (default: RUN/{_FOLDER})",
    )
    parser.add_argument(
        "--count",
        type=positive_int,
        default=10,
        metavar="N",
        help="number of errors of each kind and class (default: %(default)s)",
    )
    parser.add_argument(
        "--dataset", default="", metavar="DATASET", help="dataset of the results (default: DATASETS.TEST)"
    )
    parser.add_argument(
        "--detections",
        type=Path,
        metavar="FILE",
        help=f"AVA CSV with scores (default: RUN/{_DETECTIONS})",
    )
    parser.add_argument(
        "--annotate-url",
        type=_web_address,
        default=f"http://127.0.0.1:{_ANNOTATE_PORT}/",
        metavar="URL",
        help="address of `vmae-det annotate`, for links to it (default: %(default)s)",
    )
    parser.add_argument("--workers", type=positive_int, metavar="N", help="number of processes")


def _web_address(text: str) -> str:
    with suppress(ValueError):  # a port out of range, or half an IPv6 address
        urlsplit(text).port  # noqa: B018 (parses it)
        if re.fullmatch(r"https?://[^\s#]+", text):
            return text
    raise argparse.ArgumentTypeError(f"expected an address such as http://127.0.0.1:8000/, got '{text[:80]}'")


def run(args: argparse.Namespace) -> int:
    """Write the page and print its path; return the exit status."""
    from vmae_det.utils.logging import setup_logging
    from vmae_det.visualization.review import PAGE, review_classes, review_detections, write_review

    setup_logging()
    cfg = _run_config(args.run, required=not args.dataset)
    output = args.output or args.run / _FOLDER
    check_output_folder(output)
    spec, results = _tested_dataset(args, cfg)
    if spec.type == "detection":
        path = args.detections or _result(results, _DETECTIONS)
        review = review_detections(spec, path, cfg.TEST.PROTOCOL, args.count)
        annotate = {"url": args.annotate_url, "command": _annotate_command(spec, cfg, args.annotate_url)}
    elif spec.type == "classification" and not args.detections:
        review, annotate = review_classes(spec, _result(results, _SCORES), args.count), None
    else:
        expected = "detection" if args.detections else "detection or classification"
        raise UserError(f"{spec.name}: is of type '{spec.type}', expected {expected}")
    clips = write_review(output, review, f"Worst errors of {args.run.resolve().name}", annotate, args.workers)
    broken = [clip.problem for clip in clips if clip.problem]
    for kind, counts in review.worst.counts.items():
        listed = sum(error.kind == kind for error in review.worst.errors)
        print(f"{kind:13}  {int(counts.sum()):7d}  {listed:5d} listed")
    if broken:
        print(f"{len(broken)} of {len(clips)} errors have no clip: {broken[0]}")
    print(output / PAGE)
    return 0


def _run_config(run: Path, required: bool) -> CfgNode:
    """Return the config of a run; the defaults if it has none and needs none."""
    from vmae_det.config import get_cfg

    if not run.is_dir():
        raise UserError(f"{run}: no such folder; expected the output folder of `vmae-det train` or `test`")
    cfg, file = get_cfg(), run / "config.yaml"
    if file.is_file():
        cfg.merge_from_file(file)
    elif required:
        raise UserError(
            f"{run}: has no config.yaml; expected the output folder of `vmae-det train` or `test`, "
            "or --dataset"
        )
    return cfg


def _tested_dataset(args: argparse.Namespace, cfg: CfgNode) -> tuple[DatasetSpec, Path]:
    """Return the dataset, and the folder of its results."""
    from vmae_det.data.catalog import get_dataset

    names = list(cfg.DATASETS.TEST)
    if not args.dataset and len(names) != 1:
        problem = (
            f"was tested on {', '.join(names)}; pass one" if names else "was not tested; pass the dataset"
        )
        raise UserError(f"{args.run}: {problem} by --dataset")
    name = args.dataset or names[0]
    option = "--dataset" if args.dataset else "DATASETS.TEST"
    folder = args.run
    if len(names) > 1 and name in names:
        from vmae_det.engine.evaluation import dataset_labels  # imports torch

        folder = folder / dataset_labels(names)[name]
    return get_dataset(name, cfg.DATASETS.ROOT, option), folder


def _result(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        option = " or --detections" if name == _DETECTIONS else ""
        raise UserError(
            f"{folder / name}: no such file; run `vmae-det test` with OUTPUT_DIR {folder}{option}"
        )
    return folder / name


def _annotate_command(spec: DatasetSpec, cfg: CfgNode, url: str) -> str:
    """Return the command that opens the dataset: itself if it is a file, else a copy of it."""
    from vmae_det.data.catalog import dataset_names

    name = spec.part_of or spec.name  # the parts that `train --data` writes are not what the next one reads
    command, root = ["vmae-det", "annotate", name], ""
    if name in dataset_names():
        command += ["--output", f"{name}_corrected"]
        root = f"VMAE_DET_DATASETS={shlex.quote(cfg.DATASETS.ROOT)} " if cfg.DATASETS.ROOT else ""
    port = urlsplit(url).port or _ANNOTATE_PORT
    if port != _ANNOTATE_PORT:
        command += ["--port", str(port)]
    return root + shlex.join(command)
