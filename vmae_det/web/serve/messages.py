"""Messages between the server and the process that decodes a video: a kind, JSON and arrays.

A file from outside could make a decoder send anything. So nothing is unpickled, and sizes are limited.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch

_MAX_HEADER = 2**20  # bytes
_MAX_ARRAY = 2**31  # bytes: a clip of 64 frames of 4K video has 1.6e9
_DTYPES = ("uint8", "int64", "float32", "float64")


class Message(NamedTuple):
    """A message.

    Args:
        kind: what it is.
        content: JSON.
        arrays: arrays of uint8, int64, float32 or float64.
    """

    kind: str
    content: Any = None
    arrays: Sequence[np.ndarray] = ()


class MessageError(Exception):
    """The other process sent something that is not a message."""


def send(connection: Connection, message: Message) -> None:
    """Send a message.

    Raises:
        OSError: the other process has ended.
    """
    arrays = [np.ascontiguousarray(array) for array in message.arrays]
    kinds = [[array.dtype.name, array.shape] for array in arrays]
    connection.send_bytes(json.dumps([message.kind, message.content, kinds]).encode())
    for array in arrays:
        connection.send_bytes(array.reshape(-1).view(np.uint8))


def receive(connection: Connection) -> Message:
    """Wait for a message.

    Raises:
        EOFError, OSError: the other process has ended.
        MessageError: it sent something else, or too much.
    """
    try:
        kind, content, kinds = json.loads(connection.recv_bytes(_MAX_HEADER))
        arrays = []
        for dtype, shape in kinds:
            if dtype not in _DTYPES or math.prod(shape) * np.dtype(dtype).itemsize > _MAX_ARRAY:
                raise MessageError(f"refused an array of {dtype} {shape}")
            arrays.append(np.frombuffer(bytearray(connection.recv_bytes(_MAX_ARRAY)), dtype).reshape(shape))
    except (ValueError, TypeError) as error:
        raise MessageError(str(error)) from None
    return Message(str(kind), content, arrays)


def pack(batch: Mapping[str, Any]) -> tuple[dict[str, int | None], list[np.ndarray]]:
    """Return the layout and the arrays of a batch, whose values are tensors or lists of tensors or arrays.

    The layout is the length of each list, and None for a tensor.
    """
    layout: dict[str, int | None] = {}
    arrays: list[np.ndarray] = []
    for name, value in batch.items():
        is_list = isinstance(value, (list, tuple))
        layout[name] = len(value) if is_list else None
        arrays += [np.asarray(item) for item in (value if is_list else [value])]
    return layout, arrays


def unpack(layout: Mapping[str, int | None], arrays: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return the batch of `pack`, with tensors.

    Raises:
        MessageError: the layout does not fit the arrays.
    """
    tensors = iter([torch.from_numpy(array) for array in arrays])
    try:
        return {
            name: next(tensors) if count is None else [next(tensors) for _ in range(count)]
            for name, count in layout.items()
        }
    except (StopIteration, RuntimeError, TypeError, AttributeError) as error:
        raise MessageError(f"the arrays do not fit {layout!r:.200}: {error}") from None
