"""Many paths in two arrays: loader processes share arrays, while a list of objects is copied into each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np


class FileTable(Sequence):
    """Files by their names below a folder.

    Args:
        folder: of all files.
        names: relative to it, or whole paths.
    """

    def __init__(self, folder: Path, names: Iterable[str | os.PathLike]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self.folder = folder
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._text = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Path:
        index = range(len(self))[index]  # as a list counts from the end, and says that it has no more
        name = self._text[self._ends[index] : self._ends[index + 1]].tobytes()
        return self.folder / os.fsdecode(name)
