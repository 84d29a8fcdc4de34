"""Many paths in two arrays: loader processes share arrays, while a list of objects is copied into each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np


class PackedStrings(Sequence):
    """Texts in two arrays: `ends` (n + 1,) of each in `text`, the bytes of all."""

    def __init__(self, ends: np.ndarray, text: np.ndarray) -> None:
        self.ends = ends
        self.text = text

    @classmethod
    def pack(cls, texts: Iterable[str | os.PathLike]) -> PackedStrings:
        """The table of some texts."""
        encoded = [os.fsencode(text) for text in texts]
        return cls(np.cumsum([0, *map(len, encoded)]), np.frombuffer(b"".join(encoded), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]  # as a list counts from the end, and says that it has no more
        return os.fsdecode(self.text[self.ends[index] : self.ends[index + 1]].tobytes())


class PackedPaths(Sequence):
    """Files by their names below a folder.

    Args:
        folder: of all files.
        names: relative to it, or whole paths.
    """

    def __init__(self, folder: Path, names: Iterable[str | os.PathLike]) -> None:
        self.folder = folder
        self.names = PackedStrings.pack(names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Path:
        return self.folder / self.names[index]

    def location(self, index: int) -> Path:
        """What `open_video` takes."""
        return self[index]
