"""Run code on the device "cuda" without a GPU, and fail where it would wait for one.

PyTorch's fake tensors have a shape, a dtype and a device, and no values. `fake_cuda` makes every tensor of
its block a fake one. `no_waits` checks the operations of its block. Its errors name the line at fault:

- `HiddenWait`: the CPU would wait for the GPU. It reads a value (`.item()`, `bool(tensor)`); a shape depends
  on values (`nonzero`, indexing by a mask); a tensor is copied between CPU and GPU without
  `non_blocking=True` (`.to("cuda")`, `.cpu()`, `new_tensor`, `torch.tensor(..., device="cuda")`, an index
  that is a list or on the CPU); or the device, a stream or an event is synchronized.
- `WrongDevice`: an operation mixes devices.
- `WrongType`: an operation on the GPU returns float64, which GPUs compute slowly.

Fake tensors do not show whether memory is pinned, races, values, and waits inside of kernels.

A CUDA build of PyTorch without a driver has no backward pass of CUDA tensors. `backward_stand_in` fills the
gradients instead. The backward pass of fake tensors of the device "meta" runs, but autocast ignores them.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_ROOT = Path(__file__).parents[1]
_ATEN = torch.ops.aten
_NO_FAKE_KERNEL = (_ATEN._fused_sgd_.default, _ATEN._fused_sgd_.tensor_lr)  # they are skipped


class HiddenWait(AssertionError):
    """The CPU would wait for the GPU."""


class WrongDevice(AssertionError):
    """An operation mixes tensors of the CPU and of the GPU."""


class WrongType(AssertionError):
    """A tensor has a dtype that it should not have."""


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Make all tensors fake, and let "cuda" be used as if there were a GPU."""
    with ExitStack() as stack:
        # Without a GPU, torch disables autocast and the loss scaler.
        for name, value in (
            ("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
            ("torch.cuda.is_bf16_supported", lambda *_, **__: True),
            ("torch.cuda.get_device_capability", lambda *_: (8, 0)),
            ("torch.cuda.max_memory_allocated", lambda *_: 10**9),
            ("torch.cuda.synchronize", lambda *_: _refuse("torch.cuda.synchronize")),
            ("torch.cuda.Event", _StreamOrEvent),
            ("torch.cuda.Stream", _StreamOrEvent),
            ("torch.cuda.current_stream", _StreamOrEvent),
            ("torch.cuda.stream", lambda _: nullcontext()),
            ("torch.Tensor.record_stream", lambda *_: None),
        ):
            stack.enter_context(mock.patch(name, value))
        yield stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))


def to_fake(value: Any, device: str = "cuda") -> Any:
    """Return the tensors of a batch, or a module, as fake tensors of a device, within `fake_cuda`."""
    if isinstance(value, torch.nn.Module):
        return value.to(device)
    return tree_map(lambda leaf: leaf.to(device) if torch.is_tensor(leaf) else leaf, value)


@contextmanager
def no_waits() -> Iterator[None]:
    """Raise an error where the block would wait for a GPU. See the module for the errors."""
    with _Guard():
        yield


@contextmanager
def expected_waits(reason: str, value: float = 1) -> Iterator[list[str]]:
    """Allow waits inside of `no_waits`, for a reason; yield a list of them. There must be one.

    Args:
        reason: what is waited for.
        value: stands in for each value that is read or copied to the CPU. Copies are real tensors.
    """
    found: list[str] = []
    _Guard.expected.append((found, value))
    try:
        yield found
    finally:
        _Guard.expected.pop()
    assert found, f"nothing waits any more: {reason}"


def backward_stand_in(loss: torch.Tensor) -> None:
    """Fill the gradients of all parameters that a loss depends on, in place of `torch.Tensor.backward`."""
    nodes, seen = [loss.grad_fn], {None}
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        if hasattr(node, "variable"):
            gradient = torch.zeros_like(node.variable)
            node.variable.grad = gradient if node.variable.grad is None else node.variable.grad + gradient


