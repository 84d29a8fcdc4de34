"""Read and write files of `torch.save`: ZIP archives, and the legacy format of PyTorch before 1.6."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from vmae_det.checkpoint.unpickling import Storage, TensorUnpickler
from vmae_det.utils.errors import WeightsError

_LEGACY_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL_VERSION = 1001
_PICKLE = "data.pkl"
_OTHER_ARCHIVES = {"constants.pkl": "a TorchScript archive", "models/model.json": "an exported program"}


def save_torch(content: dict[str, Any], path: Path) -> str:
    """Write a file with `torch.save` and return its SHA-256 as hexadecimal digits.

    Raises:
        OSError: the file cannot be written. (`torch.save` itself raises a RuntimeError without the reason.)
    """
    with path.open("wb") as file:
        hashing = _HashingWriter(file)
        try:
            torch.save(content, hashing)
        except RuntimeError:
            if hashing.error is None:
                raise
            raise hashing.error from None
    return hashing.digest.hexdigest()


class _HashingWriter:
    """Forwards bytes to a file, hashes them, and keeps the first error of the file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a ZIP archive of PyTorch. `read_record` reads its records without exceeding the archive's size.

    Raises:
        WeightsError: two records have the same name, or records overlap.
        zipfile.BadZipFile, OSError: the archive is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if len({record.filename for record in records}) < len(records):
            raise WeightsError(f"{path}: refused: two records of the archive have the same name")
        claimed = sum(record.file_size for record in records if record.compress_type == zipfile.ZIP_STORED)
        if claimed > path.stat().st_size:
            raise WeightsError(
                f"{path}: refused: the records claim {claimed} bytes, but the file has {path.stat().st_size}"
            )
        yield archive


def read_record(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a record of an archive and check its CRC-32.

    `torch.save` and `torch.export.save` do not compress records, so a compressed record may be a ZIP bomb.

    Raises:
        WeightsError: the record is compressed or encrypted.
        zipfile.BadZipFile, KeyError, OSError: the record is damaged or missing.
    """
    record = archive.getinfo(name)
    if record.flag_bits & 1 or record.compress_type != zipfile.ZIP_STORED:
        how = "encrypted" if record.flag_bits & 1 else "compressed"
        raise WeightsError(
            f"{archive.filename}: refused: record {name!r:.80} is {how}; PyTorch stores records uncompressed"
        )
    return archive.read(record)


def read_archive(path: Path) -> tuple[Any, list[str]]:
    """Read a ZIP archive of `torch.save`. Return its content and the names of the classes that were skipped.

    Raises:
        WeightsError: the archive is of another kind, or claims more bytes than it has.
        Exception: the archive is damaged.
    """
    with open_archive(path) as archive:
        records = {name.partition("/")[2]: name for name in archive.namelist()}
        for record, kind in _OTHER_ARCHIVES.items():
            if record in records:
                raise WeightsError(f"{path}: {kind}; expected a state dict written by torch.save")
        if _PICKLE not in records:
            raise WeightsError(f"{path}: a ZIP archive without {_PICKLE}; expected a file of torch.save")
        if "byteorder" in records and read_record(archive, records["byteorder"]) != b"little":
            raise WeightsError(f"{path}: written on a big-endian machine, which is not supported")
        storages: dict[str, Storage] = {}

        def open_storage(dtype: torch.dtype | None, key: str, num_elements: int) -> Storage:
            if f"data/{key}" not in records:
                raise pickle.UnpicklingError(f"storage {key} is missing")
            if key not in storages:
                data = bytearray(read_record(archive, records[f"data/{key}"]))
                storages[key] = Storage(dtype, _untyped_storage(data))
            storage = storages[key]
            if storage.dtype != dtype or storage.data.nbytes() != num_elements * _item_size(dtype):
                raise pickle.UnpicklingError(f"storage {key} does not have the size that its tensors expect")
            return storage

        pickled = io.BytesIO(read_record(archive, records[_PICKLE]))
        unpickler = TensorUnpickler(pickled, open_storage, path.stat().st_size)
        return unpickler.load(), list(unpickler.skipped)


def read_legacy(path: Path) -> tuple[Any, list[str]]:
    """Read a file of PyTorch before 1.6, or of `torch.save(..., _use_new_zipfile_serialization=False)`.

    Returns:
        The content and the names of the classes that were skipped, as `read_archive` does.

    Raises:
        WeightsError: `torch.save` did not write this pickle.
        Exception: the file is damaged.
    """
    storages: dict[str, Storage] = {}
    size = path.stat().st_size
    with path.open("rb") as opened:
        file = _BoundedFile(opened, size)

        def open_storage(dtype: torch.dtype | None, key: str, num_elements: int) -> Storage:
            if key not in storages:
                claimed = num_elements * _item_size(dtype) + sum(
                    storage.data.nbytes() for storage in storages.values()
                )
                if claimed > size:
                    raise pickle.UnpicklingError("storages that are larger than the file")
                storages[key] = Storage(dtype, torch.UntypedStorage(num_elements * _item_size(dtype)))
            return storages[key]

        def load() -> Any:
            unpickler = TensorUnpickler(file, open_storage, size)
            content = unpickler.load()
            skipped.update(unpickler.skipped)
            return content

        skipped: dict[str, None] = {}
        if load() != _LEGACY_MAGIC_NUMBER or load() != _LEGACY_PROTOCOL_VERSION:
            raise WeightsError(f"{path}: refused: a pickle that torch.save did not write")
        if load().get("little_endian") is not True:
            raise WeightsError(f"{path}: written on a big-endian machine, which is not supported")
        content, keys = load(), load()
        for key in keys:
            _read_storage(storages.pop(key), file)
        if storages:
            raise EOFError(f"{len(storages)} storages are missing")
    return content, list(skipped)


class _BoundedFile:
    """Limits each read to the size of the file, since Python allocates all the bytes that a read requests."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self.readline: Callable[[], bytes] = file.readline

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._size))

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)


def _read_storage(storage: Storage, file: _BoundedFile) -> None:
    num_elements = int.from_bytes(file.read(8), "little")
    if num_elements * _item_size(storage.dtype) != storage.data.nbytes():
        raise pickle.UnpicklingError("a storage that does not have the size that its tensors expect")
    if storage.data.nbytes():
        memory = torch.empty(0, dtype=torch.uint8).set_(storage.data).numpy()
        if file.readinto(memory) != len(memory):
            raise EOFError("the file ends within a storage")


def _untyped_storage(data: bytearray) -> torch.UntypedStorage:
    if not data:
        return torch.UntypedStorage(0)
    return torch.frombuffer(data, dtype=torch.uint8).untyped_storage()


def _item_size(dtype: torch.dtype | None) -> int:
    return dtype.itemsize if dtype else 1
