"""Loading of untrusted pickles: containers, text, numbers and numpy arrays only.

No function or class that a pickle names is imported or called.
"""

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


class _PickledDtype:
    """Replaces numpy.dtype."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]


class PickledArray:
    """Replaces numpy.ndarray, because numpy crashes on some corrupt pickles. See `to_numpy`."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = tuple(state[1:])

    @classmethod
    def from_buffer(
        cls, data: bytes, dtype: _PickledDtype, shape: tuple[int, ...], order: str
    ) -> PickledArray:
        """Build an array; called by numpy's pickles of protocol 5."""
        array = cls()
        array.state = (shape, dtype, order == "F", data)
        return array

    def to_numpy(self) -> np.ndarray:
        """Return the array; raise UnpicklingError if it is corrupt or not numeric."""
        try:
            shape, dtype, is_fortran, data = self.state
            if not re.fullmatch("[fiu][1248]", dtype.code) or dtype.order not in tuple("<>=|"):
                raise pickle.UnpicklingError("an array that is not numeric")
            data = data.encode("latin1") if isinstance(data, str) else bytes(data)  # Python 2 has no bytes
            values = np.frombuffer(data, dtype=np.dtype(dtype.order + dtype.code))
            return values.reshape(shape, order="F" if is_fortran else "C")
        except (AttributeError, TypeError, ValueError, OverflowError):
            raise pickle.UnpicklingError("a corrupt array") from None


def _scalar(dtype: _PickledDtype, data: bytes | str) -> int | float | str:
    """Return a numpy scalar as a Python number, or as text if it is a numpy string."""
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
    """Replaces dict types. The pickle adds the items later."""
    return {}


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Return the bytes that old pickles store as latin1 text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"expected bytes stored as latin1, got {encoding}")
    return text.encode("latin1")


def _empty_bytes(*content: Any) -> bytes:
    """Return b"", which protocols before 3 store as a call without arguments."""
    if content:
        raise pickle.UnpicklingError("expected bytes() without arguments")
    return b""


# Globals that pickles of arrays use, under the names of all numpy versions, and their safe replacements.
ALLOWED_GLOBALS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": PickledArray,
    "numpy.dtype": _PickledDtype,
    "_codecs.encode": _encode_latin1,
    "numpy.core.multiarray._reconstruct": PickledArray,
    "numpy._core.multiarray._reconstruct": PickledArray,
    "numpy.core.numeric._frombuffer": PickledArray.from_buffer,
    "numpy._core.numeric._frombuffer": PickledArray.from_buffer,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "collections.OrderedDict": _empty_dict,
    "collections.defaultdict": _empty_dict,
    "builtins.bytes": _empty_bytes,
    "__builtin__.bytes": _empty_bytes,
    "builtins.list": list,
    "__builtin__.list": list,
}


class RestrictedUnpickler(pickle._Unpickler):
    """Loads containers, text, numbers and numpy arrays. Raises UnpicklingError for any other global.

    Based on the Python implementation, because the C one can allocate all memory for a few corrupt bytes.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a global; raise UnpicklingError if it has none."""
        try:
            return ALLOWED_GLOBALS[f"{module}.{name}"]
        except KeyError:
            problem = f"expected plain data and numpy arrays, got a reference to {module}.{name}"
            raise pickle.UnpicklingError(problem) from None

    def _load_build(self) -> None:
        if not isinstance(self.stack[-2], (PickledArray, _PickledDtype)):
            raise pickle.UnpicklingError("expected to set the state of an array, got another object")
        super().load_build()

    def _load_bytearray8(self) -> None:
        # The base class allocates the declared length before it reads the data.
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    dispatch = pickle._Unpickler.dispatch | {
        pickle.BUILD[0]: _load_build,
        pickle.BYTEARRAY8[0]: _load_bytearray8,
    }


def describe_value(value: Any, depth: int = 2) -> str:
    """Describe a value in an error message, for example `a dict of 3, such as 'boxes': an array (5, 4)`."""
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


def safe_load_pickle(path: Path, expected: str) -> Any:
    """Load a pickle. Arrays are returned as PickledArray. Text of Python 2 is decoded as latin1.

    Args:
        expected: the expected content, for error messages.

    Raises:
        DataError: the file cannot be read, is not a pickle, is corrupt, or references other globals than
            ALLOWED_GLOBALS.
    """
    with open_input(path) as file:
        content = io.BytesIO(file.read())
    try:
        return RestrictedUnpickler(content, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise DataError(f"not a pickle of {expected}: {error}", path) from None
    except Exception as error:  # a corrupt pickle can raise any exception
        raise DataError(f"not a pickle of {expected}: {type(error).__name__}: {error}", path) from None
