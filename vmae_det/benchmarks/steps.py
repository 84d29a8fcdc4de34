"""Training steps of one implementation, timed by part.

`python -m vmae_det.benchmarks.steps` is a process that takes steps when it is told to: its memory is that of
one implementation alone, and so are its settings of PyTorch.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vmae_det.benchmarks.hugging_face import build_hugging_face, import_classes
from vmae_det.config import CfgNode, get_cfg
from vmae_det.engine.parallel import compile_blocks
from vmae_det.engine.setup import get_device
from vmae_det.engine.trainer import AMP_TYPES, to_device
from vmae_det.modeling import build_model
from vmae_det.solver import build_optimizer
from vmae_det.utils import cpu
from vmae_det.utils.resource_usage import peak_memory

OURS = "vmae_det"
PARTS = ("data", "forward", "backward", "optimizer")
WARM_UP = 6  # until freed memory suffices for a step


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        batch: clips of a step.
        threads: of the CPU.
        steps: of a turn.
        repeats: turns of each contestant.
        compile: whether torch.compile makes the models.
        amp: "none", "bf16" or "fp16".
        against: "huggingface", or nothing.
        alike: whether theirs gets what our commands set on a CPU, too (`utils/cpu.py`).
    """

    batch: int
    threads: int = 2
    steps: int = 2
    repeats: int = 5
    compile: bool = False
    amp: str = "none"
    against: str = ""
    alike: bool = False


class _Runner:
    """A model with its optimizer, and clips to train it on."""

    def __init__(self, cfg: CfgNode, settings: Settings, name: str, device: torch.device) -> None:
        model, self.optimizer, self.to_inputs = _BUILDERS[name](cfg, device)
        self.model = _compiled(model, name) if settings.compile else model
        self.device = device
        self.amp = AMP_TYPES[settings.amp]
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.amp == "fp16")
        self.samples = made_up_clips(cfg, settings.batch)

    def turn(self, steps: int) -> dict[str, float]:
        """Median seconds of each part over some steps, and of the whole step without its data."""
        taken = [self._step() for _ in range(steps)]
        medians = {part: statistics.median(step[part] for step in taken) for part in PARTS}
        whole = statistics.median(sum(step[part] for part in PARTS[1:]) for step in taken)
        return medians | {"step": whole}

    def _step(self) -> dict[str, float]:
        made: dict[str, Any] = {}

        def data() -> None:
            batch = {name: torch.stack([sample[name] for sample in self.samples]) for name in self.samples[0]}
            made["inputs"] = self.to_inputs(to_device(batch, self.device))

        def forward() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            context = torch.autocast(self.device.type, self.amp) if self.amp else nullcontext()
            with context:
                made["losses"] = self.model(**made["inputs"])

        def backward() -> None:
            self.scaler.scale(made["losses"]["loss"]).backward()

        def optimizer() -> None:
            self.scaler.step(self.optimizer)
            self.scaler.update()

        return {
            part: seconds_of(work, self.device)
            for part, work in zip(PARTS, (data, forward, backward, optimizer))
        }


def _compiled(model: nn.Module, name: str) -> nn.Module:
    if name != OURS:
        return torch.compile(model)
    compile_blocks(model)
    return model


def _ours(cfg: CfgNode, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer, Callable]:
    model = build_model(cfg).to(device).train()
    return model, build_optimizer(cfg, model), lambda batch: {"batch": batch}


_BUILDERS = {OURS: _ours, "huggingface": build_hugging_face}


def made_up_clips(cfg: CfgNode, clips: int) -> list[dict[str, torch.Tensor]]:
    """Samples of noise: `video`, `seed`, and `target` where other frames are predicted."""
    generator = torch.Generator().manual_seed(0)
    side = cfg.INPUT.CROP_SIZE
    frames = {"video": cfg.INPUT.NUM_FRAMES, "target": cfg.MODEL.RECONSTRUCTION.NUM_FRAMES}
    return [
        {
            name: torch.randint(0, 256, (3, number, side, side), generator=generator, dtype=torch.uint8)
            for name, number in frames.items()
            if number
        }
        | {"seed": torch.tensor(clip)}
        for clip in range(clips)
    ]


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """What some work takes, until the device has done it."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def serve(order: dict[str, Any]) -> None:
    """Warm up, then answer lines on standard input: a number of steps by the seconds of a turn, as JSON.

    Each answer holds `peak_bytes`, too: the largest memory so far above that before there was a model.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed is no answer
    cfg = get_cfg()
    cfg.merge_from_other_cfg(CfgNode.load_cfg(order["cfg"]))
    settings, name = Settings(**order["settings"]), order["name"]
    torch.set_num_threads(settings.threads)
    device = get_device(cfg)
    if name != OURS:
        import_classes()
    if device.type == "cpu" and (name == OURS or settings.alike):
        cpu.use_fast_gemm()
        cpu.keep_freed_memory()
    before = peak_memory()
    runner = _Runner(cfg, settings, name, device)
    turn = runner.turn(WARM_UP)
    while True:
        gpu = device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(device) if gpu else peak_memory() - before
        print(json.dumps({"turn": turn, "peak_bytes": peak}), file=answers, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        turn = runner.turn(int(line))


if __name__ == "__main__":
    serve(json.loads(sys.stdin.readline()))
