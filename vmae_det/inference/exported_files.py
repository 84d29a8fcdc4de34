"""What exported models have in common: the data that travels in the file, and the tensors that they take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from vmae_det.config import CfgNode, get_cfg
from vmae_det.utils.downloads import split_address
from vmae_det.utils.errors import ConfigError, WeightsError
from vmae_det.utils.paths import is_address

ONNX_SUFFIX = ".onnx"
TORCH_SUFFIX = ".pt2"
METADATA_KEY = "vmae_det"  # in the metadata of an ONNX file; with .json, among the extra files of a .pt2
FORMAT_VERSION = 2
DETECTOR_INPUTS = ("video", "boxes", "clips", "person_scores", "sizes")
# What may be another at the time of use than at that of the export: all else of MODEL is fixed in the graph.
_FREE_KEYS = ("WEIGHTS", "DEVICE", "INIT", "COMPILE", "BACKBONE.CHECKPOINT", "BACKBONE.DROP_PATH")
_UNUSED_GROUPS = ("DECODER", "MASK", "RECONSTRUCTION")


def is_exported(source: str | Path) -> bool:
    """Whether the suffix of a file or an address is that of an exported model."""
    path = split_address(str(source)).path if is_address(source) else source
    return Path(path).suffix in (ONNX_SUFFIX, TORCH_SUFFIX)


def parse_metadata(text: str | None, path: Path) -> dict[str, Any]:
    """The data in an exported file: `config` as text, `label_map` as a dict or None, and what else it says.

    Raises:
        WeightsError: there is none, or it is not of this program.
    """
    if text is None:
        raise WeightsError(f"{path}: no metadata of vmae_det in it; expected a file that `export` wrote")
    try:
        metadata = json.loads(text)
        version = metadata["format"]
        usable = isinstance(metadata["config"], str) and isinstance(metadata["label_map"], (dict, type(None)))
    except (ValueError, KeyError, TypeError, RecursionError):
        usable, version = False, None
    if not usable:
        raise WeightsError(f"{path}: its metadata is damaged; expected a file that `export` wrote")
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"{path}: metadata of version {version}, expected {FORMAT_VERSION}: export it again"
        )
    return metadata


def check_overrides(cfg: CfgNode, text: str, path: Path) -> None:
    """ConfigError if a config asks for another model than the one whose config, as text, is in the file."""
    own = get_cfg()
    own.merge_from_text(text, str(path))
    asked = dict(_leaves(cfg.MODEL)) | {"INPUT.NUM_FRAMES": cfg.INPUT.NUM_FRAMES}
    for key, value in (dict(_leaves(own.MODEL)) | {"INPUT.NUM_FRAMES": own.INPUT.NUM_FRAMES}).items():
        if key in _FREE_KEYS or key.split(".")[0] in _UNUSED_GROUPS or asked[key] == value:
            continue
        name = key if key.startswith("INPUT.") else f"MODEL.{key}"
        raise ConfigError(f"{name}: {asked[key]!r}, but {path} was exported with {value!r}; export it again")


def _leaves(node: CfgNode, prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in node.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else [(prefix + key, value)]
    return found


def flatten(batch: dict) -> dict[str, torch.Tensor]:
    """A detector's batch, with lists by clip, as the inputs of an exported detector, one row for each person.

    Gives `video` uint8 (B, 3, T, H, W), `boxes` (R, 4), `clips` (R,) int64, `person_scores` (R,) and `sizes`
    (R, 2).
    """
    counts = torch.tensor([len(boxes) for boxes in batch["boxes"]])
    return {
        "video": batch["video"],
        "boxes": torch.cat(batch["boxes"]),
        "clips": torch.arange(len(counts)).repeat_interleave(counts),
        "person_scores": torch.cat(batch["person_scores"]),
        "sizes": torch.stack(batch["size"]).repeat_interleave(counts, dim=0),
    }


def split(scores: torch.Tensor, batch: dict) -> list[torch.Tensor]:
    """Scores (R, classes) as a list by clip."""
    return list(scores.split([len(boxes) for boxes in batch["boxes"]]))
