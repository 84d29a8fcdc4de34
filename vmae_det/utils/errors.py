"""Errors that are shown to the user, and helpers for their messages.

The command line prints a UserError as one line and exits with status 2. Any other exception is a bug and
keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

USER_ERROR_STATUS = 2  # exit status of a command that ends in a UserError
_MAX_CHARACTERS = 1000  # of a message


class UserError(Exception):
    """An error that the user can fix. The message states what was got, what was expected, and where."""


class ConfigError(UserError):
    """A config key is unknown or has an invalid value. The message starts with the key."""


class DataError(UserError):
    """A file is missing, unreadable or has invalid content. The message starts with the file and the line.

    Attributes:
        problem: the message without file and line.
        line: line number, from 1; None for errors about the entire file.
    """

    def __init__(self, problem: str, path: str | Path | None = None, line: int | None = None) -> None:
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(where + problem)
        self.problem = problem
        self.line = line


class WeightsError(UserError):
    """A checkpoint cannot be read or written, or does not match the model; lists the parameters."""


class OutputError(UserError, OSError):
    """An output cannot be written: `OutputError(errno, reason, path)`.

    It is also an OSError, so that a caller that handles OSError can add what it was writing.
    """

    def __str__(self) -> str:
        return f"{self.filename}: cannot be written: {self.strerror}"


def file_error(error: OSError) -> UserError:
    """Convert an OSError about a file to a UserError. An OSError without a file name is raised again."""
    if error.filename is None:
        raise error
    return UserError(f"{error.filename}: {error.strerror}")


def quoted(text: str) -> str:
    """Quote a value for an error message. Unprintable characters are escaped, and long values truncated."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def one_line(message: object) -> str:
    """Return a message without line breaks. The middle of a very long message is replaced by an ellipsis."""
    text = " ".join(str(message).split())
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 300]} ... {text[-300:]}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'X'?` for the known name closest to `name`, or a list of the known names."""
    known = list(known)
    folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{folded[near[0]]}'?"
    return f"; expected one of: {', '.join(known)}" if 0 < len(known) <= 30 else ""
