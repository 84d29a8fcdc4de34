"""`vmae-det export`: a detector or classifier as a file that runs without this program."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.cli.common import add_weights_arguments, load_label_map, load_weights_config

FORMATS = {".pt2": "torch", ".onnx": "onnx"}
HUGGING_FACE = "huggingface"


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
        choices=[*FORMATS.values(), HUGGING_FACE],
        help="torch (torch.export, .pt2), onnx (.onnx) or huggingface (a folder for Transformers' "
        "from_pretrained); default: by the suffix of --output",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="or a folder")
    add_weights_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Export and print how the file compares with the model."""
    from vmae_det.inference.export import export_model, save_pretrained
    from vmae_det.utils.errors import UserError
    from vmae_det.utils.output_files import check_output_file, check_output_folder

    form = args.format or FORMATS.get(args.output.suffix)
    if form is None:
        raise UserError(
            f"--output: {args.output} ends in '{args.output.suffix}', expected .pt2 or .onnx, or "
            "--format huggingface and a folder"
        )
    (check_output_folder if form == HUGGING_FACE else check_output_file)(args.output)
    cfg, label_map = load_weights_config(args), load_label_map(args)
    if form == HUGGING_FACE:
        print(save_pretrained(cfg, args.output, label_map))
    else:
        print(export_model(cfg, args.output, form, label_map))
    return 0
