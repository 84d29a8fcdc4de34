"""Files of tensors: PyTorch's, of which only plain data is unpickled, and safetensors."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vmae_det.checkpoint.digest import save_torch
from vmae_det.checkpoint.huggingface import read_settings
from vmae_det.checkpoint.locate import locate
from vmae_det.checkpoint.shards import find_weights, is_index, read_shards, refuse_lone_shard
from vmae_det.utils.errors import WeightsError
from vmae_det.utils.files import write_whole

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
SAFETENSORS_SUFFIX = ".safetensors"


def read_checkpoint(source: str | Path) -> dict[str, Any]:
    """The dict in a file, tensors on the CPU.

    A safetensors file gives its tensors under `model`, and its `config` and `label_map` if there are any.
    Weights of Transformers get theirs from the `config.json` and `preprocessor_config.json` beside them: the
    keys that these decide.

    Args:
        source: a file, a URL, a folder or an index of shards as Transformers writes them, a model of the
            Hugging Face hub, or a name of the model zoo; see `locate`.

    Raises:
        WeightsError: there is no such file, it is damaged, it holds more than plain data, it is one shard of
            several, or its config describes a network that ours cannot be.
    """
    path = locate(source, folders=True)
    in_folder = path.is_dir()
    if in_folder:
        path = find_weights(path)
    if is_index(path):
        content = {"model": read_shards(path, lambda file: state_dict_of(_read_file(file)))}
    else:
        refuse_lone_shard(path)
        content = _read_file(path)
    tensors = state_dict_of(content)
    of_transformers = in_folder or any(name.startswith("videomae.embeddings.") for name in tensors)
    if of_transformers and "config" not in content:
        content |= read_settings(path.parent, tensors)
    return content


def _read_file(path: Path) -> dict[str, Any]:
    return _read_safetensors(path) if path.suffix == SAFETENSORS_SUFFIX else _read_torch(path)


def state_dict_of(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors by name in a checkpoint, which often lie under a key."""
    for key in ("model", "module", "state_dict"):
        content = content[key] if isinstance(content.get(key), dict) else content
    return {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }


def write_checkpoint(
    tensors: dict[str, torch.Tensor], path: Path, top_key: str | None, extras: dict[str, Any] | None = None
) -> None:
    """Write tensors by name, whole or not at all, in the format that the suffix of `path` names.

    Args:
        top_key: under which the tensors lie in a file of PyTorch's.
        extras: plain data beside them; a safetensors file holds it as JSON in its metadata.

    Raises:
        WeightsError: the suffix is another, or a tensor cannot be written.
        OutputError: the file cannot be written.
    """
    check_suffix(path)
    # Rows that were cut out of a larger tensor would else drag all of it into the file.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    extras = {key: value for key, value in (extras or {}).items() if value is not None}
    try:
        with write_whole(path) as temporary:
            if path.suffix == SAFETENSORS_SUFFIX:
                metadata = {key: json.dumps(value) for key, value in extras.items()}
                save_file(tensors, temporary, metadata={"format": "pt", **metadata})
            else:
                save_torch(({top_key: tensors} if top_key else tensors) | extras, temporary)
    except SafetensorError as error:
        raise WeightsError(f"{path}: cannot be written: {error}") from None


def is_weights_file(path: Path) -> bool:
    """Whether a path has the suffix of a file that `write_checkpoint` writes."""
    return path.suffix in (*TORCH_SUFFIXES, SAFETENSORS_SUFFIX)


def check_suffix(path: Path) -> None:
    """WeightsError unless `write_checkpoint` knows the suffix."""
    if not is_weights_file(path):
        raise WeightsError(
            f"{path}: ends in '{path.suffix}'; expected {', '.join(TORCH_SUFFIXES)} or {SAFETENSORS_SUFFIX}"
        )


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # What stands between torch's pieces of advice.
        said = re.search(r"(unsupported .*?)(Check the documentation|Please|$)", str(error), re.DOTALL | re.I)
        reason = f": {' '.join(said[1].split())[:200]}" if said else ""
        raise WeightsError(f"{path}: not a file of plain tensors, refused{reason}") from None
    except Exception as error:  # what a parser says to bytes that are not its own
        raise _damaged(path, error) from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected a dict of tensors, got {type(content).__name__}")
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()
            content: dict[str, Any] = {"model": {name: file.get_tensor(name) for name in names}}
            metadata = file.metadata() or {}
        extras = {key: json.loads(metadata[key]) for key in ("config", "label_map") if key in metadata}
    except Exception as error:  # what a parser says to bytes that are not its own
        raise _damaged(path, error) from None
    return content | extras


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return WeightsError(f"{path}: damaged, or not a checkpoint: {reason[:300]}")
