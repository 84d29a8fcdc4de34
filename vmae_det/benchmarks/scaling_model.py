"""A model of a training step with many processes: loading, computing, exchanging. Plain arithmetic.

step = max(loading, forward + backward + update + the part of the exchange that nothing hides)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from vmae_det.engine.inspection import FLOAT_BYTES, count
from vmae_det.modeling.backbone import Block

# What DDP gathers before it exchanges: its defaults, of the first message and of the others.
_FIRST_BUCKET, _BUCKET = 1024**2, 25 * 1024**2


@dataclass(frozen=True)
class Traffic:
    """What each step exchanges.

    Attributes:
        parallel: "ddp": gradients are reduced, then spread (two passes); "fsdp": weights are gathered
            before the forward and the backward pass, gradients are reduced (three passes).
        size: bytes of all gradients.
        messages: in how many pieces a pass goes.
        last: bytes of it that no computing can hide: gradients that are ready last, and weights that are
            needed first.
    """

    parallel: str
    size: int
    messages: int
    last: int

    @property
    def passes(self) -> int:
        """How often (n - 1) / n of all bytes leave each of n processes."""
        return 3 if self.parallel == "fsdp" else 2


@dataclass(frozen=True)
class Step:
    """Seconds of one step.

    Attributes:
        exchange: as long as it would take alone.
        exposed: the part of it that the step waits for.
    """

    forward: float
    backward: float
    update: float
    exchange: float = 0.0
    exposed: float = 0.0
    loading: float = 0.0

    @property
    def compute(self) -> float:
        """All but exchange and loading."""
        return self.forward + self.backward + self.update

    @property
    def work(self) -> float:
        """What the step takes when its clips are there."""
        return self.compute + self.exposed

    @property
    def seconds(self) -> float:
        """What it takes."""
        return max(self.loading, self.work)


def count_traffic(model: nn.Module, parallel: str) -> Traffic:
    """Of a model that is trained in fp32, mixed precision or not; "ddp" or "fsdp"."""
    size = FLOAT_BYTES * sum(p.numel() for p in model.parameters() if p.requires_grad)
    if parallel == "fsdp":  # a block at a time, then what lies outside of blocks
        blocks = [module for module in model.modules() if isinstance(module, Block)]
        # The first gathering and the last reduction of a block: two passes of its three.
        return Traffic(parallel, size, len(blocks) + 1, FLOAT_BYTES * max(map(count, blocks)) * 2 // 3)
    messages = 1 + math.ceil(max(size - _FIRST_BUCKET, 0) / _BUCKET)
    return Traffic(parallel, size, messages, min(size, _BUCKET))


def exchange_seconds(traffic: Traffic, processes: int, seconds_per_byte: float, latency: float) -> float:
    """Of a step's exchange alone, in rings (Patarasuk and Yuan 2009).

    Args:
        seconds_per_byte: that a process sends.
        latency: seconds of one pass with nothing in it.
    """
    if processes == 1:
        return 0.0
    sent = (processes - 1) / processes * traffic.size
    return traffic.passes * (sent * seconds_per_byte + traffic.messages * latency)


def exposed_seconds(traffic: Traffic, exchange: float, window: float, overlap: float = 1.0) -> float:
    """The part of an exchange that a step waits for.

    Args:
        exchange: seconds that it takes alone.
        window: seconds of computing in which it may run (see `window`).
        overlap: how much of what could be hidden is; below 1 where the two want the same cores, below 0
            where an exchange costs more within a step, by packing and waiting, than alone.
    """
    last = exchange * traffic.last / traffic.size
    return exchange - overlap * min(exchange - last, window)


def window(traffic: Traffic, forward: float, backward: float) -> float:
    """Seconds of computing behind which messages can hide: FSDP's also behind the forward pass."""
    return backward + (forward if traffic.parallel == "fsdp" else 0.0)
