"""The parameters in the content of a checkpoint, which lie under a key or several."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import torch

from vmae_det.checkpoint.unpickling import StandIn
from vmae_det.utils.errors import WeightsError
from vmae_det.utils.safe_pickle import PickledArray

AVERAGED_WEIGHTS = "averaged_model"  # their key in a checkpoint of this program
# Running averages of weights, which training evaluates, go before the weights that they are averages of.
_AVERAGES = (AVERAGED_WEIGHTS, "model_ema", "state_dict_ema", "ema", "params_ema")
# Of several the first is taken. mmengine's `state_dict` is the average where it has an `ema_state_dict`, too.
_KEYS = (
    "model",
    "module",
    "state_dict",
    "model_state_dict",
    "model_state",
    "net",
    "params",
    "ema_state_dict",
)
_KNOWN = (*_AVERAGES, *_KEYS)
_MAX_DEPTH = 3


@dataclass(frozen=True)
class StateDict:
    """Tensors by name.

    Args:
        tensors: dense, with values.
        key: under which they lie in the file, such as "model" or "ema.module"; '' at the top.
        others: keys of other weights, which were not taken.
        is_average: whether the tensors are a running average of these.
    """

    tensors: dict[str, torch.Tensor]
    key: str
    others: tuple[str, ...] = ()
    is_average: bool = False

    def __str__(self) -> str:
        if not self.others:
            return f"under '{self.key}'" if self.key else "at the top"
        kind = "averaged weights" if self.is_average else "weights"
        return f"the {kind} under '{self.key}', not those under {', '.join(map(repr, self.others))}"


def find_state_dict(content: dict[str, Any], where: str = "state dict") -> StateDict:
    """The parameters in a checkpoint. What is neither a tensor nor an array of numbers is ignored.

    They lie under keys that programs are known to use, or under the only key with parameters.

    Args:
        where: the content is from; for the error.

    Raises:
        WeightsError: a parameter is sparse, quantized, without values, or an object of an unknown class; or
            several keys that no program is known to use hold parameters.
    """
    path: list[str] = []
    others: list[str] = []
    while len(path) < _MAX_DEPTH:
        found = [key for key in _KNOWN if _holds_parameters(content.get(key))]
        if not found and not _has_parameters(content):
            found = [key for key, value in content.items() if _holds_parameters(value)]
            if len(found) > 1:
                keys = ", ".join(f"{key!r:.80}" for key in found[:4])
                raise WeightsError(f"{where}: holds several models, under {keys}; save one alone")
            found = found or [key for key in _KNOWN if isinstance(content.get(key), dict) and content[key]]
        if not found:
            break
        others += found[1:]
        path.append(found[0])
        content = content[found[0]]
    tensors = {}
    for name, value in content.items():
        if isinstance(name, str) and (tensor := _dense(name, value, where)) is not None:
            tensors[name] = tensor
    return StateDict(tensors, ".".join(map(str, path)), tuple(others), any(key in _AVERAGES for key in path))


def state_dict_of(content: dict[str, Any], where: str = "state dict") -> dict[str, torch.Tensor]:
    """The tensors of `find_state_dict`."""
    return find_state_dict(content, where).tensors


def _holds_parameters(value: Any, depth: int = 1) -> bool:
    """Whether a value is a dict with parameters in it, or in dicts of it."""
    if not isinstance(value, dict) or depth > _MAX_DEPTH:
        return False
    return _has_parameters(value) or any(_holds_parameters(value.get(key), depth + 1) for key in _KNOWN)


def _has_parameters(content: dict[Any, Any]) -> bool:
    """Whether a dict has a parameter, which is called like `part.weight`."""
    return any(
        isinstance(name, str)
        and "." in name
        and (isinstance(value, (torch.Tensor, PickledArray)) or (isinstance(value, StandIn) and not value))
        for name, value in content.items()
    )


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
