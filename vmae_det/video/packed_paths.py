"""Strings and paths packed into arrays.

Forked loader workers share arrays with the training process, whereas a list of Python objects is copied into
each of them as soon as its reference counts change. detectron2 does the same in NumpySerializedList.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np


class PackedStrings(Sequence):
    """A list of strings in two arrays.

    Args:
        ends: end of each string in `text`, after a leading 0, int64 (n + 1,).
        text: bytes of all strings, uint8.
    """

    def __init__(self, ends: np.ndarray, text: np.ndarray) -> None:
        self.ends = ends
        self.text = text

    @classmethod
    def pack(cls, strings: Iterable[str | os.PathLike]) -> PackedStrings:
        """Pack strings or paths."""
        encoded = [os.fsencode(text) for text in strings]
        return cls(np.cumsum([0, *map(len, encoded)]), np.frombuffer(b"".join(encoded), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]  # supports negative indices and raises IndexError, as lists do
        return os.fsdecode(self.text[self.ends[index] : self.ends[index + 1]].tobytes())


class PackedPaths(Sequence):
    """A list of paths below a folder.

    Args:
        folder: the folder.
        names: paths relative to it, or absolute paths.
    """

    def __init__(self, folder: Path, names: Iterable[str | os.PathLike]) -> None:
        self.folder = folder
        self.names = PackedStrings.pack(names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Path:
        return self.folder / self.names[index]

    def select(self, numbers: Sequence[int]) -> PackedPaths:
        """Return some of the paths, in the given order."""
        return PackedPaths(self.folder, [self.names[number] for number in numbers])

    def location(self, index: int) -> Path:
        """Return the argument for `open_video`."""
        return self[index]
