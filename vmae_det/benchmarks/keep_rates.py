"""`benchmark detect --keep-rates`: time of a detector's forward pass by rate of token dropout."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vmae_det.benchmarks.training_step import seconds_of
from vmae_det.config import CfgNode
from vmae_det.data.transforms import pixel_rounding, resized_size
from vmae_det.engine.inspection import count_flops, count_tokens
from vmae_det.engine.setup import setup_device
from vmae_det.engine.trainer import AMP_TYPES
from vmae_det.modeling import build_model

_FRAME = (256, 340)  # height and width, those of AVA's and Kinetics' videos after resizing
_KEY = "MODEL.BACKBONE.TOKEN_KEEP_RATE"


@dataclass(frozen=True)
class KeepRateBenchmark:
    """Result of the benchmark. The first rate is the reference.

    Attributes:
        size: height and width of the clip.
        rates: keep rates.
        flops: multiply-adds of one clip with one person, by rate.
        seconds: of the turns of each rate. The rates take turns, so that turn i of all rates ran at about the
            same time.
    """

    size: tuple[int, int]
    rates: list[float]
    flops: list[float]
    seconds: list[list[float]]

    def speedups(self, number: int) -> list[float]:
        """Return by how much rate `number` is faster than the first one in each turn."""
        return [first / own for first, own in zip(self.seconds[0], self.seconds[number])]

    def report(self) -> str:
        """Return a line for each rate."""
        lines = [
            f"one clip of {self.size[0]} x {self.size[1]} pixels, random weights, one person",
            "keep rate   GFLOPs  ratio     median  speed-up  lowest to highest",
        ]
        for number, (rate, flops) in enumerate(zip(self.rates, self.flops)):
            seconds, speedups = statistics.median(self.seconds[number]), self.speedups(number)
            lines.append(
                f"{rate:9g}{flops / 1e9:9.1f}{flops / self.flops[0]:7.3f}{seconds:9.3f} s"
                f"{statistics.median(speedups):10.2f}  {min(speedups):.2f} to {max(speedups):.2f}"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        return asdict(self) | {"speedups": [self.speedups(number) for number in range(len(self.rates))]}


def benchmark_keep_rates(cfg: CfgNode, rates: Sequence[float], repeats: int) -> KeepRateBenchmark:
    """Time detectors with random weights that differ only in their keep rate, in the precision SOLVER.AMP.

    Args:
        repeats: turns of each rate, after one warm-up.
    """
    patch = cfg.MODEL.BACKBONE.PATCH_SIZE
    frame = resized_size(*_FRAME, cfg.INPUT.TEST_SHORT_SIDE, pixel_rounding(cfg.INPUT))
    height, width = (side + -side % patch for side in frame)
    device = setup_device(cfg)
    video = torch.randint(256, (1, 3, cfg.INPUT.NUM_FRAMES, height, width), dtype=torch.uint8, device=device)
    box = torch.tensor([[0.1, 0.1, 0.6, 0.9]], device=device) * torch.tensor(
        [width, height, width, height], device=device
    )
    batch = {"video": video, "boxes": [box], "person_scores": [torch.ones(1, device=device)]}
    flops, calls = [], []
    for rate in rates:
        own = cfg.clone()
        own.merge_from_list([_KEY, float(rate)])
        flops.append(count_flops(own, count_tokens(own), (height, width)))
        calls.append(_forward(own, batch, device))
    for call in calls:
        call()
    seconds = [[] for _ in rates]
    for _ in range(repeats):
        for turns, call in zip(seconds, calls):
            turns.append(seconds_of(call, device))
    return KeepRateBenchmark((height, width), [float(rate) for rate in rates], flops, seconds)


def _forward(cfg: CfgNode, batch: dict[str, Any], device: torch.device) -> Callable[[], Any]:
    """Return a function that scores a batch with a new model."""
    model, amp = build_model(cfg).to(device).eval(), AMP_TYPES[cfg.SOLVER.AMP]

    @torch.inference_mode()
    def run() -> None:
        with torch.autocast(device.type, amp) if amp else nullcontext():
            model(batch)

    return run
