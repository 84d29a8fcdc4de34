"""Weights from a file into a model: what fits is loaded, what does not is refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vmae_det.checkpoint.files import read_checkpoint, state_dict_of
from vmae_det.checkpoint.formats import FORMATS
from vmae_det.checkpoint.published import POSITIONS, Recognised, inflate, to_our_names
from vmae_det.utils.errors import WeightsError

BACKBONE_PREFIX = "backbone."
# The classifier normalises after pooling, so its backbone has no norm to give or to take.
OPTIONAL_IN_BACKBONE = BACKBONE_PREFIX + "norm."


@dataclass(frozen=True)
class LoadReport:
    """What became of each parameter.

    Args:
        format: name of the recognised format.
        loaded: parameters taken from the file.
        missing: parameters of the model that the file does not hold; they keep their values.
        unused: parameters of the file that the model does not have.
    """

    format: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{len(self.loaded)} parameters from a file in {self.format} format"
        if self.missing:
            text += f"; not in the file, left as initialised: {some(self.missing)}"
        if self.unused:
            text += f"; in the file, not in the model: {some(self.unused)}"
        return text


def load_weights(
    model: nn.Module, source: str | Path | dict[str, Any], *, backbone_only: bool = False
) -> LoadReport:
    """Load weights of this program or of a published file into `model`, in place.

    Heads and decoders that the file does not have keep their values, so a pre-trained file can be given to a
    classifier or a detector. All of the backbone must be there. A position table in the file takes the place
    of the model's own, resized where their sizes differ; without one the model's stays.

    Args:
        model: any model with a `backbone`.
        source: a file, a URL, a name of the model zoo (see `locate`), or a state dict, possibly under a key
            `model`, `module` or `state_dict`.
        backbone_only: leave all but the backbone aside, e.g. a head for other classes.

    Raises:
        WeightsError: the file is unreadable, of unknown format, or a parameter is missing, of another shape,
            or not of plain floating-point numbers; nothing has been loaded then.
    """
    where = "state dict" if isinstance(source, dict) else str(source)
    recognised = read_weights(source if isinstance(source, dict) else read_checkpoint(source), where)
    weights, unused = inflate(recognised.weights, model.backbone.tubelet_size), recognised.unused
    if backbone_only:
        weights = {name: value for name, value in weights.items() if name.startswith(BACKBONE_PREFIX)}
        unused = ()
    own = model.state_dict()
    own.pop(POSITIONS, None)
    shared = [name for name in own if name in weights]
    missing = tuple(name for name in own if name not in weights)
    table = weights.pop(POSITIONS, None)
    problems = _problems(weights, own)
    if table is not None:
        try:
            table = model.backbone.resize_table(table)
        except ValueError as error:
            problems.append(f"{POSITIONS}: {error}")
    if problems:
        raise WeightsError(
            f"{where}: of another architecture than the config's model: {some(tuple(problems), 3)}. "
            "Give the config that the file was made with; to replace a head, give the file as "
            "MODEL.BACKBONE.CHECKPOINT"
        )
    model.load_state_dict({name: weights[name] for name in shared}, strict=False)
    if table is not None:
        model.backbone.set_positions(table)
        shared.append(POSITIONS)
    unused += tuple(name for name in weights if name not in own)
    return LoadReport(recognised.format.name, tuple(shared), missing, unused)


def read_weights(content: dict[str, Any], where: str) -> Recognised:
    """The weights in a state dict or the content of a file, under our names.

    Args:
        where: the content is from; for the error.

    Raises:
        WeightsError: its parameter names are of no known format.
    """
    recognised = to_our_names(state_dict_of(content))
    if recognised is None:
        names = ", ".join(dict.fromkeys(known.name for known in FORMATS))
        raise WeightsError(
            f"{where}: parameter names of no known format ({names}); "
            f"it holds {some(tuple(map(str, content))) or 'nothing'}"
        )
    return recognised


def _problems(weights: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> list[str]:
    """What keeps weights from becoming those of a model."""
    misfits = [_misfit(name, weights[name], value) for name, value in own.items() if name in weights]
    # A decoder was trained on what the norm gives, so it needs the norm, too.
    norm_is_optional = not any(name.startswith("decoder.") and name in weights for name in own)
    missing = [
        f"{name} is not in the file"
        for name in own
        if name.startswith(BACKBONE_PREFIX)
        and not (norm_is_optional and name.startswith(OPTIONAL_IN_BACKBONE))
        and name not in weights
    ]
    surplus = [name for name in weights if name.startswith(BACKBONE_PREFIX + "blocks.") and name not in own]
    return [*filter(None, misfits), *missing, *(f"{name} is not in the model" for name in surplus[:1])]


def _misfit(name: str, value: torch.Tensor, own: torch.Tensor) -> str:
    """Why a value from a file cannot become the parameter `own`, or ''."""
    if value.shape != own.shape:
        return f"{name} is {tuple(value.shape)} in the file, {tuple(own.shape)} in the model"
    if value.is_floating_point() != own.is_floating_point() or value.layout != torch.strided or value.is_meta:
        return f"{name} holds {value.dtype} ({value.layout}, {value.device}), expected {own.dtype}"
    return ""


def some(names: tuple[str, ...], count: int = 4) -> str:
    """The first few of many names, as text."""
    more = f", and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
