"""Files of tensors: PyTorch's, of which only plain data is unpickled, and safetensors."""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vmae_det.checkpoint.digest import save_torch
from vmae_det.checkpoint.huggingface import read_settings
from vmae_det.checkpoint.locate import locate
from vmae_det.checkpoint.shards import find_weights, is_index, read_shards, refuse_lone_shard
from vmae_det.checkpoint.state_dicts import state_dict_of
from vmae_det.checkpoint.torch_files import read_archive, read_legacy
from vmae_det.checkpoint.unpickling import StandIn
from vmae_det.utils.errors import UserError, WeightsError
from vmae_det.utils.output_files import atomic_write

logger = logging.getLogger(__name__)

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
SAFETENSORS_SUFFIX = ".safetensors"


def read_checkpoint(source: str | Path) -> dict[str, Any]:
    """The dict in a file, tensors on the CPU. The content says what kind of file it is, not the suffix.

    Objects other than tensors, containers, numbers and text are passed over without importing anything; a
    warning names their classes. A safetensors file gives its tensors under `model`, and its `config` and
    `label_map` if there are any. Weights of Transformers get theirs from the `config.json` and
    `preprocessor_config.json` beside them: the keys that these decide.

    Args:
        source: a file, a URL, a folder or an index of shards as Transformers writes them, a model of the
            Hugging Face hub, or a name of the model zoo; see `locate`.

    Raises:
        WeightsError: there is no such file, it is damaged, it holds something else than a dict, it is one
            shard of several, or its config describes a network that ours cannot be.
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
    if "config" not in content:
        tensors = state_dict_of(content, str(path))
        if in_folder or any(name.startswith("videomae.embeddings.") for name in tensors):
            content |= read_settings(path.parent, tensors)
    return content


def _read_file(path: Path) -> dict[str, Any]:
    try:
        kind = _kind(path)
        if kind == "safetensors":
            return _read_safetensors(path)
        content, passed_over = read_archive(path) if kind == "archive" else read_legacy(path)
    except UserError:
        raise
    except Exception as error:  # what a parser says to bytes that are not its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path}: damaged, or not a checkpoint: {reason[:300]}") from None
    if not isinstance(content, dict) or (isinstance(content, StandIn) and not content):
        got = f"an object of {content.name}" if isinstance(content, StandIn) else type(content).__name__
        raise WeightsError(f"{path}: expected a dict of tensors, such as model.state_dict(), got {got}")
    if passed_over:
        _warn_of_objects(path, tuple(passed_over))
    return content


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
        with atomic_write(path) as temporary:
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


def _kind(path: Path) -> str:
    """What a file is by its first bytes: "archive" and "pickle" are PyTorch's.

    Raises:
        WeightsError: it is something else.
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
    known = {
        b"version https://git-lfs": "a pointer of Git LFS; `git lfs pull` fetches the file itself",
        b"<": "a web page",
        b"": "an empty file",
    }
    text = start.lstrip()
    got = next((what for first, what in known.items() if (text.startswith(first) if first else not text)), "")
    reason = f"; got {got}" if got else ""
    raise WeightsError(f"{path}: damaged, or not a checkpoint of PyTorch or safetensors{reason}")


@lru_cache(maxsize=256)  # a command may read a file for its config, its label map and its weights
def _warn_of_objects(path: Path, classes: tuple[str, ...]) -> None:
    logger.warning(
        "%s: objects that are neither tensors nor plain data are ignored, and nothing of them was run: %s",
        path,
        some(classes),
    )


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt", device="cpu") as file:
        names = file.keys()
        content: dict[str, Any] = {"model": {name: file.get_tensor(name) for name in names}}
        metadata = file.metadata() or {}
    return content | {key: json.loads(metadata[key]) for key in ("config", "label_map") if key in metadata}


def some(names: tuple[str, ...], count: int = 4) -> str:
    """The first few of many names, as text."""
    more = f", and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(name if len(name) <= 200 else f"{name[:200]}..." for name in names[:count]) + more
