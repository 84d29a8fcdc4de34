"""Read and write checkpoint files: `torch.save`, safetensors, and the folders of Transformers."""

from __future__ import annotations

import hashlib
import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vmae_det.checkpoint.huggingface_config import read_settings
from vmae_det.checkpoint.huggingface_folder import (
    find_weights,
    is_index,
    read_shards,
    refuse_lone_shard,
    shards_of_index,
)
from vmae_det.checkpoint.locate import locate
from vmae_det.checkpoint.state_dicts import state_dict_of
from vmae_det.checkpoint.timm_models import is_timm_name, timm_config
from vmae_det.checkpoint.torch_files import read_archive, read_legacy, save_torch
from vmae_det.checkpoint.unpickling import Placeholder
from vmae_det.utils.errors import UserError, WeightsError
from vmae_det.utils.input_files import sha256_of
from vmae_det.utils.output_files import atomic_write

logger = logging.getLogger(__name__)

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
SAFETENSORS_SUFFIX = ".safetensors"


def read_checkpoint(source: str | Path) -> dict[str, Any]:
    """Read the dict in a checkpoint, with tensors on the CPU. The content decides the format, not the suffix.

    Objects other than tensors, containers, numbers and strings are skipped, and no class is imported; a
    warning lists their classes. For a safetensors file, the tensors are under `model`, and `config` and
    `label_map` are read from its metadata. Weights of Transformers get a `config` and `label_map` from the
    `config.json` and `preprocessor_config.json` next to them, those of timm get a `config`. Such a config has
    only the keys that it sets.

    Args:
        source: a file, a URL, a Transformers folder, an index of shards, a model on the Hugging Face hub, or
            a model zoo name. See `locate`.

    Raises:
        WeightsError: the file does not exist, is damaged, does not contain a dict, is one of several shards,
            or its config describes an unsupported network.
    """
    path = locate(source, folders=True)
    in_folder = path.is_dir()
    if in_folder:
        path = find_weights(path)
    if is_index(path):
        content = {"model": read_shards(path, lambda file: state_dict_of(_read_file(file), str(file)))}
    else:
        refuse_lone_shard(path)
        content = _read_file(path)
    if is_timm_name(source) and in_folder:
        content = {"model": state_dict_of(content, str(path)), "config": timm_config(str(source))}
    elif "config" not in content:
        tensors = state_dict_of(content, str(path))
        if in_folder or any(name.startswith("videomae.embeddings.") for name in tensors):
            content |= read_settings(path.parent, tensors)
    return content


def weights_checksum(source: str | Path) -> str:
    """Return the SHA-256 of the file that `read_checkpoint` reads; of shards, that of their SHA-256s.

    Raises:
        WeightsError: the file does not exist.
    """
    path = locate(source, folders=True)
    if path.is_dir():
        path = find_weights(path)
    if not is_index(path):
        return sha256_of(path)
    sums = [sha256_of(path.with_name(name)) for name in shards_of_index(path)]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def _read_file(path: Path) -> dict[str, Any]:
    try:
        file_type = _file_type(path)
        if file_type == "safetensors":
            return _read_safetensors(path)
        content, skipped = read_archive(path) if file_type == "archive" else read_legacy(path)
    except UserError:
        raise
    except Exception as error:  # parsers raise many kinds of errors for damaged files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path}: damaged, or not a checkpoint: {reason[:300]}") from None
    if not isinstance(content, dict) or (isinstance(content, Placeholder) and not content):
        is_object = isinstance(content, Placeholder)
        got = f"an object of {content.name}" if is_object else type(content).__name__
        raise WeightsError(f"{path}: expected a dict of tensors, such as model.state_dict(), got {got}")
    if skipped:
        _warn_about_skipped_objects(path, tuple(skipped))
    return content


def _file_type(path: Path) -> str:
    """Detect the type by the first bytes: "archive" (torch.save), "pickle" (legacy) or "safetensors".

    Raises:
        WeightsError: the file has another type.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PK\3\4"):
        return "archive"
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        return "safetensors"
    if start[:1] == b"\x80":
        return "pickle"
    text, got = start.lstrip(), ""
    if text.startswith(b"version https://git-lfs"):
        got = "; got a Git LFS pointer, run `git lfs pull` to download the file"
    elif text.startswith(b"<"):
        got = "; got a web page"
    elif not text:
        got = "; got an empty file"
    elif path.suffix == ".onnx":
        got = "; got an ONNX file, which only detect and classify accept"
    raise WeightsError(f"{path}: damaged, or not a checkpoint of PyTorch or safetensors{got}")


@lru_cache(maxsize=256)  # one command may read the config, the label map and the weights of a file
def _warn_about_skipped_objects(path: Path, classes: tuple[str, ...]) -> None:
    logger.warning(
        "%s: skipped objects that are neither tensors nor plain data, and did not run their code: %s",
        path,
        shorten_list(classes),
    )


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt", device="cpu") as file:
        names = file.keys()
        content: dict[str, Any] = {"model": {name: file.get_tensor(name) for name in names}}
        metadata = file.metadata() or {}
    return content | {key: json.loads(metadata[key]) for key in ("config", "label_map") if key in metadata}


def write_checkpoint(
    tensors: dict[str, torch.Tensor], path: Path, top_key: str | None, extras: dict[str, Any] | None = None
) -> None:
    """Write tensors by name, atomically, in the format that the suffix of `path` selects.

    Args:
        top_key: key of the tensors in a file of `torch.save`; None for the top level.
        extras: plain data to store as well; a safetensors file stores it as JSON in its metadata.

    Raises:
        WeightsError: the suffix is unknown, or a tensor cannot be written.
        OutputError: the file cannot be written.
    """
    check_suffix(path)
    # A slice of a larger tensor would otherwise write the whole storage.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    extras = {key: value for key, value in (extras or {}).items() if value is not None}
    try:
        with atomic_write(path) as temporary:
            if path.suffix == SAFETENSORS_SUFFIX:
                metadata = {key: json.dumps(value) for key, value in extras.items()}
                temporary.touch()
                mode = temporary.stat().st_mode
                save_file(tensors, temporary, metadata={"format": "pt", **metadata})
                temporary.chmod(mode)  # that of the umask; safetensors makes the file private
            else:
                save_torch(({top_key: tensors} if top_key else tensors) | extras, temporary)
    except SafetensorError as error:
        raise WeightsError(f"{path}: cannot be written: {error}") from None


def is_weights_file(path: Path) -> bool:
    """Return whether `write_checkpoint` supports the suffix of a path."""
    return path.suffix in (*TORCH_SUFFIXES, SAFETENSORS_SUFFIX)


def check_suffix(path: Path) -> None:
    """Raise WeightsError unless `write_checkpoint` supports the suffix of a path."""
    if not is_weights_file(path):
        expected = f"{', '.join(TORCH_SUFFIXES)} or {SAFETENSORS_SUFFIX}"
        raise WeightsError(f"{path}: expected a file name that ends in {expected}, got '{path.suffix}'")


def shorten_list(names: tuple[str, ...], count: int = 4) -> str:
    """Return the first `count` names as text, and the number of the others."""
    more = f", and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(name if len(name) <= 200 else f"{name[:200]}..." for name in names[:count]) + more
