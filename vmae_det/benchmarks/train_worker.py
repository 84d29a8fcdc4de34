"""The process of one implementation in `benchmark train`: `python -m vmae_det.benchmarks.train_worker`.

It takes steps on request. Its memory and its PyTorch settings are therefore those of one implementation only.
"""

from __future__ import annotations

import functools
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data._utils.pin_memory import pin_memory

from vmae_det.benchmarks.hugging_face import build_hugging_face, import_transformers
from vmae_det.benchmarks.synthetic_videos import random_clips
from vmae_det.benchmarks.training_step import (
    STEP_PARTS,
    WARM_UP_STEPS,
    TimedTrainingStep,
    count_host_waits,
    seconds_of,
)
from vmae_det.config import CfgNode, get_cfg
from vmae_det.data.loader import collate
from vmae_det.engine.compilation import compile_model
from vmae_det.engine.setup import get_device
from vmae_det.engine.trainer import BatchCopier
from vmae_det.modeling import build_model
from vmae_det.solver import build_optimizer
from vmae_det.utils import cpu
from vmae_det.utils.resource_usage import peak_memory

OURS = "vmae_det"
PARTS = ("data", *STEP_PARTS)
_BATCHES = 4  # different ones, so that the numbers of persons differ from step to step


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark.

    Attributes:
        batch: clips per step.
        threads: CPU threads.
        steps: steps per turn.
        repeats: turns of each implementation.
        compile: torch.compile the models.
        amp: "none", "bf16" or "fp16".
        against: "huggingface", or "" for no comparison.
        alike: apply the CPU settings of our commands (`utils/cpu.py`) to the other implementation, too.
    """

    batch: int
    threads: int = 2
    steps: int = 2
    repeats: int = 5
    compile: bool = False
    amp: str = "none"
    against: str = ""
    alike: bool = False


def run_worker(order: dict[str, Any]) -> None:
    """Warm up, then read numbers of steps from standard input and print the result of each turn as JSON.

    A reply contains `turn`, see `_Training.run_turn`; `peak_bytes`, the peak memory so far beyond that before
    the model was built; `host_waits` of a step, None on a CPU; and `graphs`, the number of graphs compiled so
    far.
    """
    replies, sys.stdout = sys.stdout, sys.stderr  # nothing else may be printed between the replies
    cfg = get_cfg()
    cfg.merge_from_other_cfg(CfgNode.load_cfg(order["cfg"]))
    settings, name = Settings(**order["settings"]), order["name"]
    torch.set_num_threads(settings.threads)
    device = get_device(cfg)
    if name != OURS:
        import_transformers()
    if device.type == "cpu" and (name == OURS or settings.alike):
        cpu.use_fast_gemm()
        cpu.keep_freed_memory()
    memory_before = peak_memory()
    training = _Training(cfg, settings, name, device)
    turn = training.run_turn(WARM_UP_STEPS)
    is_gpu = device.type == "cuda"
    host_waits = count_host_waits(training.run_step) if is_gpu else None
    while True:
        peak = torch.cuda.max_memory_allocated(device) if is_gpu else peak_memory() - memory_before
        reply = {"turn": turn, "peak_bytes": peak, "host_waits": host_waits, "graphs": _count_graphs()}
        print(json.dumps(reply), file=replies, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        turn = training.run_turn(int(line))


class _Training:
    """A model with its optimizer, and synthetic batches in memory to train it on."""

    def __init__(self, cfg: CfgNode, settings: Settings, name: str, device: torch.device) -> None:
        model, optimizer, self.to_inputs = _BUILDERS[name](cfg, device)
        if settings.compile:
            model = _compile(cfg, model, name)
        self.step = TimedTrainingStep(model, optimizer, device, settings.amp, scale_loss=True)
        self.device = device
        self.copy_batch = BatchCopier(device)
        self.batches = self._make_batches(random_clips(cfg, settings.batch + _BATCHES - 1))

    def _make_batches(self, samples: list[dict[str, torch.Tensor]]) -> Iterator[Callable[[], dict]]:
        """Cycle through functions that return the batches. For a GPU, batches are collated and pinned."""
        count = len(samples) - _BATCHES + 1
        groups = [[[sample] for sample in samples[first : first + count]] for first in range(_BATCHES)]
        if self.device.type != "cuda":
            return itertools.cycle([functools.partial(collate, group) for group in groups])
        batches = [pin_memory(collate(group)) for group in groups]
        return itertools.cycle([lambda batch=batch: batch for batch in batches])

    def run_turn(self, steps: int) -> dict[str, float]:
        """Return the median seconds of each part over some steps, and of an entire step.

        "step" is the sum of the parts without "data". On a GPU it includes "data", and is the mean of steps
        between which nothing waits for the GPU.
        """
        taken = [self._time_parts() for _ in range(steps)]
        medians = {part: statistics.median(step[part] for step in taken) for part in PARTS}
        if self.device.type == "cuda":
            total = seconds_of(lambda: [self.run_step() for _ in range(steps)], self.device) / steps
        else:
            total = statistics.median(sum(step[part] for part in STEP_PARTS) for step in taken)
        return medians | {"step": total}

    def run_step(self) -> None:
        """Take a step without waiting for the device."""
        self.step.run(self._load_inputs())

    def _time_parts(self) -> dict[str, float]:
        inputs: dict[str, Any] = {}
        data = seconds_of(lambda: inputs.update(self._load_inputs()), self.device)
        return {"data": data} | self.step.time_parts(inputs)

    def _load_inputs(self) -> dict[str, Any]:
        return self.to_inputs(self.copy_batch(next(self.batches)()))


def _compile(cfg: CfgNode, model: nn.Module, name: str) -> nn.Module:
    if name != OURS:
        return torch.compile(model)
    compile_model(cfg, model)
    return model


def _count_graphs() -> int:
    """Number of graphs that torch.compile has compiled in this process."""
    if "torch._dynamo.utils" not in sys.modules:
        return 0
    return sys.modules["torch._dynamo.utils"].counters["stats"]["unique_graphs"]


def _build_ours(cfg: CfgNode, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer, Callable]:
    model = build_model(cfg).to(device).train()
    return model, build_optimizer(cfg, model), lambda batch: {"batch": batch}


_BUILDERS = {OURS: _build_ours, "huggingface": build_hugging_face}


if __name__ == "__main__":
    run_worker(json.loads(sys.stdin.readline()))