class _StreamOrEvent:
    """Stands in for torch.cuda.Stream and torch.cuda.Event. Only `synchronize` makes the CPU wait."""

    def __init__(self, *_: Any) -> None:
        pass

    def record(self) -> None:
        pass

    def wait_stream(self, _: Any) -> None:
        pass

    def synchronize(self) -> None:
        _refuse("a stream or an event is synchronized")


class _Guard(TorchDispatchMode):
    """Checks each operation before the fake mode runs it."""

    expected: ClassVar[list[tuple[list[str], float]]] = []  # of each open `expected_waits`
    active: ClassVar[int] = 0

    def __enter__(self) -> _Guard:
        _Guard.active += 1
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _Guard.active -= 1
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and func.namespace == "aten":  # not decomposed yet
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        tensors = _tensors((args, kwargs))
        is_real = tensors and not any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if is_real and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if problem := _describe_wait(func, args, kwargs):
            _refuse(problem)
        if func is _ATEN._local_scalar_dense.default:
            with unset_fake_temporarily():
                return _stand_in(args[0]).item()
        if func in _NO_FAKE_KERNEL:
            return None
        try:
            result = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            raise HiddenWait(f"{_place()}: the result of {func} has a shape that depends on data") from None
        except RuntimeError as error:
            if "device" not in str(error):
                raise
            found = ", ".join(f"{tuple(t.shape)} on {t.device}" for t in tensors)
            raise WrongDevice(f"{_place()}: {func} mixes devices: {found}") from None
        for tensor in _tensors(result):
            if _on_gpu(tensor) and tensor.dtype == torch.float64 and tensor.ndim:
                raise WrongType(f"{_place()}: {func} returns float64 {tuple(tensor.shape)} on the GPU")
        if func is _ATEN._to_copy.default and _on_gpu(args[0]) and not _on_gpu(result):
            return _stand_in(result)
        return result


def _describe_wait(func: Any, args: tuple, kwargs: dict[str, Any]) -> str | None:
    """Return why an operation waits for the GPU, or None if it does not."""
    if func is _ATEN._local_scalar_dense.default:
        return "a value on the GPU is read (.item(), bool(), float())" if _on_gpu(args[0]) else None
    if func is _ATEN._to_copy.default:
        return _describe_copy(args[0], kwargs.get("device") or args[0].device, kwargs.get("non_blocking"))
    if func is _ATEN.copy_.default:
        return _describe_copy(args[1], args[0].device, any(args[2:]) or kwargs.get("non_blocking"))
    if func in (_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default) and _on_gpu(args[0]):
        for index in _tensors(args[1]):
            if not _on_gpu(index):
                return f"an index {tuple(index.shape)} is copied from the CPU to {args[0].device}"
            if index.dtype in (torch.bool, torch.uint8) and not (args[2:] and args[2].numel() == 1):
                return "a tensor on the GPU is indexed by a mask"
    return None


def _describe_copy(source: torch.Tensor, target: torch.device, non_blocking: bool | None) -> str | None:
    if non_blocking or _on_gpu(source) == (torch.device(target).type != "cpu"):
        return None
    return f"a tensor {tuple(source.shape)} is copied from {source.device} to {target}"


def _refuse(problem: str) -> None:
    """Raise a HiddenWait, unless waits are expected."""
    if _Guard.expected:
        _Guard.expected[-1][0].append(f"{_place()}: {problem}")
    elif _Guard.active:
        raise HiddenWait(f"{_place()}: {problem}, which waits for the GPU")


def _place() -> str:
    """Return file, line and function of the innermost frame that is not in PyTorch or in this file."""
    frames = [f for f in traceback.extract_stack() if "site-packages" not in f.filename]
    frame = next(f for f in reversed(frames) if f.filename != __file__ and "/torch/" not in f.filename)
    return f"{frame.filename.removeprefix(f'{_ROOT}/')}:{frame.lineno} ({frame.name})"


def _on_gpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type != "cpu"


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _stand_in(tensor: torch.Tensor) -> torch.Tensor:
    """Return a real tensor of the same shape and dtype."""
    value = _Guard.expected[-1][1] if _Guard.expected else 1
    with unset_fake_temporarily():
        return torch.full(tensor.shape, value, dtype=tensor.dtype)
