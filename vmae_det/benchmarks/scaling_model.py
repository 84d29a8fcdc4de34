"""A model of a training step with many processes, shared by the benchmarks `scaling` and `gpu-scaling`.

step = max(loading, forward + backward + update + the part of the communication that is not hidden)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# DDP's default sizes in bytes of the first bucket of gradients and of the others.
_FIRST_BUCKET, _BUCKET = 1024**2, 25 * 1024**2


@dataclass(frozen=True)
class Traffic:
    """The communication of each step.

    Attributes:
        parallel: "ddp": an all-reduce of the gradients (two passes); "fsdp": an all-gather of the weights
            before the forward and before the backward pass and a reduce-scatter of the gradients (three
            passes).
        size: bytes of all gradients.
        messages: number of messages per pass.
        last: bytes that cannot be hidden by computing: the gradients that are ready last, and the weights
            that are needed first.
    """

    parallel: str
    size: int
    messages: int
    last: int

    @property
    def passes(self) -> int:
        """Number of passes; in each, (n - 1) / n of all bytes leave each of n processes."""
        return 3 if self.parallel == "fsdp" else 2


@dataclass(frozen=True)
class Step:
    """Seconds of one step.

    Attributes:
        exchange: duration of the communication by itself.
        exposed: the part of the communication that the step waits for.
    """

    forward: float
    backward: float
    update: float
    exchange: float = 0.0
    exposed: float = 0.0
    loading: float = 0.0

    @property
    def compute(self) -> float:
        """Seconds of forward, backward and update."""
        return self.forward + self.backward + self.update

    @property
    def work(self) -> float:
        """Seconds of the step without waiting for its clips."""
        return self.compute + self.exposed

    @property
    def seconds(self) -> float:
        """Seconds of the step."""
        return max(self.loading, self.work)


def count_traffic(model: nn.Module, parallel: str) -> Traffic:
    """Return the traffic of a model with fp32 gradients; `parallel` is "ddp" or "fsdp"."""
    from vmae_det.engine.inspection import FLOAT_BYTES, count
    from vmae_det.modeling.backbones.blocks import find_blocks

    size = FLOAT_BYTES * sum(p.numel() for p in model.parameters() if p.requires_grad)
    if parallel == "fsdp":  # one message per block, and one for everything outside of the blocks
        blocks = find_blocks(model)
        # The first all-gather and the last reduce-scatter of a block: two of its three passes.
        largest = FLOAT_BYTES * max(map(count, blocks)) if blocks else size
        return Traffic(parallel, size, len(blocks) + 1, largest * 2 // 3)
    messages = 1 + math.ceil(max(size - _FIRST_BUCKET, 0) / _BUCKET)
    return Traffic(parallel, size, messages, min(size, _BUCKET))


def exchange_seconds(traffic: Traffic, processes: int, seconds_per_byte: float, latency: float) -> float:
    """Return the seconds of a step's communication by itself, in rings (Patarasuk and Yuan 2009).

    Args:
        seconds_per_byte: seconds that a process takes to send a byte.
        latency: seconds of an empty pass.
    """
    if processes == 1:
        return 0.0
    sent = (processes - 1) / processes * traffic.size
    return traffic.passes * (sent * seconds_per_byte + traffic.messages * latency)


def exposed_seconds(traffic: Traffic, exchange: float, window: float, overlap: float = 1.0) -> float:
    """Return the part of the communication that a step waits for.

    Args:
        exchange: seconds of the communication by itself.
        window: seconds of computing that can hide it (see `overlap_window`).
        overlap: fraction of the hideable part that is hidden. Below 1 if communication and computing compete
            for the same cores; below 0 if communication takes longer within a step, because of packing and
            waiting, than by itself.
    """
    last = exchange * traffic.last / traffic.size
    return exchange - overlap * min(exchange - last, window)


def overlap_window(traffic: Traffic, forward: float, backward: float) -> float:
    """Return the seconds of computing that can hide messages: with FSDP also those of the forward pass."""
    return backward + (forward if traffic.parallel == "fsdp" else 0.0)
