"""Pickles of checkpoints: tensors, containers, text and numbers. No class or function they name is imported.

An object of any other class becomes a `StandIn`, which does nothing.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, NamedTuple

import torch

from vmae_det.utils.safe_pickle import ALLOWED_GLOBALS, RestrictedUnpickler

# Tensors may share storages, as tied and flattened parameters do, up to this multiple of the file's size.
_SHARING = 4
_ALWAYS_ALLOWED = 16 << 20  # bytes
_MAX_DIMENSIONS = 64
_MAX_NUMBERS = 1 << 60
_PLAIN = (str, bytes, int, float, bool, type(None), torch.dtype)


class StandIn(dict):
    """Stands for a class that is not read and for its objects; a kind of dict keeps its items.

    Args:
        name: of the class, or the kind of a tensor that is not dense.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class Storage(NamedTuple):
    """Memory of tensors; `dtype` is None where the pickle leaves it to each tensor."""

    dtype: torch.dtype | None
    data: torch.UntypedStorage


class _StorageType(NamedTuple):
    dtype: torch.dtype | None


_STORAGE_TYPES = {
    f"torch.{name}Storage": _StorageType(dtype)
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
        "QInt8": torch.qint8,
        "QUInt8": torch.quint8,
        "QInt32": torch.qint32,
    }.items()
} | dict.fromkeys(
    ("torch.UntypedStorage", "torch.storage.UntypedStorage", "torch.storage._UntypedStorage"),
    _StorageType(None),
)
_DTYPES = {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}

# Functions that make other tensors than dense ones.
_ODD_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor without values",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a subclass",
}
# Types that containers name, such as the factory of a defaultdict.
_BUILTINS = {
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")
    for name in ("dict", "int", "float", "str", "bool", "tuple", "object")
}


