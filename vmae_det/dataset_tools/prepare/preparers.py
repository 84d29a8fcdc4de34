"""Registry of the preparation modules, the outcome of a preparation, and the lock of the output folder.

A preparation module has two functions and is named in `PREPARERS`. The first line of its docstring is its
summary in `vmae-det prepare --help`.

    add_arguments(parser)                        adds its arguments, such as the path of the annotations
    prepare(name, folder, args) -> Outcome       writes `folder`, the dataset's folder under the root

`vmae-det prepare NAME` adds --root, --workers and --max-bad, locks the folder, and prints the outcome.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from filelock import FileLock, Timeout

from vmae_det.dataset_tools.prepare.files import write_table
from vmae_det.utils.errors import UserError
from vmae_det.utils.output_files import make_output_folder

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

_MAX_LISTED = 3  # files that the summary names


def get_preparer(name: str) -> ModuleType:
    """Return the module that prepares the dataset called `name`."""
    return importlib.import_module(f"vmae_det.dataset_tools.prepare.{PREPARERS[name]}")


@dataclass(frozen=True)
class Outcome:
    """Outcome of a preparation.

    Args:
        made: one line for each output.
        expected: number of videos that the annotations name.
        broken: unusable videos, as path to reason.
        missing: videos without a file.
        missing_is_normal: the dataset's source loses videos over time, so missing ones do not count as bad.
        remarks: further lines for the user.
        problem: why no dataset was written, or "".
    """

    made: list[str]
    expected: int
    broken: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    missing_is_normal: bool = False
    remarks: list[str] = field(default_factory=list)
    problem: str = ""

    @property
    def bad_fraction(self) -> float:
        """Fraction of the available videos that are unusable, 0 to 1."""
        missing = 0 if self.missing_is_normal else len(self.missing)
        available = self.expected - (len(self.missing) - missing)
        return (len(self.broken) + missing) / max(available, 1)

    def as_text(self) -> str:
        """Return the outcome as text for the terminal."""
        good = self.expected - len(self.broken) - len(self.missing)
        lines = [*self.made, *self.remarks, f"videos: {good} of {self.expected} are usable"]
        if self.missing:
            lines.append(f"  missing: {len(self.missing)}, see missing_videos.csv{_examples(self.missing)}")
        if self.broken:
            first = [f"{name}: {reason}" for name, reason in self.broken.items()]
            lines.append(f"  broken: {len(self.broken)}, see bad_videos.csv{_examples(first)}")
        return "\n".join(lines)

    def write_lists(self, folder: Path) -> None:
        """Write `bad_videos.csv` and `missing_videos.csv`; remove a list that would be empty."""
        write_table(folder / "bad_videos.csv", ("video", "reason"), sorted(self.broken.items()))
        write_table(folder / "missing_videos.csv", ("video",), [(name,) for name in sorted(self.missing)])


def _examples(names: list[str]) -> str:
    more = "\n    ..." if len(names) > _MAX_LISTED else ""
    return "".join(f"\n    {name}" for name in names[:_MAX_LISTED]) + more


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock an output folder; UserError if another preparation is running there."""
    make_output_folder(folder)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder}: another preparation is running in this folder; wait until it ends"
        ) from None
    try:
        yield
    finally:
        lock.release()
