"""The parameters in the content of a checkpoint, which lie under a key or several."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import torch

from vmae_det.checkpoint.unpickling import StandIn
from vmae_det.data.pickles import PickledArray
from vmae_det.utils.errors import WeightsError

AVERAGED_WEIGHTS = "averaged_model"  # their key in a checkpoint of this program
# Running averages of weights, which training evaluates, go before the weights that they are averages of.
_AVERAGES = (AVERAGED_WEIGHTS, "model_ema", "state_dict_ema", "ema")
_KEYS = ("model", "module", "state_dict", "model_state_dict", "model_state", "net")
_MAX_DEPTH = 5


@dataclass(frozen=True)
class StateDict:
    """Tensors by name.

    Args:
        tensors: dense, with values.
        key: under which they lie in the file, such as "model" or "ema.module"; '' at the top.
        others: where the tensors are a running average: keys of the weights that were not taken.
    """

    tensors: dict[str, torch.Tensor]
    key: str
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.others:
            return f"under '{self.key}'" if self.key else "at the top"
        return f"the averaged weights under '{self.key}', not those under {', '.join(map(repr, self.others))}"


def find_state_dict(content: dict[str, Any], where: str = "state dict") -> StateDict:
    """The parameters in a checkpoint. What is neither a tensor nor an array of numbers is ignored.

    Args:
        where: the content is from; for the error.

    Raises:
        WeightsError: a parameter is sparse, quantized, without values, or an object of an unknown class.
    """
    path: list[str] = []
    others: list[str] = []
    while len(path) < _MAX_DEPTH:
        found = [key for key in (*_AVERAGES, *_KEYS) if isinstance(content.get(key), dict) and content[key]]
        if not found:
            break
        if found[0] in _AVERAGES:
            others += found[1:]
        path.append(found[0])
        content = content[found[0]]
    tensors = {}
    for name, value in content.items():
        if isinstance(name, str) and (tensor := _dense(name, value, where)) is not None:
            tensors[name] = tensor
    return StateDict(tensors, ".".join(path), tuple(others))


def state_dict_of(content: dict[str, Any], where: str = "state dict") -> dict[str, torch.Tensor]:
    """The tensors of `find_state_dict`."""
    return find_state_dict(content, where).tensors


def _dense(name: str, value: Any, where: str) -> torch.Tensor | None:
    if isinstance(value, PickledArray):
        try:
            return torch.tensor(value.to_numpy())
        except (pickle.UnpicklingError, TypeError) as error:
            raise WeightsError(f"{where}: {name}: {error}; expected an array of numbers") from None
    if isinstance(value, torch.Tensor):
        problem = _odd(value)
    elif isinstance(value, StandIn) and not value and "." in name:
        problem = value.name
    else:
        return None
    if problem:
        raise WeightsError(f"{where}: {name} is {problem}; expected a dense tensor with values")
    return value


def _odd(value: torch.Tensor) -> str:
    if value.is_meta:
        return "a meta tensor without values"
    if value.is_quantized:
        return "a quantized tensor"
    if value.layout != torch.strided or value.is_nested:
        return f"a tensor of the layout {value.layout}"
    return ""
