"""What `benchmark gpu-scaling` assumes of hardware, and the models it is asked about."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

SIZES = {"S": "small", "B": "base", "L": "large", "H": "huge"}


def _assume(default: float, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Cluster:
    """What is assumed of the hardware; by default machines with eight H100, by their data sheets."""

    matrix_rate: float = _assume(989e12, "a GPU's bf16 operations a second in matrix products")
    share: float = _assume(0.35, "of the matrix rate that training reaches")
    block_floor: float = _assume(3e-4, "seconds that one block takes, both ways, however few its clips")
    memory_rate: float = _assume(3.35e12, "bytes a second of a GPU's memory")
    gpus: float = _assume(8, "GPUs of a machine")
    nvlink: float = _assume(450e9, "bytes a second that a GPU sends to others of its machine")
    network: float = _assume(400e9, "bytes a second that a machine sends to others")
    link_share: float = _assume(0.8, "of the rates of both kinds of links that an exchange reaches")
    latency: float = _assume(1e-5, "seconds of a hop")
    cores: float = _assume(14, "CPU cores for each GPU")
    loading_rate: float = _assume(21.6, "clips a second that a core loads")
    batch: float = _assume(1024, "clips of a step, of all GPUs")

    def seconds_per_byte(self, gpus: float) -> float:
        """That a GPU of so many sends, by the slowest link.

        A ring leaves each machine once, so that all of the machine's network serves it.
        """
        rate = self.nvlink if gpus <= self.gpus else min(self.nvlink, self.network)
        return 1 / (rate * self.link_share)

    def pass_latency(self, gpus: float) -> float:
        """Seconds of one pass with nothing in it: a chain within machines, a tree between them (NCCL 2.4)."""
        inside = min(gpus, self.gpus) - 1
        return self.latency * (inside + math.ceil(math.log2(max(gpus / self.gpus, 1))))
