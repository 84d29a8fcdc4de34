"""The errors that a user meets: each says what was got, what was expected and where.

The command line prints them as one line and exits with status 2; anything else is a bug and keeps its
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

USER_ERROR_STATUS = 2  # exit status of a command that ends in a UserError
_READABLE = 1000  # characters of a message


class UserError(Exception):
    """Something outside the program is wrong and the user can mend it."""


class ConfigError(UserError):
    """A config key is unknown or holds an impossible value; the message begins with the key."""


class DataError(UserError):
    """A file is missing, unreadable or says something impossible; the message begins with file and line.

    `problem` and `line` keep its parts.
    """

    def __init__(self, problem: str, path: str | Path | None = None, line: int | None = None) -> None:
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(where + problem)
        self.problem = problem
        self.line = line


class WeightsError(UserError):
    """A checkpoint cannot be read or written, or does not fit the model; the message names the parameters."""


class OutputError(UserError, OSError):
    """An output cannot be written: `OutputError(errno, reason, path)`. It is an OSError too, so that a caller
    can add what it was about to write."""

    def __str__(self) -> str:
        return f"{self.filename}: cannot be written: {self.strerror}"


def file_error(error: OSError) -> UserError:
    """An OSError about a file as an error that the user can mend. One that names no file is raised again."""
    if error.filename is None:
        raise error
    return UserError(f"{error.filename}: {error.strerror}")


def quoted(text: str) -> str:
    """A value as an error message shows it: quoted, unprintable characters escaped, cut when long."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def one_line(message: object) -> str:
    """A message without line breaks, and without the middle of what is too long to read."""
    text = " ".join(str(message).split())
    return text if len(text) <= _READABLE else f"{text[: _READABLE - 300]} ... {text[-300:]}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'X'?` for the known name nearest to `name`, or the list of known ones when none is
    near."""
    known = list(known)
    folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{folded[near[0]]}'?"
    return f"; known are: {', '.join(known)}" if 0 < len(known) <= 30 else ""
