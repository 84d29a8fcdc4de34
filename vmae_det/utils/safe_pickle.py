"""Pickles of plain data: containers, text, numbers and numpy arrays. Nothing that a pickle names is run."""

from __future__ import annotations

import io
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.utils.errors import DataError, quoted
from vmae_det.utils.input_files import open_input


class _PickledType:
    """Stands for numpy.dtype."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]


class PickledArray:
    """Stands for numpy.ndarray: numpy itself crashes on pickles that are broken in the right places.

    `to_numpy` gives the array.
    """

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = tuple(state[1:])

    @classmethod
    def from_buffer(
        cls, data: bytes, dtype: _PickledType, shape: tuple[int, ...], order: str
    ) -> PickledArray:
        """What numpy's pickles of protocol 5 call."""
        array = cls()
        array.state = (shape, dtype, order == "F", data)
        return array

    def to_numpy(self) -> np.ndarray:
        """The array; UnpicklingError if it is not of plain numbers."""
        try:
            shape, dtype, is_fortran, data = self.state
            if not re.fullmatch("[fiu][1248]", dtype.code) or dtype.order not in tuple("<>=|"):
                raise pickle.UnpicklingError("an array of something else than numbers")
            data = data.encode("latin1") if isinstance(data, str) else bytes(data)  # Python 2 had no bytes
            values = np.frombuffer(data, dtype=np.dtype(dtype.order + dtype.code))
            return values.reshape(shape, order="F" if is_fortran else "C")
        except (AttributeError, TypeError, ValueError, OverflowError):
            raise pickle.UnpicklingError("a broken array") from None


def _scalar(dtype: _PickledType, data: bytes | str) -> int | float | str:
    """A number of numpy, or a text, such as a key of a dict that was made of an array of names."""
    if re.fullmatch("[US][0-9]{1,9}", dtype.code):
        data = data.encode("latin1") if isinstance(data, str) else bytes(data)
        if dtype.code[0] == "S":
            return data.decode("latin1").rstrip("\0")
        encoding = "utf-32-be" if dtype.order == ">" else "utf-32-le"
        return data.decode(encoding).rstrip("\0")
    array = PickledArray()
    array.state = ((), dtype, False, data)
    return array.to_numpy().item()


def _empty_dict(*_: Any) -> dict:
    """Stands for the kinds of dict; their items come later."""
    return {}


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Bytes as old pickles hold them: text in latin1."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding}")
    return text.encode("latin1")


def _no_bytes(*content: Any) -> bytes:
    """Bytes of an empty array in the protocols before 3, which have no other way to write them."""
    if content:
        raise pickle.UnpicklingError("bytes made of something else")
    return b""


# What a pickle of arrays calls, under the names that the versions of numpy gave it.
ALLOWED_GLOBALS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": PickledArray,
    "numpy.dtype": _PickledType,
    "_codecs.encode": _encode_latin1,
    "numpy.core.multiarray._reconstruct": PickledArray,
    "numpy._core.multiarray._reconstruct": PickledArray,
    "numpy.core.numeric._frombuffer": PickledArray.from_buffer,
    "numpy._core.numeric._frombuffer": PickledArray.from_buffer,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "collections.OrderedDict": _empty_dict,
    "collections.defaultdict": _empty_dict,
    "builtins.bytes": _no_bytes,
    "__builtin__.bytes": _no_bytes,
    "builtins.list": list,
    "__builtin__.list": list,
}


class RestrictedUnpickler(pickle._Unpickler):
    """Loads containers, text, numbers and numpy arrays; refuses a pickle that wants to call anything else.

    In Python, not C: a few broken bytes make the C one ask for all of the memory.
    """

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; UnpicklingError if there is none."""
        try:
            return ALLOWED_GLOBALS[f"{module}.{name}"]
        except KeyError:
            refused = f"wants to run {module}.{name}; expected plain data and numpy arrays"
            raise pickle.UnpicklingError(refused) from None

    def _load_build(self) -> None:
        if not isinstance(self.stack[-2], (PickledArray, _PickledType)):
            raise pickle.UnpicklingError("wants to change something else than an array")
        super().load_build()

    def _load_bytearray8(self) -> None:
        # Python makes room for the length that the file claims, before it looks at what is there.
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    dispatch = pickle._Unpickler.dispatch | {
        pickle.BUILD[0]: _load_build,
        pickle.BYTEARRAY8[0]: _load_bytearray8,
    }


def describe_value(value: Any, depth: int = 2) -> str:
    """What a value of a pickle is, in a few words: `a dict of 3, such as 'boxes': an array (5, 4)`."""
    if isinstance(value, PickledArray):
        shape = value.state[0] if value.state else None
        return f"an array {shape}" if isinstance(shape, tuple) and len(shape) < 10 else "an array"
    if isinstance(value, dict) and value and depth:
        key, first = next(iter(value.items()))
        name = quoted(key) if isinstance(key, str) else describe_value(key, 0)
        return f"a dict of {len(value)}, such as {name}: {describe_value(first, depth - 1)}"
    if isinstance(value, list | tuple) and value and depth:
        return f"a {type(value).__name__} of {len(value)}, such as {describe_value(value[0], depth - 1)}"
    return f"{'an' if type(value).__name__[0] in 'aeiou' else 'a'} {type(value).__name__}"


def safe_load_pickle(path: Path, holds: str) -> Any:
    """The content of a pickle; arrays come as PickledArray, text of Python 2 as latin1.

    Args:
        holds: what it should hold, for the error.

    Raises:
        DataError: the file cannot be read, is no pickle, is broken, or wants to run something.
    """
    with open_input(path) as file:
        content = io.BytesIO(file.read())
    try:
        return RestrictedUnpickler(content, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise DataError(f"is not a pickle of {holds}: {error}", path) from None
    except Exception as error:  # a broken pickle raises whatever its broken content leads to
        raise DataError(f"is not a pickle of {holds}: {type(error).__name__}: {error}", path) from None
