"""`vmae-det export`: export a detector or classifier to a file that runs without this toolkit."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.cli.arguments import positive_int, refuse_unused
from vmae_det.cli.weights_arguments import add_weights_arguments, load_label_map, load_weights_config

FORMATS = {".pt2": "torch", ".onnx": "onnx"}
HUGGING_FACE = "huggingface"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the weights, the format and the output."""
    parser.description += (
        ".\nThe numbers of clips and persons, the height and the width are dynamic. The exported file is\n"
        "compared with the model, and deleted if a score differs by more than 1e-4."
    )
    parser.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help="weights of a detector or classifier, such as model_final.pt",
    )
    parser.add_argument(
        "--format",
        choices=[*FORMATS.values(), HUGGING_FACE],
        help="torch (torch.export, .pt2), onnx (.onnx) or huggingface (a folder for Transformers' "
        "from_pretrained) (default: by the suffix of --output)",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="PATH", help="file or folder to write")
    int8 = parser.add_argument_group("int8, for CPUs")
    int8.add_argument(
        "--int8",
        action="store_true",
        help="write an ONNX file whose linear layers multiply 8-bit integers; requires --calibrate",
    )
    int8.add_argument(
        "--calibrate",
        metavar="DATASET_OR_VIDEO",
        help="clips that decide which layers stay in fp32, and on which the loss is measured: a labeled "
        "dataset, a folder of videos or a video. SEED chooses them",
    )
    int8.add_argument(
        "--calibration-clips",
        type=positive_int,
        default=32,
        metavar="N",
        help="number of these clips (default: %(default)s)",
    )
    add_weights_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Export the model and print how the file compares with it."""
    from vmae_det.inference.export.exporter import export_model
    from vmae_det.inference.export.hugging_face import save_pretrained
    from vmae_det.utils.errors import UserError
    from vmae_det.utils.output_files import check_output_file, check_output_folder

    export_format = args.format or FORMATS.get(args.output.suffix)
    if export_format is None:
        raise UserError(
            f"--output: {args.output} ends in '{args.output.suffix}', expected .pt2 or .onnx; "
            "for a folder, add --format huggingface"
        )
    if args.int8:
        if export_format != "onnx":
            raise UserError(f"--int8: written as ONNX only, got the format {export_format}")
        if args.calibrate is None:
            raise UserError("--int8: needs clips; add --calibrate DATASET_OR_VIDEO")
    else:
        refuse_unused(args, "only used with --int8", calibrate=None, calibration_clips=32)
    (check_output_folder if export_format == HUGGING_FACE else check_output_file)(args.output)
    cfg, label_map = load_weights_config(args), load_label_map(args)
    if export_format == HUGGING_FACE:
        print(save_pretrained(cfg, args.output, label_map))
    elif args.int8:
        from vmae_det.inference.export.quantization import export_int8

        print(export_int8(cfg, args.output, args.calibrate, args.calibration_clips, label_map))
    else:
        print(export_model(cfg, args.output, export_format, label_map))
    return 0
