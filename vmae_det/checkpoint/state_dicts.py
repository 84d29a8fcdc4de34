"""Find the parameters in a checkpoint, which may be under one key or several nested keys."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import torch

from vmae_det.checkpoint.unpickling import Placeholder
from vmae_det.utils.errors import WeightsError
from vmae_det.utils.safe_pickle import PickledArray

AVERAGED_WEIGHTS = "averaged_model"  # key of the EMA weights in our own checkpoints
# EMA weights come first, since training evaluates them.
_EMA_KEYS = (AVERAGED_WEIGHTS, "model_ema", "state_dict_ema", "ema", "params_ema")
# The first of these that is present is used. mmengine's `state_dict` contains the EMA weights if the file
# also has an `ema_state_dict`.
_WEIGHT_KEYS = (
    "model",
    "module",
    "state_dict",
    "model_state_dict",
    "model_state",
    "net",
    "params",
    "ema_state_dict",
)
_KNOWN_KEYS = (*_EMA_KEYS, *_WEIGHT_KEYS)
# Networks in a file of V-JEPA 2, V-JEPA 2.1 or I-JEPA, the best first: averages of the encoder, the encoder.
_JEPA_KEYS = ("ema_encoder", "target_encoder", "encoder", "predictor")
_JEPA_PREFIX = "module.backbone."  # of all names of an encoder
_MAX_DEPTH = 3


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, and where in the file they were found.

    Args:
        tensors: dense tensors with values.
        key: key of the tensors in the file, such as "model" or "ema.module"; '' for the top level.
        others: keys of other weights in the file, which are not used.
        is_average: whether the tensors are EMA weights.
    """

    tensors: dict[str, torch.Tensor]
    key: str
    others: tuple[str, ...] = ()
    is_average: bool = False

    def __str__(self) -> str:
        if not self.others:
            return f"under '{self.key}'" if self.key else "at the top level"
        kind = "EMA weights" if self.is_average else "weights"
        return f"the {kind} under '{self.key}', not those under {', '.join(map(repr, self.others))}"


def find_state_dict(content: dict[str, Any], where: str = "state dict") -> StateDict:
    """Find the parameters in a checkpoint. Values that are not tensors or numeric arrays are ignored.

    Parameters are searched under the keys that common programs use, then under the only key that has any.

    Args:
        where: source of the content, for error messages.

    Raises:
        WeightsError: a parameter is sparse, quantized, without values, or an object of an unknown class; or
            several keys that no common program uses contain parameters.
    """
    path: list[str] = []
    others: list[str] = []
    while len(path) < _MAX_DEPTH:
        keys = [key for key in _KNOWN_KEYS if _contains_parameters(content.get(key))]
        if not keys and not _has_parameters(content):
            keys = [key for key, value in content.items() if _contains_parameters(value)]
            if set(keys) <= set(_JEPA_KEYS):
                keys.sort(key=_JEPA_KEYS.index)
            elif len(keys) > 1:
                names = ", ".join(f"{key!r:.80}" for key in keys[:4])
                raise WeightsError(f"{where}: contains several models, under {names}; save only one of them")
            keys = keys or [key for key in _KNOWN_KEYS if isinstance(content.get(key), dict) and content[key]]
        if not keys:
            break
        others += keys[1:]
        path.append(keys[0])
        content = content[keys[0]]
    tensors = {}
    for name, value in content.items():
        if isinstance(name, str) and (tensor := _dense_tensor(name, value, where)) is not None:
            tensors[name] = tensor
    if all(name.startswith(_JEPA_PREFIX) for name in tensors):
        tensors = {name.removeprefix(_JEPA_PREFIX): tensor for name, tensor in tensors.items()}
    is_average = any(key in (*_EMA_KEYS, *_JEPA_KEYS[:2]) for key in path)
    return StateDict(tensors, ".".join(map(str, path)), tuple(others), is_average)


def state_dict_of(content: dict[str, Any], where: str = "state dict") -> dict[str, torch.Tensor]:
    """Return the tensors that `find_state_dict` finds."""
    return find_state_dict(content, where).tensors


def _contains_parameters(value: Any, depth: int = 1) -> bool:
    """Return whether a value is a dict that has parameters, directly or under known keys."""
    if not isinstance(value, dict) or depth > _MAX_DEPTH:
        return False
    return _has_parameters(value) or any(
        _contains_parameters(value.get(key), depth + 1) for key in _KNOWN_KEYS
    )


def _has_parameters(content: dict[Any, Any]) -> bool:
    """Return whether a dict has an entry with a name like `part.weight` and a tensor, array or object."""
    return any(
        isinstance(name, str)
        and "." in name
        and (
            isinstance(value, (torch.Tensor, PickledArray)) or (isinstance(value, Placeholder) and not value)
        )
        for name, value in content.items()
    )


def _dense_tensor(name: str, value: Any, where: str) -> torch.Tensor | None:
    """Return the value as a tensor, or None if it is not a parameter."""
    if isinstance(value, PickledArray):
        try:
            return torch.tensor(value.to_numpy())
        except (pickle.UnpicklingError, TypeError) as error:
            raise WeightsError(f"{where}: {name}: {error}; expected an array of numbers") from None
    if isinstance(value, torch.Tensor):
        problem = _unsupported_kind(value)
    elif isinstance(value, Placeholder) and not value and "." in name:
        problem = value.name
    else:
        return None
    if problem:
        raise WeightsError(f"{where}: {name} is {problem}; expected a dense tensor with values")
    return value


def _unsupported_kind(tensor: torch.Tensor) -> str:
    if tensor.is_meta:
        return "a meta tensor without values"
    if tensor.is_quantized:
        return "a quantized tensor"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"a tensor with layout {tensor.layout}"
    return ""
