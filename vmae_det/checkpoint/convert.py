"""Weights from one published format to another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vmae_det.checkpoint.files import check_suffix, read_checkpoint, some, write_checkpoint
from vmae_det.checkpoint.limits import BACKBONE, check_expressible
from vmae_det.checkpoint.published import PATCH_EMBEDDING, POSITIONS, Recognised, from_our_names, inflate
from vmae_det.checkpoint.state_dicts import StateDict, state_dict_of
from vmae_det.checkpoint.stored_config import stored_config
from vmae_det.checkpoint.weights import read_weights
from vmae_det.config import CfgNode
from vmae_det.modeling.position_embedding import POSITION_TABLES
from vmae_det.utils.errors import WeightsError

# Frames of a cube in all published video models.
_TUBELET_SIZE = 2
_EMBEDDING = (PATCH_EMBEDDING, PATCH_EMBEDDING.replace("weight", "bias"))


@dataclass(frozen=True)
class ConvertReport:
    """What became of the parameters of a file.

    Args:
        output: the file that was written.
        source_format, format: the names of both formats.
        written: parameters in the new file.
        left_out: parameters of the old file that have no place in the new one.
        source: where in the old file they were.
        settings: what the file does not say, and their model must be built with; '' where that is not known.
    """

    output: Path
    source_format: str
    format: str
    written: tuple[str, ...]
    left_out: tuple[str, ...]
    source: StateDict
    settings: str = ""

    def __str__(self) -> str:
        text = f"{self.output}: {len(self.written)} parameters, from {self.source_format} to {self.format}"
        if self.source.others:
            text += f", {self.source}"
        if self.left_out:
            text += f"; left out, as that has no place for them: {some(self.left_out)}"
        if self.settings:
            text += f"; the file does not say how to build their model: {self.settings}"
        return text


def convert_weights(
    source: str | Path,
    output: str | Path,
    family: str,
    cfg: CfgNode | None = None,
    label_map: dict[str, Any] | None = None,
) -> ConvertReport:
    """Write the weights in `source` as the file `output`, whole or not at all.

    No bit of a weight changes. The format of the `family` is the one for the task of the weights. An image
    model's patch embedding becomes that of cubes of two frames. A file of this program gets the config and
    label map, too.

    Args:
        source: what `read_checkpoint` takes.
        output: a file of PyTorch's (.pt, .pth, .bin), its tensors under the key that the format has them
            under, or .safetensors.
        family: of `formats.FORMATS`.
        cfg: of the weights; None takes the one that travels with them, if any.
        label_map: the fields of a LabelMap; None takes the one that travels with the weights, if any.

    Raises:
        WeightsError: the source cannot be read or recognised, it holds a model in part, or parameters that
            are of no model of this program, the format cannot express the model, or the output cannot be
            written.
    """
    output = Path(output)
    check_suffix(output)
    content = read_checkpoint(source)
    stored = stored_config(content, source)
    is_own = (cfg or stored) is not None and (cfg or stored).MODEL.BACKBONE.NAME != BACKBONE
    names = state_dict_of(content, str(source)) if is_own else ()
    found, recognised = read_weights(content, str(source), names)
    weights = inflate(recognised.weights, _TUBELET_SIZE)
    keep_config = cfg is None and recognised.format.names is None
    cfg = cfg or stored
    check_expressible(family, weights, cfg)
    if not is_own:
        _check_whole(recognised, str(source))
    if family == "mmaction2" and cfg is not None and cfg.MODEL.BACKBONE.POSITIONS != "flat":
        weights = {POSITIONS: _position_table(cfg)} | weights
    if family == "huggingface":
        weights.pop(POSITIONS, None)  # computed there
    target, state_dict, left_out = from_our_names(weights, family)
    if not state_dict:
        raise WeightsError(f"{source}: nothing in it has a place in {target.name} format")
    extras = {}
    if target.names is None:
        extras = {
            "config": content.get("config") if keep_config or cfg is None else cfg.dump(),
            "label_map": label_map or content.get("label_map"),
        }
    write_checkpoint(state_dict, output, target.top_key, extras)
    settings = "" if cfg is None or target.names is None else _settings(cfg)
    return ConvertReport(
        output,
        recognised.format.name,
        target.name,
        tuple(state_dict),
        (*recognised.unused, *left_out),
        found,
        settings,
    )


def _position_table(cfg: CfgNode) -> torch.Tensor:
    backbone, side = cfg.MODEL.BACKBONE, cfg.INPUT.CROP_SIZE // cfg.MODEL.BACKBONE.PATCH_SIZE
    grid = (cfg.INPUT.NUM_FRAMES // backbone.TUBELET_SIZE, side, side)
    return POSITION_TABLES[backbone.POSITIONS](grid, backbone.EMBED_DIM)


def _settings(cfg: CfgNode) -> str:
    """What another program must be told to build the model of these weights."""
    backbone = cfg.MODEL.BACKBONE
    settings = {
        "image size": cfg.INPUT.CROP_SIZE,
        "patch size": backbone.PATCH_SIZE,
        "frames": cfg.INPUT.NUM_FRAMES,
        "tubelet size": backbone.TUBELET_SIZE,
        "heads": backbone.NUM_HEADS,
        "MLP ratio": f"{backbone.MLP_RATIO:g}",
        "pixel mean": " ".join(f"{value:g}" for value in cfg.MODEL.PIXEL_MEAN),
        "pixel deviation": " ".join(f"{value:g}" for value in cfg.MODEL.PIXEL_STD),
    }
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _check_whole(recognised: Recognised, source: str) -> None:
    """WeightsError unless a file holds all of a backbone, and only parameters that have a meaning here."""
    lost = tuple(name for name, part in recognised.unused.items() if part)
    if lost:
        raise WeightsError(
            f"{source}: no model of this program has {some(lost)}; without, it is another model"
        )
    blocks: dict[int, set[str]] = {}
    for name in recognised.weights:
        if name.startswith("backbone.blocks."):
            number, _, rest = name.removeprefix("backbone.blocks.").partition(".")
            blocks.setdefault(int(number), set()).add(rest)
    every = set().union(*blocks.values())
    lacking = [
        f"backbone.blocks.{number}.{rest}"
        for number in range(min(max(blocks, default=0) + 1, len(blocks) + 1))
        for rest in sorted(every - blocks.get(number, set()))
    ]
    if not any(name.startswith(("backbone.norm.", "fc_norm.")) for name in recognised.weights):
        lacking.append("a norm after the last block")
    lacking += [name for name in _EMBEDDING if name not in recognised.weights]
    if lacking:
        raise WeightsError(f"{source}: holds a model in part, without {some(tuple(lacking))}")
