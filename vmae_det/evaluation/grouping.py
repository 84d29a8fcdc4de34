"""Sorting and looking up millions of keys of rows that a file lists in runs of equal ones."""

from __future__ import annotations

import numpy as np
import polars as pl


def unique(values: np.ndarray) -> np.ndarray:
    """The sorted unique values."""
    return pl.Series("value", values[_run_starts(values)]).unique().sort().to_numpy()


def index_in(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """int32 index of each value in a table of unique values, -1 where it is absent."""
    starts = _run_starts(values)
    indices = pl.DataFrame({"value": table, "index": np.arange(len(table), dtype=np.int32)})
    once = pl.DataFrame({"value": values[starts]})
    joined = once.join(indices, on="value", how="left", maintain_order="left")
    index = joined["index"].fill_null(-1).to_numpy()
    return np.repeat(index, np.diff(starts, append=len(values)))


def _run_starts(values: np.ndarray) -> np.ndarray:
    """Where runs of equal values start: files list a keyframe's rows together, so they are few."""
    is_start = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=is_start[1:])
    return np.flatnonzero(is_start)


def stable_order(ids: np.ndarray, limit: int) -> np.ndarray:
    """Stable argsort of whole numbers in 0 .. limit - 1, in linear time: numpy sorts 16 bits by radix."""
    order = np.argsort((ids & 0xFFFF).astype(np.uint16), kind="stable")
    if limit > 1 << 16:
        order = order[np.argsort((ids >> 16).astype(np.uint16)[order], kind="stable")]
    return order
