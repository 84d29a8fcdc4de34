"""The command `vmae-det`. Help and errors of arguments need no heavy import."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import vmae_det
from vmae_det.cli.overrides import split_overrides, take_local_rank
from vmae_det.utils.errors import USER_ERROR_STATUS, ConfigError, UserError, file_error, one_line
from vmae_det.utils.extensions import OPTION, import_extensions, pop_import_options

COMMANDS = {
    "train": "pre-train, fine-tune or transfer, as a config says",
    "submit": "train as a job of a SLURM cluster",
    "test": "evaluate trained weights on DATASETS.TEST",
    "detect": "find the actions of people in a video and draw them",
    "detect-persons": "boxes of the people in the keyframes of videos, by a person detector",
    "visualize": "what a model sees, is fed and has learned, as pictures",
    "inspect": "size, cost, memory and learning rates of a config, before a run",
    "export": "a detector or classifier as a file of torch.export or ONNX",
    "convert": "weights from one published format to another",
    "prepare": "a known dataset, from what its site gives to what the configs want",
    "import": "annotations of CVAT, VIA 3, COCO JSON or Label Studio to a dataset",
    "shard": "the videos of a dataset into tar shards",
    "check-data": "what is wrong with a dataset, before a night of training is lost",
    "evaluate": "frame-mAP, video-mAP or person recall of detections in a file",
    "link": "detections in keyframes to tubes, for video-mAP",
    "convert-tubes": "tubes in the pickles of ACT and MultiSports to CSV",
    "benchmark": "time and memory of the program's parts on this machine",
    "quickstart": "the whole way on a small built-in dataset, in a few minutes on a CPU",
}
# Those that build models, datasets, readers or person detectors by name, which may be the user's.
EXTENSIBLE = (
    *("train", "submit", "test", "detect", "detect-persons", "visualize", "inspect", "export"),
    *("convert", "check-data"),
)
_MODULES = {"import": "import_annotations"}  # where the command's name cannot be the module's


class _Parser(argparse.ArgumentParser):
    """Ends in one line, as all errors do, where argparse would print its usage before."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR_STATUS, f"{self.prog}: error: {one_line(message)}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; gives its exit status. An error that the user can mend is one line on stderr,
    status 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that its encoding lacks must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("vmae-det: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        return _fail(file_error(error))


def build_parser(name: str) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser | None, Any]:
    """The parser of the program; that of the command called `name`, and its module, where there is one.

    Other commands are known by their names alone, so that their modules need no import.
    """
    parser = _Parser(
        prog="vmae-det",
        description="VideoMAE: pre-training on video, fine-tuning, spatio-temporal action detection.",
    )
    parser.add_argument("--version", action="version", version=f"vmae-det {vmae_det.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked, module = None, None
    for command, summary in COMMANDS.items():
        added = commands.add_parser(
            command, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if command == name:
            asked = added
            module = importlib.import_module(f"vmae_det.cli.{_MODULES.get(name, name.replace('-', '_'))}")
            module.add_arguments(asked)
            if name in EXTENSIBLE:
                own = "of own parts, to be imported first (docs/extend.md)"
                asked.add_argument(OPTION, action="append", metavar="MODULE", help=own)
    return parser, asked, module


def _run(argv: list[str]) -> int:
    command, *argv = take_local_rank(argv) or [""]
    parser, asked, module = build_parser(command)
    overrides: list[str] = []
    extensions: list[str] = []
    if command in EXTENSIBLE:
        argv, extensions = pop_import_options(argv)
    if asked:
        argv, overrides = split_overrides(argv, asked)
    args = parser.parse_args([command, *argv] if command else [])
    if overrides:
        if not hasattr(args, "opts"):
            raise ConfigError(f"{overrides[0]}: vmae-det {command} takes no config keys")
        args.opts = [*args.opts, *overrides]
    import_extensions([*extensions, *(getattr(args, "import", None) or ())])  # the latter of --imp
    return module.run(args)


def _fail(error: UserError) -> int:
    print(f"vmae-det: error: {one_line(error)}", file=sys.stderr)
    return USER_ERROR_STATUS


if __name__ == "__main__":
    sys.exit(main())