class TensorUnpickler(RestrictedUnpickler):
    """Loads what a checkpoint holds of tensors and plain data.

    Args:
        file: of pickles; reading beyond its end gives fewer bytes.
        open_storage: gives the memory for (type, key, number of elements), as the pickle names them.
        size: bytes of the whole file, which bound what its tensors may take.

    Attributes:
        passed_over: the classes and functions of what was passed over, in their order.
    """

    def __init__(
        self, file: BinaryIO, open_storage: Callable[[torch.dtype | None, str, int], Storage], size: int
    ) -> None:
        super().__init__(file, encoding="latin1")
        self.passed_over: dict[str, None] = {}
        self._open_storage = open_storage
        self._left = _SHARING * size + _ALWAYS_ALLOWED
        self._functions: dict[str, Callable[..., Any]] = ALLOWED_GLOBALS | {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_of_type,
            "torch._utils._rebuild_parameter": _first,
            "torch._utils._rebuild_parameter_with_state": _first,
            "torch._tensor._rebuild_from_type_v2": self._tensor_of_subclass,
            "torch.Size": _tuple,
            "torch.device": _first,
            "collections.Counter": self._dict,
        }
        for module in ("builtins", "__builtin__"):
            self._functions |= {f"{module}.list": _list, f"{module}.set": _set, f"{module}.frozenset": _set}
        self._callable = {id(function) for function in self._functions.values()}

    def find_class(self, module: str, name: str) -> Any:
        """The function, type or stand-in for a name; imports nothing."""
        full = re.sub(r"[^\w.<>]", "?", f"{module}.{name}"[:100])  # it may come to be printed
        for known in (self._functions, _STORAGE_TYPES, _DTYPES):
            if full in known:
                return known[full]
        if full not in _ODD_TENSORS and full not in _BUILTINS:
            self.passed_over[full] = None
        return StandIn(_ODD_TENSORS.get(full, full))

    def persistent_load(self, pid: Any) -> Any:
        """The storage that a pickle names."""
        if isinstance(pid, tuple) and pid[:1] == ("module",) and isinstance(pid[1], StandIn):
            return pid[1]  # of a pickled module, with its source code
        kind, storage_type, key, _, numbers, *view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or not isinstance(key, str):
            raise pickle.UnpicklingError("names something else than a storage")
        if any(part is not None for part in view):
            raise pickle.UnpicklingError("storages that are views of others, as PyTorch wrote before 1.0")
        _check_sizes((numbers,))
        return self._open_storage(storage_type.dtype, key, numbers)

    def _tensor(
        self,
        storage: Any,
        offset: int,
        size: Any,
        stride: Any,
        _grad: Any = None,
        _hooks: Any = None,
        bits: Any = None,
    ) -> torch.Tensor | StandIn:
        if bits:  # its values are the conjugates or negatives of what is stored
            return StandIn("a tensor with a conjugate or negative bit")
        return self._tensor_of_type(storage, offset, size, stride, None, None, storage.dtype)

    def _tensor_of_type(
        self,
        storage: Any,
        offset: int,
        size: Any,
        stride: Any,
        _grad: Any,
        _hooks: Any,
        dtype: Any,
        bits: Any = None,
    ) -> torch.Tensor | StandIn:
        if bits:
            return StandIn("a tensor with a conjugate or negative bit")
        if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a tensor without a storage or a type")
        size, stride = tuple(size), tuple(stride)
        _check_sizes((offset, *size))
        _check_sizes(stride)
        if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS:
            raise pickle.UnpicklingError(f"a tensor of {len(size)} dimensions with {len(stride)} strides")
        last = offset + sum((number - 1) * step for number, step in zip(size, stride))
        if 0 not in size and last >= storage.data.nbytes() // dtype.itemsize:
            raise pickle.UnpicklingError(f"a tensor {size} beyond the end of its storage")
        self._left -= math.prod(size) * dtype.itemsize
        if self._left < 0:
            raise pickle.UnpicklingError(f"tensors of far more bytes than the file has, {size} among them")
        return torch.empty(0, dtype=dtype).set_(storage.data, offset, size, stride)

    def _tensor_of_subclass(self, function: Any, _type: Any, arguments: tuple, *_: Any) -> Any:
        return self._call(function, arguments)

    def _dict(self, items: Any = ()) -> dict:
        result: dict = {}
        _update(result, items.items() if isinstance(items, dict) else items)
        return result

    def _call(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, StandIn):
            if function.name in ("copyreg._reconstructor", "copy_reg._reconstructor"):
                self.passed_over.pop(function.name, None)
                return self._call(arguments[0], ())  # what made objects before protocol 2
            return StandIn(function.name)
        if id(function) not in self._callable or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError(f"calls a {type(function).__name__}")
        try:
            return function(*arguments)
        except pickle.UnpicklingError:
            if function is ALLOWED_GLOBALS["numpy.core.multiarray.scalar"]:  # of no number
                return StandIn("numpy.generic")
            raise

    def _add(self, target: Any, items: Iterable[tuple[Any, Any]]) -> None:
        """Items of a dict; a stand-in that gets some was a kind of dict."""
        if not isinstance(target, dict):
            raise pickle.UnpicklingError(f"adds items to a {type(target).__name__}")
        if isinstance(target, StandIn):
            self.passed_over.pop(target.name, None)
        _update(target, items)

    def _load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _load_new(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _load_new_with_keywords(self) -> None:
        self.stack.pop()
        self._load_new()

    def _load_instance(self) -> None:
        arguments = tuple(self.pop_mark())
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        self.append(self._call(self.find_class(module, name), arguments))

    def _load_object(self) -> None:
        function, *arguments = self.pop_mark()
        self.append(self._call(function, tuple(arguments)))

    def _load_state(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, dict):  # an attribute of a state dict, or what a stand-in does without
            return
        self.stack.append(state)
        self._load_build()

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.append(self._dict(zip(items[::2], items[1::2])))

    def _load_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._add(self.stack[-1], [(key, value)])

    def _load_items(self) -> None:
        items = self.pop_mark()
        self._add(self.stack[-1], zip(items[::2], items[1::2]))

    def _load_append(self) -> None:
        value = self.stack.pop()
        _extend(self.stack[-1], [value])

    def _load_appends(self) -> None:
        items = self.pop_mark()
        _extend(self.stack[-1], items)

    def _load_set_items(self) -> None:
        items = self.pop_mark()
        if isinstance(self.stack[-1], set):
            self.stack[-1].update(filter(_is_plain, items))

    def _load_frozen_set(self) -> None:
        self.append(_set(self.pop_mark()))

    def _load_extension(self) -> None:
        raise pickle.UnpicklingError("names a class by a number of copyreg's")

    dispatch = RestrictedUnpickler.dispatch | {
        pickle.REDUCE[0]: _load_reduce,
        pickle.NEWOBJ[0]: _load_new,
        pickle.NEWOBJ_EX[0]: _load_new_with_keywords,
        pickle.INST[0]: _load_instance,
        pickle.OBJ[0]: _load_object,
        pickle.BUILD[0]: _load_state,
        pickle.DICT[0]: _load_dict,
        pickle.SETITEM[0]: _load_item,
        pickle.SETITEMS[0]: _load_items,
        pickle.APPEND[0]: _load_append,
        pickle.APPENDS[0]: _load_appends,
        pickle.ADDITEMS[0]: _load_set_items,
        pickle.FROZENSET[0]: _load_frozen_set,
        pickle.EXT1[0]: _load_extension,
        pickle.EXT2[0]: _load_extension,
        pickle.EXT4[0]: _load_extension,
    }


def _is_plain(key: Any) -> bool:
    """Whether a key is quick to hash and compare: nested tuples may take ages, and numbers of many digits."""
    if isinstance(key, tuple):
        return len(key) <= 16 and all(isinstance(part, _PLAIN) and _is_plain(part) for part in key)
    return isinstance(key, _PLAIN) and not (isinstance(key, int) and key.bit_length() > 64)


def _update(target: dict, items: Iterable[tuple[Any, Any]]) -> None:
    """Add the items whose keys are plain; the others go with the objects that are their keys."""
    for key, value in items:
        if _is_plain(key):
            target[key] = value


def _extend(target: Any, items: list) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, StandIn):
        raise pickle.UnpicklingError(f"appends to a {type(target).__name__}")


def _check_sizes(sizes: Iterable[Any]) -> None:
    sizes = tuple(sizes)
    if any(type(size) is not int or size < 0 for size in sizes):
        raise pickle.UnpicklingError("a size that is no whole number")
    if math.prod(max(size, 1) for size in sizes) > _MAX_NUMBERS:
        raise pickle.UnpicklingError("a size beyond all memory")


def _first(value: Any = None, *_: Any) -> Any:
    return value


def _tuple(items: Any = ()) -> tuple:
    return tuple(_list(items))


def _list(items: Any = ()) -> list:
    if isinstance(items, StandIn):
        return []
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise pickle.UnpicklingError(f"makes a list of a {type(items).__name__}")
    return list(items)


def _set(items: Any = ()) -> set:
    return set(filter(_is_plain, _list(items)))
