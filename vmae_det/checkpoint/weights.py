"""Weights from a file into a model: what fits is loaded, what does not is refused by name."""

from __future__ import annotations

import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vmae_det.checkpoint.published import FORMATS, to_our_names
from vmae_det.utils.errors import WeightsError

logger = logging.getLogger(__name__)

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
            text += f"; not in the file, left as initialised: {_some(self.missing)}"
        if self.unused:
            text += f"; in the file, not in the model: {_some(self.unused)}"
        return text


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dict in a file of torch.save, tensors on the CPU. Only plain data is unpickled; else
    WeightsError."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("Check the documentation")[0].replace("\n", " ").strip()
        raise WeightsError(f"{path}: not a file of plain tensors, refused: {reason[:300]}") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path}: damaged, or not a checkpoint: {reason}") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected a dict of tensors, got {type(content).__name__}")
    return content


def load_weights(
    model: nn.Module, source: str | Path | dict[str, Any], *, backbone_only: bool = False
) -> LoadReport:
    """Load weights of this program or of a published file into `model`, in place.

    Heads and decoders that the file does not have keep their values, so a pre-trained file can be given to a
    classifier or a detector. All of the backbone must be there.

    Args:
        model: any model with a `backbone`.
        source: a file, or a state dict, possibly under a key `model` or `module`.
        backbone_only: leave all but the backbone aside, e.g. a head for other classes.

    Raises:
        WeightsError: the file is unreadable, of unknown format, or a parameter is missing or of another
        shape;
            nothing has been loaded then.
    """
    where = "state dict" if isinstance(source, dict) else str(source)
    content = source if isinstance(source, dict) else read_checkpoint(source)
    for key in ("model", "module"):
        content = content[key] if isinstance(content.get(key), dict) else content
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    recognised = to_our_names(tensors)
    if recognised is None:
        raise WeightsError(
            f"{where}: parameter names of no known format ({', '.join(known.name for known in FORMATS)}); "
            f"it holds {_some(tuple(map(str, content))) or 'nothing'}"
        )
    weights, known = recognised
    own = model.state_dict()
    if backbone_only:
        weights = {name: value for name, value in weights.items() if name.startswith(BACKBONE_PREFIX)}
    shared = [name for name in own if name in weights]
    misfits = [
        f"{name} is {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in shared
        if weights[name].shape != own[name].shape
    ]
    missing = tuple(name for name in own if name not in weights)
    misfits += [
        f"{name} is not in the file"
        for name in missing
        if name.startswith(BACKBONE_PREFIX) and not name.startswith(OPTIONAL_IN_BACKBONE)
    ]
    extra_blocks = [
        name for name in weights if name.startswith(BACKBONE_PREFIX + "blocks.") and name not in own
    ]
    if extra_blocks:
        misfits.append(f"{extra_blocks[0]} is not in the model")
    if misfits:
        raise WeightsError(
            f"{where}: of another architecture than the config's model: {_some(tuple(misfits), 3)}. "
            "Give the config that the file was made with; to replace a head, give the file as "
            "MODEL.BACKBONE.CHECKPOINT"
        )
    model.load_state_dict({name: weights[name] for name in shared}, strict=False)
    unused = tuple(name for name in weights if name not in own)
    return LoadReport(known.name, tuple(shared), missing, unused)


def _some(names: tuple[str, ...], count: int = 4) -> str:
    more = f", and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
