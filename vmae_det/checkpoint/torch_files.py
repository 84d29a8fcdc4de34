"""Files of `torch.save`: the ZIP archives of today, and the row of pickles of PyTorch before 1.6."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from vmae_det.checkpoint.archives import open_archive, read_part
from vmae_det.checkpoint.unpickling import Storage, TensorUnpickler
from vmae_det.utils.errors import WeightsError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_PICKLE = "data.pkl"
_OTHER_ARCHIVES = {"constants.pkl": "a TorchScript archive", "models/model.json": "an exported program"}


def read_archive(path: Path) -> tuple[Any, list[str]]:
    """The content of a ZIP archive of `torch.save`, and the names of the classes that were passed over.

    Raises:
        WeightsError: it is another kind of archive, or one that asks for more than it holds.
        Exception: it is damaged.
    """
    with open_archive(path) as archive:
        parts = {name.partition("/")[2]: name for name in archive.namelist()}
        for part, kind in _OTHER_ARCHIVES.items():
            if part in parts:
                raise WeightsError(f"{path}: {kind}, expected a file of torch.save with a state dict")
        if _PICKLE not in parts:
            raise WeightsError(f"{path}: a ZIP archive without {_PICKLE}, expected a file of torch.save")
        if "byteorder" in parts and read_part(archive, parts["byteorder"]) != b"little":
            raise WeightsError(f"{path}: written on a big-endian machine, which is not supported")
        storages: dict[str, Storage] = {}

        def open_storage(dtype: torch.dtype | None, key: str, numbers: int) -> Storage:
            if f"data/{key}" not in parts:
                raise pickle.UnpicklingError(f"its storage {key} is missing")
            if key not in storages:
                data = bytearray(read_part(archive, parts[f"data/{key}"]))
                storages[key] = Storage(dtype, _memory(data))
            found = storages[key]
            if found.dtype != dtype or found.data.nbytes() != numbers * _item_size(dtype):
                raise pickle.UnpicklingError(f"the storage {key} is not of the size that its tensors have")
            return found

        pickled = io.BytesIO(read_part(archive, parts[_PICKLE]))
        unpickler = TensorUnpickler(pickled, open_storage, path.stat().st_size)
        return unpickler.load(), list(unpickler.passed_over)


def read_legacy(path: Path) -> tuple[Any, list[str]]:
    """The same of a file that PyTorch before 1.6 wrote, or later ones with the old serialization.

    Raises:
        WeightsError: it is another kind of pickle.
        Exception: it is damaged.
    """
    storages: dict[str, Storage] = {}
    size = path.stat().st_size
    with path.open("rb") as opened:
        file = _Bounded(opened, size)

        def open_storage(dtype: torch.dtype | None, key: str, numbers: int) -> Storage:
            if key not in storages:
                claimed = numbers * _item_size(dtype) + sum(
                    known.data.nbytes() for known in storages.values()
                )
                if claimed > size:
                    raise pickle.UnpicklingError("storages that are larger than the file")
                storages[key] = Storage(dtype, torch.UntypedStorage(numbers * _item_size(dtype)))
            return storages[key]

        def load() -> Any:
            unpickler = TensorUnpickler(file, open_storage, size)
            content = unpickler.load()
            passed_over.update(unpickler.passed_over)
            return content

        passed_over: dict[str, None] = {}
        if load() != _MAGIC or load() != _PROTOCOL:
            raise WeightsError(f"{path}: refused: a pickle that torch.save did not write")
        if load().get("little_endian") is not True:
            raise WeightsError(f"{path}: written on a big-endian machine, which is not supported")
        content, keys = load(), load()
        for key in keys:
            _fill(storages.pop(key), file)
        if storages:
            raise EOFError(f"without {len(storages)} of its storages")
    return content, list(passed_over)


class _Bounded:
    """A file that is asked for no more bytes than it has: Python makes room for all that is asked for."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self.readline: Callable[[], bytes] = file.readline

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._size))

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)


def _fill(storage: Storage, file: _Bounded) -> None:
    numbers = int.from_bytes(file.read(8), "little")
    if numbers * _item_size(storage.dtype) != storage.data.nbytes():
        raise pickle.UnpicklingError("a storage of another size than its tensors have")
    if storage.data.nbytes():
        memory = torch.empty(0, dtype=torch.uint8).set_(storage.data).numpy()
        if file.readinto(memory) != len(memory):
            raise EOFError("ends within a storage")


def _memory(data: bytearray) -> torch.UntypedStorage:
    if not data:
        return torch.UntypedStorage(0)
    return torch.frombuffer(data, dtype=torch.uint8).untyped_storage()


def _item_size(dtype: torch.dtype | None) -> int:
    return dtype.itemsize if dtype else 1
