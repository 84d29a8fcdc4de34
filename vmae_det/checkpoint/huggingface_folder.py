"""Folders that Transformers writes: find the weights in them, in one file or in shards with an index."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vmae_det.utils.errors import WeightsError

_INDEX_SUFFIX = ".index.json"
# In the order in which Transformers looks for them.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<suffix>\.\w+)")
_MAX_JSON_BYTES = 1 << 26


def find_weights(folder: Path) -> Path:
    """Return the weights file of a folder, or the index of its shards. WeightsError if there is neither."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"{folder}: the folder contains no {', '.join(WEIGHT_FILES)}{_hint(folder)}")


def _hint(folder: Path) -> str:
    """Name the files of the folder that the user may have meant."""
    files = sorted(
        path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt", ".pth")
    )
    if any(_SHARD.fullmatch(name) for name in files):
        return "; it contains shards, but no index that lists all of them"
    return f"; it contains {', '.join(files[:3])}: pass one of these files" if files else ""


def is_index(path: Path) -> bool:
    """Return whether a file is an index of shards, by its name."""
    return path.name.endswith(_INDEX_SUFFIX)


def shards_of_index(index: Path) -> list[str]:
    """Return the file names of the shards, without duplicates.

    Raises:
        WeightsError: the index is not a JSON object with a `weight_map` from parameters to files of the same
            folder.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index}: expected 'weight_map' with the file of each parameter")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or name in (".", ".."):
            raise WeightsError(
                f"{index}: expected files of the same folder in 'weight_map', got {name!r:.80}"
            )
    return sorted(set(weight_map.values()))


def read_shards(index: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Read all parameters that an index lists, by name.

    Args:
        read: returns the parameters in a file.

    Raises:
        WeightsError: a file or a parameter is missing.
    """
    names = shards_of_index(index)
    missing = [name for name in names if not index.with_name(name).is_file()]
    if missing:
        raise WeightsError(
            f"{index}: {len(missing)} of its {len(names)} files are missing, such as {missing[0]}"
        )
    weight_map = read_json(index)["weight_map"]
    parameters = {}
    for name in names:
        content = read(index.with_name(name))
        parameters |= {key: value for key, value in content.items() if weight_map.get(key, name) == name}
    absent = sorted(weight_map.keys() - parameters.keys())
    if absent:
        raise WeightsError(f"{index}: its files lack {len(absent)} parameters, such as {absent[0]}")
    return parameters


def refuse_lone_shard(path: Path) -> None:
    """Raise WeightsError for one shard of several, since it contains only some of the weights."""
    match = _SHARD.fullmatch(path.name)
    if match and int(match["total"]) > 1:
        index = f"{match['stem']}{match['suffix']}{_INDEX_SUFFIX}"
        raise WeightsError(
            f"{path}: one of {int(match['total'])} files that together contain the weights; pass the folder "
            f"with all of them and {index}"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of at most 64 MiB. WeightsError for anything else."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise WeightsError(f"{path}: larger than {_MAX_JSON_BYTES >> 20} MB, expected a short JSON file")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not valid JSON: {str(error)[:200]}") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content
