"""Write the text files of synthetic datasets, with the same bytes on every platform."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a text file, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines without their ends."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def first_line(path: Path) -> str:
    """Return the first line of a text file, without its end."""
    with open(path, encoding="utf-8") as lines:
        return lines.readline().rstrip("\n")
