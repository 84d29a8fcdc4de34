"""`vmae-det convert`: weights from one published format to another."""

from __future__ import annotations

import argparse

from vmae_det.cli.arguments import output_file, refuse_overwriting

# Those of vmae_det.checkpoint.formats that can be written; repeated here, since --help loads no torch.
FAMILIES = {
    "vmae_det": "this program's",
    "videomae": "VideoMAE and VideoMAE V2: pre-training, classification or action detection",
    "huggingface": "Transformers: pre-training or classification",
    "mmaction2": "recognition or detection",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Source, output and format."""
    parser.description += ". The format of SOURCE is recognised by its parameter names."
    parser.add_argument(
        "source", metavar="SOURCE", help="a file, an http(s) address, or a name of the model zoo"
    )
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        type=output_file,
        help="by its suffix a file of PyTorch's (.pt, .pth, .bin) or .safetensors",
    )
    parser.add_argument("--to", required=True, choices=FAMILIES, metavar="FORMAT", help="see below")
    parser.epilog = "formats:\n" + "\n".join(f"  {name:12} {note}" for name, note in FAMILIES.items())


def run(args: argparse.Namespace) -> int:
    """Write the weights in SOURCE as OUTPUT, in the format asked for."""
    from vmae_det.checkpoint.convert import convert_weights

    refuse_overwriting(args.output, args.source)
    print(convert_weights(args.source, args.output, args.to))
    return 0
