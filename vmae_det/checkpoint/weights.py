"""Weights from a file into a model: what fits is loaded, what does not is refused by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vmae_det.checkpoint.files import read_checkpoint, some
from vmae_det.checkpoint.formats import FORMATS, OWN_FORMAT
from vmae_det.checkpoint.naming import part_of
from vmae_det.checkpoint.published import POSITIONS, Recognised, inflate, to_our_names
from vmae_det.checkpoint.shapes import keys_of
from vmae_det.checkpoint.state_dicts import StateDict, find_state_dict
from vmae_det.checkpoint.unpickling import StandIn
from vmae_det.utils.errors import WeightsError

BACKBONE_PREFIX = "backbone."
# May be in the file or in the model alone: the classifier normalises after pooling, so its backbone has no
# norm; mmaction2's detectors have a row of weights for the background.
_OPTIONAL = ("backbone.norm.", "roi_head.background.")


@dataclass(frozen=True)
class LoadReport:
    """What became of each parameter.

    Args:
        format: name of the recognised format.
        loaded: parameters taken from the file.
        missing: parameters of the model that the file does not hold; they keep their values.
        unused: parameters of the file that the model does not have.
        source: where in the file they were.
    """

    format: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    source: StateDict

    def __str__(self) -> str:
        text = f"{len(self.loaded)} parameters from a file in {self.format} format"
        if self.source.others:
            text += f": {self.source}"
        if self.missing:
            text += f"; not in the file, left as initialised: {some(self.missing)}"
        if self.unused:
            text += f"; in the file, not in the model: {some(self.unused)}"
        return text


def load_weights(
    model: nn.Module, source: str | Path | dict[str, Any], *, backbone_only: bool = False, where: str = ""
) -> LoadReport:
    """Load weights of this program or of a published file into `model`, in place.

    A part (backbone, decoder, head) that the file does not have keeps its values, so a pre-trained file can
    be given to a classifier or a detector; the backbone must be there. A part that both have is loaded as a
    whole: each of its parameters in the file has its place in the model, and each in the model is in the
    file. A position table in the file takes the place of the model's own, resized where their sizes differ;
    without one the model's stays.

    Args:
        model: any model with a `backbone`.
        source: a file, a URL, a name of the model zoo (see `locate`), or a state dict, possibly under a key
            such as `model` (see `find_state_dict`). A running average goes before the weights it is made of.
        backbone_only: ignore all but the backbone, e.g. a head for other classes.
        where: the state dict is from; for errors.

    Raises:
        WeightsError: the file is unreadable, of unknown format, or a parameter is missing, has no place, is
            of another shape, or not of finite floating-point numbers; nothing has been loaded then.
    """
    if not isinstance(source, dict):
        where, source = str(source), read_checkpoint(source)
    where = where or "state dict"
    own = model.state_dict()
    found, recognised = read_weights(source, where, own)
    weights = inflate(recognised.weights, model.backbone.tubelet_size)
    own.pop(POSITIONS, None)
    parts = {"backbone"} if backbone_only else {part_of(name) for name in own}
    nameless = tuple(name for name, part in recognised.unused.items() if part in parts)
    weights = {name: value for name, value in weights.items() if not backbone_only or part_of(name) in parts}
    shared = [name for name in own if name in weights]
    missing = tuple(name for name in own if name not in weights)
    table = weights.pop(POSITIONS, None)
    problems = [*_problems(weights, own), *(f"{name} has no counterpart in the model" for name in nameless)]
    if table is not None:
        try:
            table = model.backbone.resize_table(table)
        except ValueError as error:
            problems.append(f"{POSITIONS}: {error}")
    if problems:
        differences = some((*_other_keys(weights, own), *problems), 3)
        raise WeightsError(
            f"{where}: of another architecture than the config's model: {differences}. Give the config that "
            "the file was made with; to replace a head, give the file as MODEL.BACKBONE.CHECKPOINT"
        )
    broken = tuple(name for name in shared if not weights[name].to(own[name].dtype).isfinite().all())
    if broken or (table is not None and not torch.isfinite(table).all()):
        raise WeightsError(f"{where}: holds numbers that are not finite, in {some(broken or (POSITIONS,))}")
    model.load_state_dict({name: weights[name] for name in shared}, strict=False)
    if table is not None:
        model.backbone.set_positions(table)
        shared.append(POSITIONS)
    unused = () if backbone_only else (*recognised.unused, *(name for name in weights if name not in own))
    return LoadReport(recognised.format.name, tuple(shared), missing, unused, found)


def read_weights(
    content: dict[str, Any], where: str, own: Iterable[str] = ()
) -> tuple[StateDict, Recognised]:
    """The weights in a state dict or the content of a file, and the same under our names.

    Args:
        where: the content is from; for the error.
        own: names of a model's parameters, by which the file of a backbone of the user's is recognised.

    Raises:
        WeightsError: its parameter names are of no known format, or of several models.
    """
    found = find_state_dict(content, where)
    try:
        recognised = to_our_names(found.tensors)
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}") from None
    backbone = {name for name in own if name.startswith(BACKBONE_PREFIX)}
    if recognised is None and backbone and backbone <= found.tensors.keys():
        recognised = Recognised(OWN_FORMAT, dict(found.tensors), {})
    if recognised is None and found.tensors:
        formats = ", ".join(dict.fromkeys(known.name for known in FORMATS))
        raise WeightsError(
            f"{where}: parameter names of no known format ({formats}); the first {found} are "
            f"{some(tuple(found.tensors))}"
        )
    if recognised is None:
        entries = some(tuple(map(_entry, content.items()))) or "nothing"
        raise WeightsError(f"{where}: holds no parameters, but {entries}")
    return found, recognised


def _problems(weights: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> list[str]:
    """What keeps weights from becoming those of a model."""
    misfits = [_misfit(name, weights[name], value) for name, value in own.items() if name in weights]
    parts = {part_of(name) for name in own}
    given = {part_of(name) for name in weights} | {"backbone"}
    missing = [name for name in _needed(own) if part_of(name) in given and name not in weights]
    if "decoder" in given and "decoder" in parts:  # which was trained on what the norm gives
        missing += [name for name in own if name.startswith("backbone.norm.") and name not in weights]
    surplus = [name for name in _needed(weights) if part_of(name) in parts and name not in own]
    return [
        *filter(None, misfits),
        *(f"{name} is not in the file" for name in missing),
        *(f"{name} is not in the model" for name in surplus),
    ]


def _needed(names: Iterable[str]) -> Iterable[str]:
    return (name for name in names if not name.startswith(_OPTIONAL))


def _other_keys(weights: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> list[str]:
    """The config keys whose values, by the shapes of the parameters, differ between a file and a model."""
    theirs, ours = keys_of(weights), keys_of(own)
    return [
        f"{key} is {theirs[key]} in the file, {value} in the config"
        for key, value in ours.items()
        if theirs.get(key, value) != value
    ]


def _misfit(name: str, value: torch.Tensor, own: torch.Tensor) -> str:
    """Why a value from a file cannot become the parameter `own`, or ''."""
    if value.shape != own.shape:
        return f"{name} is {tuple(value.shape)} in the file, {tuple(own.shape)} in the model"
    if value.is_floating_point() != own.is_floating_point():
        return f"{name} holds {value.dtype}, expected {own.dtype}"
    return ""


def _entry(item: tuple[Any, Any]) -> str:
    key, value = item
    return f"{key} (an object of {value.name})" if isinstance(value, StandIn) and not value else str(key)
