"""Which files of a folder hold its weights: one, or shards that an index names."""

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


def is_index(path: Path) -> bool:
    """Whether a file is the index of shards, by its name."""
    return path.name.endswith(_INDEX_SUFFIX)


def find_weights(folder: Path) -> Path:
    """The file of weights in a folder, or the index of its shards; WeightsError if there is neither."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"{folder}: a folder without {', '.join(WEIGHT_FILES)}{_hint(folder)}")


def read_shards(index: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """All parameters that an index names, by name.

    Args:
        read: gives the parameters in a file.

    Raises:
        WeightsError: a file or a parameter is missing.
    """
    names = files_of_index(index)
    missing = [name for name in names if not index.with_name(name).is_file()]
    if missing:
        raise WeightsError(
            f"{index}: {len(missing)} of its {len(names)} files are missing, such as {missing[0]}"
        )
    weight_map = read_json(index)["weight_map"]
    found = {}
    for name in names:
        content = read(index.with_name(name))
        found |= {key: value for key, value in content.items() if weight_map.get(key, name) == name}
    lacking = sorted(weight_map.keys() - found.keys())
    if lacking:
        raise WeightsError(f"{index}: its files lack {len(lacking)} parameters, such as {lacking[0]}")
    return found


def files_of_index(index: Path) -> list[str]:
    """The names of the shards, each once.

    Raises:
        WeightsError: the index is no JSON object whose `weight_map` gives the file of each parameter.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index}: expected 'weight_map' with the file of each parameter")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or name in (".", ".."):
            raise WeightsError(f"{index}: 'weight_map' names {name!r:.80}, expected files of its own folder")
    return sorted(set(weight_map.values()))


def refuse_lone_shard(path: Path) -> None:
    """WeightsError for one shard of several, which has only part of the weights."""
    match = _SHARD.fullmatch(path.name)
    if match and int(match["total"]) > 1:
        index = f"{match['stem']}{match['suffix']}{_INDEX_SUFFIX}"
        raise WeightsError(
            f"{path}: one of {int(match['total'])} files that hold the weights together; give the folder "
            f"with all of them and {index}"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; WeightsError for anything else."""
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


def _hint(folder: Path) -> str:
    """What else lies in the folder that could be meant."""
    files = sorted(
        path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt", ".pth")
    )
    if any(_SHARD.fullmatch(name) for name in files):
        return "; it holds shards, of which only an index says whether all are there"
    return f"; it holds {', '.join(files[:3])}: give one of these" if files else ""
