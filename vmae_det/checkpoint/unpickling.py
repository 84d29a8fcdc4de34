"""Safe unpickler for checkpoints. It loads tensors, containers, strings and numbers, and imports nothing.

An object of any other class becomes a `Placeholder`. No class or function that a pickle names is imported or
called.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, NamedTuple

import torch

from vmae_det.utils.safe_pickle import ALLOWED_GLOBALS, RestrictedUnpickler

# Tied and flattened parameters share storages. Together, tensors may be this many times as large as the file.
_MAX_STORAGE_REUSE = 4
_ALWAYS_ALLOWED = 16 << 20  # bytes
_MAX_DIMENSIONS = 64
_MAX_ELEMENTS = 1 << 60
_PLAIN_TYPES = (str, bytes, int, float, bool, type(None), torch.dtype)


class Placeholder(dict):
    """Replaces a class that is not imported, and its instances. It keeps the items of a dict subclass.

    Args:
        name: name of the class, or the kind of a tensor that is not dense.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class Storage(NamedTuple):
    """Memory of one or more tensors. `dtype` is None where each tensor has its own dtype."""

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

# Functions that rebuild tensors other than dense ones.
_UNSUPPORTED_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor without values",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a subclass",
}
# Types that containers refer to, such as the factory of a defaultdict.
_BUILTINS = {
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")
    for name in ("dict", "int", "float", "str", "bool", "tuple", "object")
}


