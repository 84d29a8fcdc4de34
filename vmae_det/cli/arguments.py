"""Argument types and checks that commands share. Imports nothing heavy, so that `--help` is fast."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vmae_det.config.ranges import Range, format_value, integer, number
from vmae_det.utils.errors import OutputError, UserError
from vmae_det.utils.output_files import check_output_file, check_output_folder


def integer_in(interval: str) -> Callable[[str], int]:
    """Return an argument type for integers in an interval such as "[1, 100]"."""
    return _number_type(integer(interval), int, r"[+-]?[0-9]{1,20}", f"an integer in {interval}")


def number_in(interval: str) -> Callable[[str], float]:
    """Return an argument type for numbers in an interval; "(0, 1]" excludes 0 and includes 1."""
    return _number_type(number(interval), float, r"\S{1,50}", f"a number in {interval}")


def _number_type(allowed: Range, convert: Callable, pattern: str, expected: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            if not re.fullmatch(pattern, text):
                raise ValueError
            value = convert(text)
            allowed.check(value, "")
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {expected}, got {format_value(text)}") from None
        return value

    return parse


positive_int = integer_in("[1, 1000000]")
num_processes = integer_in("[1, 1024]")
seed = integer_in("[0, 4294967295]")
keyframe_interval = number_in("[0.001, 1000000]")  # seconds between keyframes
dataset_time = number_in("[-1000000000, 1000000000]")  # seconds on the clock of a dataset
video_time = number_in("[0, 1000000000]")  # seconds from the start of a video
frame_rate = number_in("[0.001, 100000]")
fraction = number_in("[0, 1]")


def output_file(text: str) -> Path:
    """Argument type: the path of a file that can be written."""
    return _checked_path(check_output_file, text)


def output_folder(text: str) -> Path:
    """Argument type: the path of a folder that is writable or can be created."""
    return _checked_path(check_output_folder, text)


def _checked_path(check: Callable[[str], None], text: str) -> Path:
    try:
        check(text)
    except OutputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


def refuse_unused(args: argparse.Namespace, reason: str, **defaults: Any) -> None:
    """Raise UserError if an option that would have no effect differs from its default."""
    for name, default in defaults.items():
        if getattr(args, name) != default:
            raise UserError(f"--{name.replace('_', '-')}: {reason}")


def refuse_overwriting(output: Path, *inputs: str | Path | None) -> None:
    """Raise UserError if an output is one of the files that the command reads."""
    for path in inputs:
        if path and os.path.exists(path) and (output.is_file() or output.is_dir()) and output.samefile(path):
            kind = "folder" if output.is_dir() else "file"
            raise UserError(f"{output}: would overwrite an input {kind}; choose another output")
