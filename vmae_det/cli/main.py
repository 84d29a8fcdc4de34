"""The command `vmae-det`. Help and argument errors import nothing heavy."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import vmae_det
from vmae_det.cli.overrides import split_overrides, take_local_rank
from vmae_det.utils.errors import USER_ERROR_STATUS, ConfigError, UserError, file_error, one_line
from vmae_det.utils.extensions import OPTION, import_extensions, pop_import_options

_BROKEN_PIPE_STATUS = 128 + 13  # as of SIGPIPE

COMMANDS = {
    "train": "pre-train, fine-tune or train a detector, as specified by a config",
    "submit": "submit training as a job to a SLURM cluster",
    "test": "evaluate trained weights on DATASETS.TEST",
    "classify": "classify videos, as a whole or over time",
    "detect": "detect actions of people in videos and draw them",
    "detect-persons": "detect people in the keyframes of videos and write their boxes",
    "features": "extract features of clips or persons from videos",
    "visualize": "visualize reconstructions, attention, batches, curves, embeddings and detections",
    "inspect": "show size, GFLOPs, memory and learning rates of a config",
    "print-config": "print a resolved config as YAML, with the origin of each value",
    "export": "export a detector or classifier to torch.export, ONNX or Hugging Face format",
    "convert": "convert weights between published formats",
    "prepare": "prepare a public dataset for the configs of the model zoo",
    "import": "import annotations from CVAT, VIA 3, COCO JSON or Label Studio as a dataset",
    "annotate": "annotate people and their actions in the browser",
    "serve": "detect or classify videos that are sent to a page or an HTTP interface",
    "resize": "re-encode a folder of videos so that training decodes them faster",
    "shard": "pack the videos of a dataset into tar shards",
    "check-data": "check a dataset for problems before training",
    "evaluate": "compute frame-mAP, video-mAP or person AP of predictions in a file",
    "review": "show the worst errors of a run as playable clips",
    "link": "link keyframe detections into tubes, for video-mAP",
    "convert-tubes": "convert tubes from ACT or MultiSports pickles to CSV",
    "benchmark": "measure time and memory of the toolkit on this machine",
    "doctor": "check this machine and installation, with smoke tests of each part",
    "study": "run a grid of experiments with several seeds, and compare their results",
    "quickstart": "run the whole pipeline on a small built-in dataset, in a few minutes on a CPU",
}
# Commands with --import: they build models, datasets, readers or person detectors from registries.
EXTENSIBLE = (
    *("train", "submit", "test", "classify", "detect", "detect-persons", "features", "visualize"),
    *("inspect", "export", "print-config", "convert", "check-data", "import"),
    *("annotate", "serve", "review", "study"),
)
_MODULES = {"import": "import_annotations"}  # `import` is not a valid module name


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line, without the usage that argparse prints first."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR_STATUS, f"{self.prog}: error: {one_line(message)}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status. A UserError prints one line to stderr and returns 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that stdout cannot encode must not stop a command
        sys.stdout.reconfigure(errors="backslashreplace")
    # Let operators that MPS (Apple GPUs) lacks run on the CPU. torch reads this when it is imported.
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    try:
        return _run([_expand_home(argument) for argument in (sys.argv[1:] if argv is None else argv)])
    except UserError as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("vmae-det: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the pipe, such as `head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE_STATUS
    except OSError as error:
        return _fail(file_error(error))
    except (MemoryError, RuntimeError) as error:
        from vmae_det.utils.memory import is_out_of_memory, out_of_memory_error

        if not is_out_of_memory(error):
            raise
        return _fail(out_of_memory_error(error))


def build_parser(name: str) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser | None, Any]:
    """Build the parser of the program. Only the module of the command `name` is imported.

    Returns:
        The parser of the program, the parser of the command `name`, and the module of that command. The
        latter two are None if there is no such command.
    """
    parser = _Parser(
        prog="vmae-det",
        description="VideoMAE pre-training, fine-tuning and spatio-temporal action detection.",
    )
    parser.add_argument("--version", action="version", version=f"vmae-det {vmae_det.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    command_parser, module = None, None
    for command, summary in COMMANDS.items():
        added = commands.add_parser(
            command, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if command == name:
            command_parser = added
            module = importlib.import_module(f"vmae_det.cli.{_MODULES.get(name, name.replace('-', '_'))}")
            module.add_arguments(command_parser)
            if name in EXTENSIBLE:
                command_parser.add_argument(
                    OPTION,
                    action="append",
                    metavar="MODULE",
                    help="import this module of custom components first; repeatable (docs/guides/extend.md)",
                )
    return parser, command_parser, module


def _run(argv: list[str]) -> int:
    command, *argv = take_local_rank(argv) or [""]
    overrides: list[str] = []
    if command in EXTENSIBLE:
        argv, extensions = pop_import_options(argv)
        import_extensions(extensions)  # before the parser is built: they may add choices of options
    parser, command_parser, module = build_parser(command)
    if command_parser:
        argv, overrides = split_overrides(argv, command_parser)
    args = parser.parse_args([command, *argv] if command else [])
    if overrides:
        if not hasattr(args, "opts"):
            raise ConfigError(f"{overrides[0]}: vmae-det {command} takes no config keys")
        args.opts = [*args.opts, *overrides]
    import_extensions(getattr(args, "import", None) or ())  # argparse also accepts --imp
    return module.run(args)


def _expand_home(argument: str) -> str:
    """Expand ~ at the start of an argument or of its value. Shells leave it in --output=~/x."""
    if argument.startswith("~"):
        return os.path.expanduser(argument)
    name, equals, value = argument.partition("=")
    return name + equals + os.path.expanduser(value)


def _fail(error: UserError) -> int:
    print(f"vmae-det: error: {one_line(error)}", file=sys.stderr)
    return USER_ERROR_STATUS


if __name__ == "__main__":
    sys.exit(main())
