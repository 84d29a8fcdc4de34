"""Checkpoints that all processes write, each its own part: folders of torch.distributed.checkpoint.

Any number of processes can load one, whether they share their tensors or not. Beside the tensors lie
`state.pt`, all else of the run's state, and `SHA256SUMS`, which `sha256sum --check` reads.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from vmae_det.checkpoint.files import read_checkpoint
from vmae_det.utils import distributed
from vmae_det.utils.errors import WeightsError
from vmae_det.utils.output_files import sync_folder

STATE = "state.pt"
SUMS = "SHA256SUMS"
TENSORS = ("model", "averaged_model", "optimizer")  # the parts of a state that are tensors by name

# All that the index of a folder may name, as torch writes it: shapes, types and places of tensors.
_INDEX_NAMES = {
    "pathlib": {"PosixPath", "WindowsPath"},
    "torch": {"Size"} | {name for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        *("ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties"),
        *("TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
    },
}


def start_to_write(state: dict[str, Any], folder: Path) -> Future:
    """Copy this process's part of the tensors to the CPU's memory and start to write it; all processes call.

    The future is done when this process's part is written, in the first process when all parts are.
    """
    from torch.distributed.checkpoint import FileSystemWriter, async_save

    tensors = {key: state[key] for key in TENSORS if key in state}
    return async_save(tensors, storage_writer=FileSystemWriter(folder), process_group=_group())


def finish(rest: dict[str, Any], folder: Path, path: Path) -> None:
    """Add what is no tensor, and give the folder its name `path` when all is on disk; the first process
    calls."""
    torch.save(rest, folder / STATE)
    sums = folder / SUMS
    sums.write_text("".join(f"{_sum(file)}  {file.name}\n" for file in _files(folder)), encoding="utf-8")
    for file in (folder / STATE, sums):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    sync_folder(folder)
    os.rename(folder, path)
    sync_folder(path.parent)


def rest_of(state: dict[str, Any]) -> dict[str, Any]:
    """What of a state is no tensor by name."""
    return {key: value for key, value in state.items() if key not in TENSORS}


def check_sums(folder: Path) -> bool:
    """True if every file of the folder is what was written; WeightsError if one is not, or is missing."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines:
            expected, _, name = line.partition("  ")
            if Path(name).name != name or _sum(folder / name) != expected:
                raise WeightsError(f"{folder / name}: damaged: its SHA-256 is not that in {SUMS}")
        return True
    except OSError as error:
        raise WeightsError(f"{error.filename}: cannot be read: {error.strerror}") from None


def read_rest(folder: Path) -> dict[str, Any]:
    """What lies beside the tensors of a folder; WeightsError if it cannot be read."""
    return read_checkpoint(folder / STATE)


def load_tensors(folder: Path, targets: dict[str, Any]) -> None:
    """Fill tensors by name, shared or not, from a folder; all processes call.

    Raises:
        WeightsError: the folder is damaged, or of another model.
    """
    from torch.distributed.checkpoint import FileSystemReader, load
    from torch.distributed.checkpoint.api import CheckpointException

    class Reader(FileSystemReader):
        def read_metadata(self, *_: Any, **__: Any) -> Any:
            index = read_index(folder / ".metadata")
            index.storage_meta.load_id = self.load_id
            return index

    try:
        with warnings.catch_warnings():  # torch's, that there is one process
            warnings.simplefilter("ignore", UserWarning)
            load(targets, storage_reader=Reader(folder), process_group=_group())
    except (CheckpointException, pickle.UnpicklingError, OSError, EOFError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        raise WeightsError(f"{folder}: damaged, or of another model: {reason[:300]}") from None


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _INDEX_NAMES.get(module, ()):
            raise pickle.UnpicklingError(f"names {module}.{name}, which no index of tensors needs")
        return super().find_class(module, name)


def read_index(path: Path) -> Any:
    """torch's Metadata of a folder; UnpicklingError if it names anything else than tensors' parts."""
    with path.open("rb") as file:
        index = _IndexUnpickler(file).load()
    for info in index.storage_data.values():
        if Path(info.relative_path).name != info.relative_path:
            raise pickle.UnpicklingError(f"names {info.relative_path}, a file outside of the folder")
    return index


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.name != SUMS)


def _sum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()


_groups: dict[int, Any] = {}


def _group() -> Any:
    """The processes, for messages between CPUs that do not mix with those of training; None for one alone."""
    if distributed.get_world_size() == 1:
        return None
    default = id(dist.group.WORLD)
    if default not in _groups:
        _groups[default] = dist.new_group(backend="gloo")
    return _groups[default]
