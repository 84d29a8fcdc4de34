"""`vmae-det convert`: convert weights between published formats."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.cli.arguments import refuse_overwriting
from vmae_det.cli.weights_arguments import add_weights_arguments, load_label_map, load_weights_config

# The writable ones of vmae_det.checkpoint.published_formats. Repeated here, so that --help needs no torch.
FAMILIES = {
    "vmae_det": "this toolkit",
    "videomae": "VideoMAE and VideoMAE V2: pre-training, classification or action detection",
    "huggingface": "Transformers: pre-training or classification",
    "mmaction2": "recognition or detection",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add source, output and format."""
    parser.description += ". The format of SOURCE is recognized by its parameter names."
    parser.add_argument(
        "weights",
        metavar="SOURCE",
        help="a file, a Transformers folder, an http(s) URL, a Hugging Face model (ORG/NAME), or a model zoo "
        "name",
    )
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        type=Path,
        help="file to write: PyTorch (.pt, .pth, .bin) or .safetensors; with --to huggingface, a name "
        "without suffix is a folder for from_pretrained",
    )
    parser.add_argument("--to", required=True, choices=FAMILIES, metavar="FORMAT", help="output format")
    add_weights_arguments(parser)
    parser.epilog = "formats:\n" + "\n".join(f"  {name:12} {note}" for name, note in FAMILIES.items())


def run(args: argparse.Namespace) -> int:
    """Convert the weights and print what was written."""
    from vmae_det.checkpoint.convert import convert_weights
    from vmae_det.checkpoint.files import is_weights_file
    from vmae_det.inference.export.hugging_face import save_pretrained
    from vmae_det.utils.output_files import check_output_file, check_output_folder

    refuse_overwriting(args.output, args.weights)
    if args.to == "huggingface" and not is_weights_file(args.output):
        check_output_folder(args.output)
        print(save_pretrained(load_weights_config(args), args.output, load_label_map(args)))
        return 0
    check_output_file(args.output)
    cfg = load_weights_config(args) if args.config_file or args.opts else None
    print(convert_weights(args.weights, args.output, args.to, cfg, load_label_map(args)))
    return 0
