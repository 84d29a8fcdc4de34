"""Types of arguments, without a heavy import."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vmae_det.utils.errors import OutputError, UserError
from vmae_det.utils.files import check_output_file, check_output_folder


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got '{text}'")
    return int(text)


def seconds(text: str) -> float:
    """A time above 0."""
    return _above_zero(text, "seconds")


def frame_rate(text: str) -> float:
    """Frames per second, above 0."""
    return _above_zero(text, "frames per second")


def _above_zero(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"expected {what} above 0, got '{text}'")
    return value


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


def refuse_overwriting(output: Path, *inputs: str | None) -> None:
    """UserError where an output is one of the files that a command reads."""
    for path in inputs:
        if path and os.path.exists(path) and (output.is_file() or output.is_dir()) and output.samefile(path):
            kind = "folder" if output.is_dir() else "file"
            raise UserError(f"{output}: it is the {kind} that is read; name another output")
