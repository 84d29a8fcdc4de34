"""Types of arguments, without a heavy import."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vmae_det.config.ranges import Range, integer, number, shown
from vmae_det.utils.errors import OutputError, UserError
from vmae_det.utils.output_files import check_output_file, check_output_folder


def whole(interval: str) -> Callable[[str], int]:
    """The type of whole numbers in an interval such as "[1, 100]"."""
    return _number(integer(interval), int, r"[+-]?[0-9]{1,20}", f"a whole number in {interval}")


def decimal(interval: str) -> Callable[[str], float]:
    """The type of numbers in an interval such as "(0, 1]", which 0 is outside of."""
    return _number(number(interval), float, r"\S{1,50}", f"a number in {interval}")


def _number(numbers: Range, convert: Callable, form: str, expected: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            if not re.fullmatch(form, text):
                raise ValueError
            value = convert(text)
            numbers.check(value, "")
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {expected}, got {shown(text)}") from None
        return value

    return parse


positive = whole("[1, 1000000]")
processes = whole("[1, 1024]")
seed = whole("[0, 4294967295]")
every = decimal("[0.001, 1000000]")  # seconds from keyframe to keyframe
clock = decimal("[-1000000000, 1000000000]")  # a second on the clock of a dataset
moment = decimal("[0, 1000000000]")  # a second of a video
frame_rate = decimal("[0.001, 100000]")
fraction = decimal("[0, 1]")


def output_file(text: str) -> Path:
    """A file that can be written."""
    return _checked(check_output_file, text)


def output_folder(text: str) -> Path:
    """A folder that is writable, or can be made."""
    return _checked(check_output_folder, text)


def _checked(check: Callable[[str], None], text: str) -> Path:
    try:
        check(text)
    except OutputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


def refuse_unused(args: argparse.Namespace, reason: str, **defaults: Any) -> None:
    """UserError where an option that would not be used has another value than its default."""
    for name, default in defaults.items():
        if getattr(args, name) != default:
            raise UserError(f"--{name.replace('_', '-')}: {reason}")


def refuse_overwriting(output: Path, *inputs: str | Path | None) -> None:
    """UserError where an output is one of the files that a command reads."""
    for path in inputs:
        if path and os.path.exists(path) and (output.is_file() or output.is_dir()) and output.samefile(path):
            kind = "folder" if output.is_dir() else "file"
            raise UserError(f"{output}: it is the {kind} that is read; name another output")
