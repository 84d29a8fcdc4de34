"""`vmae-det export`: a detector or classifier as a file that runs without this program."""

from __future__ import annotations

import argparse

from vmae_det.cli.arguments import output_file
from vmae_det.cli.common import add_weights_arguments, load_weights_config

FORMATS = {".pt2": "torch", ".onnx": "onnx"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The weights, the format, and where to."""
    parser.description += (
        ". The number of clips, of people, height and width stay free. The file is compared with the model, "
        "and is not kept if a score differs by more than 1e-4."
    )
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="of a detector or classifier, such as model_final.pt"
    )
    parser.add_argument(
        "--format",
        choices=list(FORMATS.values()),
        help="torch (torch.export, .pt2) or onnx (.onnx); default: by the suffix of --output",
    )
    parser.add_argument("--output", type=output_file, required=True, metavar="FILE")
    add_weights_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Export and print how the file compares with the model."""
    from dataclasses import asdict

    from vmae_det.data.label_map import LabelMap
    from vmae_det.inference.backends import read_extras
    from vmae_det.inference.export import export_model
    from vmae_det.utils.errors import UserError

    form = args.format or FORMATS.get(args.output.suffix)
    if form is None:
        raise UserError(f"--output: {args.output} ends in '{args.output.suffix}', expected .pt2 or .onnx")
    cfg = load_weights_config(args)
    label_map = read_extras(args.weights).get("label_map")
    if args.label_map:
        label_map = {key: list(value) for key, value in asdict(LabelMap.from_file(args.label_map)).items()}
    print(export_model(cfg, args.output, form, label_map))
    return 0