class TensorUnpickler(RestrictedUnpickler):
    """Unpickles the tensors and plain data of a checkpoint.

    Args:
        file: pickle file. Reading past its end must return fewer bytes.
        open_storage: returns the storage for (dtype, key, number of elements), as stored in the pickle.
        file_size: size of the whole checkpoint in bytes. It limits the memory that the tensors may use.

    Attributes:
        skipped: names of the classes and functions that were replaced by placeholders, in order.
    """

    def __init__(
        self,
        file: BinaryIO,
        open_storage: Callable[[torch.dtype | None, str, int], Storage],
        file_size: int,
    ) -> None:
        super().__init__(file, encoding="latin1")
        self.skipped: dict[str, None] = {}
        self._open_storage = open_storage
        self._bytes_left = _MAX_STORAGE_REUSE * file_size + _ALWAYS_ALLOWED
        self._functions: dict[str, Callable[..., Any]] = ALLOWED_GLOBALS | {
            "torch._utils._rebuild_tensor": self._rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": self._rebuild_tensor,
            "torch._utils._rebuild_tensor_v3": self._rebuild_tensor_with_dtype,
            "torch._utils._rebuild_parameter": _first_argument,
            "torch._utils._rebuild_parameter_with_state": _first_argument,
            "torch._tensor._rebuild_from_type_v2": self._rebuild_tensor_subclass,
            "torch.Size": _make_tuple,
            "torch.device": _first_argument,
            "collections.Counter": self._make_dict,
        }
        for module in ("builtins", "__builtin__"):
            self._functions |= {
                f"{module}.list": _make_list,
                f"{module}.set": _make_set,
                f"{module}.frozenset": _make_set,
            }
        self._callable_ids = {id(function) for function in self._functions.values()}

    def find_class(self, module: str, name: str) -> Any:
        """Return the known function or type of this name, or a placeholder. Nothing is imported."""
        full_name = re.sub(r"[^\w.<>]", "?", f"{module}.{name}"[:100])  # safe to print
        for known in (self._functions, _STORAGE_TYPES, _DTYPES):
            if full_name in known:
                return known[full_name]
        if full_name not in _UNSUPPORTED_TENSORS and full_name not in _BUILTINS:
            self.skipped[full_name] = None
        return Placeholder(_UNSUPPORTED_TENSORS.get(full_name, full_name))

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage with this persistent ID."""
        if isinstance(pid, tuple) and pid[:1] == ("module",) and isinstance(pid[1], Placeholder):
            return pid[1]  # a pickled module with its source code
        kind, storage_type, key, _, num_elements, *view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or not isinstance(key, str):
            raise pickle.UnpicklingError("a persistent ID that is not a storage")
        if any(part is not None for part in view):
            raise pickle.UnpicklingError("storages that are views, as written by PyTorch before 1.0")
        _check_sizes((num_elements,))
        return self._open_storage(storage_type.dtype, key, num_elements)

    def _rebuild_tensor(
        self,
        storage: Any,
        offset: int,
        size: Any,
        stride: Any,
        _requires_grad: Any = None,
        _hooks: Any = None,
        conj_or_neg: Any = None,
    ) -> torch.Tensor | Placeholder:
        if conj_or_neg:  # the values are the conjugates or negatives of those in the storage
            return Placeholder("a tensor with a conjugate or negative bit")
        return self._rebuild_tensor_with_dtype(storage, offset, size, stride, None, None, storage.dtype)

    def _rebuild_tensor_with_dtype(
        self,
        storage: Any,
        offset: int,
        size: Any,
        stride: Any,
        _requires_grad: Any,
        _hooks: Any,
        dtype: Any,
        conj_or_neg: Any = None,
    ) -> torch.Tensor | Placeholder:
        if conj_or_neg:
            return Placeholder("a tensor with a conjugate or negative bit")
        if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a tensor without a storage or a dtype")
        size, stride = tuple(size), tuple(stride)
        _check_sizes((offset, *size))
        _check_sizes(stride)
        if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS:
            raise pickle.UnpicklingError(f"a tensor of {len(size)} dimensions with {len(stride)} strides")
        last = offset + sum((length - 1) * step for length, step in zip(size, stride))
        if 0 not in size and last >= storage.data.nbytes() // dtype.itemsize:
            raise pickle.UnpicklingError(f"a tensor {size} past the end of its storage")
        self._bytes_left -= math.prod(size) * dtype.itemsize
        if self._bytes_left < 0:
            raise pickle.UnpicklingError(f"tensors far larger than the file, including one of size {size}")
        return torch.empty(0, dtype=dtype).set_(storage.data, offset, size, stride)

    def _rebuild_tensor_subclass(self, function: Any, _type: Any, arguments: tuple, *_: Any) -> Any:
        return self._call(function, arguments)

    def _make_dict(self, items: Any = ()) -> dict:
        result: dict = {}
        _update(result, items.items() if isinstance(items, dict) else items)
        return result

    def _call(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, Placeholder):
            if function.name in ("copyreg._reconstructor", "copy_reg._reconstructor"):
                self.skipped.pop(function.name, None)
                return self._call(arguments[0], ())  # creates objects in protocols before 2
            return Placeholder(function.name)
        if id(function) not in self._callable_ids or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError(f"a call of a {type(function).__name__}")
        try:
            return function(*arguments)
        except pickle.UnpicklingError:
            if function is ALLOWED_GLOBALS["numpy.core.multiarray.scalar"]:  # a scalar that is not a number
                return Placeholder("numpy.generic")
            raise

    def _add_items(self, target: Any, items: Iterable[tuple[Any, Any]]) -> None:
        """Add items to a dict. A placeholder that gets items replaces a dict subclass."""
        if not isinstance(target, dict):
            raise pickle.UnpicklingError(f"items added to a {type(target).__name__}")
        if isinstance(target, Placeholder):
            self.skipped.pop(target.name, None)
        _update(target, items)

    def _load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _load_newobj(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _load_newobj_ex(self) -> None:
        self.stack.pop()  # keyword arguments
        self._load_newobj()

    def _load_inst(self) -> None:
        arguments = tuple(self.pop_mark())
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        self.append(self._call(self.find_class(module, name), arguments))

    def _load_obj(self) -> None:
        function, *arguments = self.pop_mark()
        self.append(self._call(function, tuple(arguments)))

    def _load_state(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, dict):  # drop attributes of dicts and the state of placeholders
            return
        self.stack.append(state)
        self._load_build()

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.append(self._make_dict(zip(items[::2], items[1::2])))

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._add_items(self.stack[-1], [(key, value)])

    def _load_setitems(self) -> None:
        items = self.pop_mark()
        self._add_items(self.stack[-1], zip(items[::2], items[1::2]))

    def _load_append(self) -> None:
        value = self.stack.pop()
        _extend(self.stack[-1], [value])

    def _load_appends(self) -> None:
        items = self.pop_mark()
        _extend(self.stack[-1], items)

    def _load_additems(self) -> None:
        items = self.pop_mark()
        if isinstance(self.stack[-1], set):
            self.stack[-1].update(filter(_is_plain, items))

    def _load_frozenset(self) -> None:
        self.append(_make_set(self.pop_mark()))

    def _load_ext(self) -> None:
        raise pickle.UnpicklingError("a class given by a copyreg extension code")

    dispatch = RestrictedUnpickler.dispatch | {
        pickle.REDUCE[0]: _load_reduce,
        pickle.NEWOBJ[0]: _load_newobj,
        pickle.NEWOBJ_EX[0]: _load_newobj_ex,
        pickle.INST[0]: _load_inst,
        pickle.OBJ[0]: _load_obj,
        pickle.BUILD[0]: _load_state,
        pickle.DICT[0]: _load_dict,
        pickle.SETITEM[0]: _load_setitem,
        pickle.SETITEMS[0]: _load_setitems,
        pickle.APPEND[0]: _load_append,
        pickle.APPENDS[0]: _load_appends,
        pickle.ADDITEMS[0]: _load_additems,
        pickle.FROZENSET[0]: _load_frozenset,
        pickle.EXT1[0]: _load_ext,
        pickle.EXT2[0]: _load_ext,
        pickle.EXT4[0]: _load_ext,
    }


def _is_plain(key: Any) -> bool:
    """Return whether a key is fast to hash and compare. Nested tuples and very large integers are not."""
    if isinstance(key, tuple):
        return len(key) <= 16 and all(isinstance(part, _PLAIN_TYPES) and _is_plain(part) for part in key)
    return isinstance(key, _PLAIN_TYPES) and not (isinstance(key, int) and key.bit_length() > 64)


def _update(target: dict, items: Iterable[tuple[Any, Any]]) -> None:
    """Add the items with plain keys. Items whose keys are objects are dropped."""
    for key, value in items:
        if _is_plain(key):
            target[key] = value


def _extend(target: Any, items: list) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Placeholder):
        raise pickle.UnpicklingError(f"items appended to a {type(target).__name__}")


def _check_sizes(sizes: Iterable[Any]) -> None:
    sizes = tuple(sizes)
    if any(type(size) is not int or size < 0 for size in sizes):
        raise pickle.UnpicklingError("a size that is not a non-negative integer")
    if math.prod(max(size, 1) for size in sizes) > _MAX_ELEMENTS:
        raise pickle.UnpicklingError("a size larger than any memory")


def _first_argument(value: Any = None, *_: Any) -> Any:
    return value


def _make_tuple(items: Any = ()) -> tuple:
    return tuple(_make_list(items))


def _make_list(items: Any = ()) -> list:
    if isinstance(items, Placeholder):
        return []
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise pickle.UnpicklingError(f"a list made from a {type(items).__name__}")
    return list(items)


def _make_set(items: Any = ()) -> set:
    return set(filter(_is_plain, _make_list(items)))
