"""Sharded checkpoints: folders of torch.distributed.checkpoint, to which each process writes its own shards.

Any number of processes can load such a folder, with or without sharded tensors. Next to the shards are
`state.pt`, with the part of the state that is not tensors by name, and `SHA256SUMS`, which
`sha256sum --check` reads.
"""

from __future__ import annotations

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
from vmae_det.utils.input_files import sha256_of
from vmae_det.utils.output_files import sync_folder
from vmae_det.utils.sharded_tensors import copy_full_tensor, is_sharded

STATE_FILE = "state.pt"
CHECKSUMS_FILE = "SHA256SUMS"
TENSOR_KEYS = ("model", "averaged_model", "optimizer")  # entries of a state that contain tensors by name

# Options of an optimizer that select how a step is computed, not what.
_IMPLEMENTATION = ("fused", "foreach", "capturable")

# All classes that the metadata of a folder may refer to, by module.
_METADATA_CLASSES = {
    "pathlib": {"PosixPath", "WindowsPath"},
    "torch": {"Size"} | {name for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        *("ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties"),
        *("TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
    },
}


def save_tensors(state: dict[str, Any], folder: Path) -> Future:
    """Copy the local shards to CPU memory and write them in the background. All processes must call this.

    The future of the main process is done when all processes have written their shards. The future of
    another process is done when it has written its own shards.
    """
    from torch.distributed.checkpoint import FileSystemWriter, async_save

    tensors = {key: state[key] for key in TENSOR_KEYS if key in state}
    return async_save(tensors, storage_writer=FileSystemWriter(folder), process_group=_process_group())


def non_tensor_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a state that are not tensors by name."""
    return {key: value for key, value in state.items() if key not in TENSOR_KEYS}


def finish(state: dict[str, Any], folder: Path, path: Path) -> None:
    """Add the non-tensor state and the checksums, sync, and rename `folder` to `path`.

    Only the main process calls this.
    """
    torch.save(state, folder / STATE_FILE)
    files = sorted(file for file in folder.iterdir() if file.name != CHECKSUMS_FILE)
    checksums = folder / CHECKSUMS_FILE
    checksums.write_text("".join(f"{sha256_of(file)}  {file.name}\n" for file in files), encoding="utf-8")
    for file in (folder / STATE_FILE, checksums):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    sync_folder(folder)
    os.rename(folder, path)
    sync_folder(path.parent)


def verify_checksums(folder: Path) -> bool:
    """Return True if all files match their checksums. WeightsError if one does not, or is missing."""
    try:
        lines = (folder / CHECKSUMS_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines:
            expected, _, name = line.partition("  ")
            if Path(name).name != name or sha256_of(folder / name) != expected:
                raise WeightsError(
                    f"{folder / name}: damaged: its SHA-256 differs from that in {CHECKSUMS_FILE}"
                )
        return True
    except OSError as error:
        raise WeightsError(f"{error.filename}: cannot be read: {error.strerror}") from None


def read_non_tensor_state(folder: Path) -> dict[str, Any]:
    """Read the non-tensor state of a folder. WeightsError if it cannot be read."""
    return read_checkpoint(folder / STATE_FILE)


def load_tensors(folder: Path, targets: dict[str, Any]) -> None:
    """Load tensors by name, sharded or not, from a folder in place. All processes must call this.

    Raises:
        WeightsError: the folder is damaged, or from another model.
    """
    from torch.distributed.checkpoint import FileSystemReader, load
    from torch.distributed.checkpoint.api import CheckpointException

    class SafeReader(FileSystemReader):
        def read_metadata(self, *_: Any, **__: Any) -> Any:
            metadata = read_metadata(folder / ".metadata")
            metadata.storage_meta.load_id = self.load_id
            return metadata

    try:
        with warnings.catch_warnings():  # torch warns if there is only one process
            warnings.simplefilter("ignore", UserWarning)
            load(targets, storage_reader=SafeReader(folder), process_group=_process_group())
    except (CheckpointException, pickle.UnpicklingError, OSError, EOFError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        raise WeightsError(f"{folder}: damaged, or from another model: {reason[:300]}") from None


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _METADATA_CLASSES.get(module, ()):
            raise pickle.UnpicklingError(f"refers to {module}.{name}, which metadata does not need")
        return super().find_class(module, name)


def read_metadata(path: Path) -> Any:
    """Read the torch Metadata of a folder without importing other classes.

    Raises:
        pickle.UnpicklingError: the file refers to another class, or to files outside the folder.
    """
    with path.open("rb") as file:
        metadata = _MetadataUnpickler(file).load()
    for info in metadata.storage_data.values():
        if Path(info.relative_path).name != info.relative_path:
            raise pickle.UnpicklingError(f"refers to {info.relative_path}, a file outside the folder")
    return metadata


_process_groups: dict[int, Any] = {}


def _process_group() -> Any:
    """Return a gloo group of all processes, separate from that of training; None for a single process."""
    if distributed.get_world_size() == 1:
        return None
    default = id(dist.group.WORLD)
    if default not in _process_groups:
        _process_groups[default] = dist.new_group(backend="gloo")
    return _process_groups[default]


def optimizer_state_by_name(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    """Return the state tensors of each parameter by parameter name, which the parameter groups contain."""
    return {
        name: optimizer.state[parameter]
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"])
        if optimizer.state.get(parameter)
    }


def initialize_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Create the state tensors before the first step, by a step with zero learning rate and gradients."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate


def load_full_optimizer_state(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    """Load a state dict with full tensors into an optimizer whose tensors may be sharded."""
    if not is_sharded(optimizer.param_groups[0]["params"][0]):
        # The checkpoint may come from another device, whose implementation this one may not have.
        kept = [{key: g[key] for key in _IMPLEMENTATION if key in g} for g in optimizer.param_groups]
        saved = state_dict["param_groups"]
        groups = [old | own for old, own in zip(saved, kept)] + saved[len(kept) :]
        optimizer.load_state_dict(state_dict | {"param_groups": groups})
        return
    initialize_optimizer_state(optimizer)
    saved_ids = iter(index for group in state_dict["param_groups"] for index in group["params"])
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in state_dict["state"].get(next(saved_ids), {}).items():
                copy_full_tensor(value, optimizer.state[parameter][key])
