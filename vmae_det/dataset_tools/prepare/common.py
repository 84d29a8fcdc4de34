"""What all preparers share: their names, the account at the end, and small helpers with files.

A preparer is a module with two functions, named in `PREPARERS`:

    add_arguments(parser)                        its own arguments, such as where the annotations lie
    prepare(name, folder, args) -> Outcome       makes `folder`, the dataset's place under the root

`vmae-det prepare NAME` adds --root, --workers and --max-bad, holds the folder's lock, and prints the outcome.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.input_files import read_text
from vmae_det.utils.output_files import atomic_write, make_output_folder

# Name of a dataset to its module in this package.
PREPARERS: dict[str, str] = {
    "kinetics400": "kinetics",
    "kinetics600": "kinetics",
    "kinetics700": "kinetics",
    "something_something_v2": "something_something",
    "ucf101": "ucf101",
    "hmdb51": "hmdb51",
    "ava": "ava",
    "ava_kinetics": "ava_kinetics",
    "ucf101_24": "ucf101_24",
    "jhmdb": "jhmdb",
    "multisports": "multisports",
}

_SHOWN = 3  # files that a summary names


def preparer(name: str) -> ModuleType:
    """The module that prepares the dataset called `name`."""
    return importlib.import_module(f"vmae_det.dataset_tools.prepare.{PREPARERS[name]}")


@dataclass(frozen=True)
class Outcome:
    """What a preparation made, and what it did not find.

    Args:
        made: one line for each thing made.
        expected: number of videos that the annotations name.
        broken: videos that are there and cannot be used, with the reason.
        missing: videos that are not there.
        missing_is_normal: the site itself loses videos, so that they do not count as bad.
        remarks: anything else that a user should know.
    """

    made: list[str]
    expected: int
    broken: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    missing_is_normal: bool = False
    remarks: list[str] = field(default_factory=list)

    @property
    def bad_fraction(self) -> float:
        """Part of the videos that should be there and are of no use, 0..1."""
        missing = 0 if self.missing_is_normal else len(self.missing)
        there = self.expected - (len(self.missing) - missing)
        return (len(self.broken) + missing) / max(there, 1)

    def as_text(self) -> str:
        """The account for a reader."""
        good = self.expected - len(self.broken) - len(self.missing)
        lines = [*self.made, *self.remarks, f"videos: {good} of {self.expected} can be used"]
        if self.missing:
            lines.append(f"  missing: {len(self.missing)}, see missing_videos.csv{_examples(self.missing)}")
        if self.broken:
            first = [f"{name}: {reason}" for name, reason in self.broken.items()]
            lines.append(f"  broken: {len(self.broken)}, see bad_videos.csv{_examples(first)}")
        return "\n".join(lines)

    def write_lists(self, folder: Path) -> None:
        """`bad_videos.csv` and `missing_videos.csv`; without anything to list, the file goes."""
        write_table(folder / "bad_videos.csv", ("video", "reason"), sorted(self.broken.items()))
        write_table(folder / "missing_videos.csv", ("video",), [(name,) for name in sorted(self.missing)])


def _examples(names: list[str]) -> str:
    return "".join(f"\n    {name}" for name in names[:_SHOWN]) + ("\n    ..." if len(names) > _SHOWN else "")


def write_table(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A CSV file, whole or not at all; no file where there are no rows."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Keep other preparations out of a folder; UserError where one is at work."""
    make_output_folder(folder)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another preparation is at work there; wait until it ends") from None
        yield


def check_link(target: Path, link: Path) -> None:
    """UserError where `link_folder` could not make this link, to be known before long work."""
    if link.exists() and not link.is_symlink() and link.resolve() != target.resolve():
        raise UserError(f"{link}: a folder of this name is there already; move it away, or name it --videos")


def link_folder(target: Path, link: Path) -> None:
    """Make `link` lead to the folder `target`, unless it is that folder; a link that led elsewhere is
    replaced, a folder never."""
    check_link(target, link)
    if link.exists() and link.resolve() == target.resolve():
        return
    same_parent = target.parent.resolve() == link.parent.resolve()
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.symlink_to(target.name if same_parent else target.resolve(), target_is_directory=True)
        os.replace(temporary, link)
    finally:
        temporary.unlink(missing_ok=True)


def require_file(folder: Path, *names: str) -> Path:
    """The first of `names` that is a file in `folder`; DataError that lists them where none is."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"expected the file {' or '.join(names)} in this folder", folder)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Number (from 1) and stripped text of each line that is not blank; DataError where it cannot be read."""
    lines = read_text(path, "text").splitlines()
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
