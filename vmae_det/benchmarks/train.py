"""The time and memory of training steps, beside those of another implementation.

`python -m vmae_det.benchmarks.train ORDER` is a process whose memory alone is measured.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from vmae_det.benchmarks.hugging_face import build_hugging_face, check_comparable, import_classes
from vmae_det.config import CfgNode, get_cfg
from vmae_det.engine.inspection import count_flops, count_tokens
from vmae_det.engine.parallel import compile_blocks
from vmae_det.engine.trainer import AMP_TYPES, to_device
from vmae_det.modeling import build_model, model_class
from vmae_det.solver import build_optimizer
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.process import peak_memory

OURS = "vmae_det"
PARTS = ("data", "forward", "backward", "optimizer")
_WARM_UP = 2
# Sides of the square matrices whose product sets the rate of a device: large enough for its best.
_MATRIX = {"cpu": 2048, "cuda": 8192}


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
    """

    batch: int
    threads: int = 2
    steps: int = 2
    repeats: int = 5
    compile: bool = False
    amp: str = "none"
    against: str = ""


@dataclass
class Contestant:
    """What one implementation took.

    Attributes:
        turns: for each turn, the median seconds of a step's parts.
        peak_bytes: largest memory of its own process above what it held before there was a model; of the
            GPU's memory, where there is one.
    """

    turns: list[dict[str, float]] = field(default_factory=list)
    peak_bytes: int = 0

    def seconds(self, part: str) -> float:
        """Median over the turns of a part of a step, of "step" for all of it."""
        return statistics.median(turn[part] for turn in self.turns)


@dataclass(frozen=True)
class Result:
    """Measurements of a run.

    Attributes:
        flops: of a step of the model (a multiply-add is two), three times those of its forward pass.
        matrix_flops: that the machine does in a second in products of matrices.
    """

    settings: Settings
    device: str
    flops: float
    matrix_flops: float
    contestants: dict[str, Contestant]

    @property
    def ratios(self) -> list[float]:
        """Our step over theirs, for each turn."""
        ours, *others = self.contestants.values()
        return [a["step"] / b["step"] for other in others for a, b in zip(ours.turns, other.turns)]

    def report(self) -> str:
        """A line for each contestant."""
        settings = self.settings
        lines = [
            f"{settings.batch} clips a step on {self.device}, precision: {settings.amp}, compiled: "
            f"{'yes' if settings.compile else 'no'}; median of {settings.repeats} turns of {settings.steps} "
            "steps",
            f"{'':12}{'step':>9}  {'clips/s':>8}{'data':>11}{'forward':>11}{'backward':>11}{'optimizer':>11}"
            f"{'memory':>10}",
        ]
        for name, found in self.contestants.items():
            step = found.seconds("step")
            parts = "".join(f"{found.seconds(part):9.3f} s" for part in PARTS)
            memory = f"{found.peak_bytes / 1e9:.2f} GB"
            lines.append(f"{name:12}{step:7.3f} s  {settings.batch / step:8.2f}{parts}{memory:>10}")
        rate = self.flops / self.contestants[OURS].seconds("step")
        lines.append(
            f"{rate / 1e9:.0f} GFLOP/s of the model, {rate / self.matrix_flops:.0%} of the "
            f"{self.matrix_flops / 1e9:.0f} GFLOP/s that products of matrices reach here"
        )
        if self.ratios:
            lines.append(
                f"{statistics.median(self.ratios):.2f} of Hugging Face's time, median over the turns "
                f"({min(self.ratios):.2f} to {max(self.ratios):.2f})"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """What json.dump takes."""
        contestants = {
            name: {part: found.seconds(part) for part in (*PARTS, "step")}
            | {"clips_per_second": self.settings.batch / found.seconds("step")}
            | asdict(found)
            for name, found in self.contestants.items()
        }
        rate = self.flops / self.contestants[OURS].seconds("step")
        figures = {
            "settings": asdict(self.settings),
            "device": self.device,
            "flops_per_step": self.flops,
            "flops_per_second": rate,
            "matrix_flops_per_second": self.matrix_flops,
            "share_of_matrix_rate": rate / self.matrix_flops,
            "contestants": contestants,
        }
        return figures | ({"ratio": statistics.median(self.ratios)} if self.ratios else {})


def benchmark_train(cfg: CfgNode, settings: Settings, progress: bool = True) -> Result:
    """Time training steps on made-up clips; with another implementation, the two take turns.

    A step is the batch's collation and copy to the device, forward, backward and optimizer, with a
    synchronisation of the device after each; "step" is the sum without the data.

    Raises:
        ConfigError: the config describes no pre-training, or one that the other implementation has not.
        UserError: the other implementation is not installed.
    """
    if model_class(cfg).task != "pretraining":
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: {cfg.MODEL.META_ARCHITECTURE}; benchmark train times pre-training, "
            "MaskedAutoencoder"
        )
    if settings.against:
        check_comparable(cfg)
    torch.set_num_threads(settings.threads)
    device = _device(cfg)
    names = [OURS, *([settings.against] if settings.against else [])]
    found = {name: Contestant() for name in names}
    total = len(names) * (settings.repeats + 1) + 1
    with tqdm(total=total, desc="turns", disable=not progress, leave=False) as bar:
        for name in names:
            found[name].peak_bytes = _memory_of_process(cfg, settings, name)
            bar.update()
        runners = {name: _Runner(cfg, settings, name, device) for name in names}
        for runner in runners.values():
            runner.turn(_WARM_UP)
        rates = []
        for _ in range(settings.repeats):
            for name, runner in runners.items():
                found[name].turns.append(runner.turn(settings.steps))
                bar.update()
            # Between the turns, so that what else goes on here weighs on both alike.
            rates.append(matrix_rate(device, AMP_TYPES[settings.amp] or torch.float32))
        bar.update()
    flops = 2 * 3 * count_flops(cfg, count_tokens(cfg)) * settings.batch
    return Result(settings, _device_name(device), flops, statistics.median(rates), found)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second in products of large square matrices, the best of five."""
    side = _MATRIX[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = min(seconds_of(lambda: a @ b, device) for _ in range(6))
    return 2 * side**3 / best


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


def _device(cfg: CfgNode) -> torch.device:
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        raise ConfigError("MODEL.DEVICE: cuda, but torch finds no GPU here; set it to cpu or auto")
    gpu = cfg.MODEL.DEVICE != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU, {torch.get_num_threads()} threads"


def _memory_of_process(cfg: CfgNode, settings: Settings, name: str) -> int:
    order = json.dumps({"cfg": cfg.dump(), "settings": asdict(settings), "name": name})
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, input=order, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-1])


def _measure_memory(order: dict[str, Any]) -> int:
    """Peak bytes of a few steps, in a process that did nothing before."""
    cfg = get_cfg()
    cfg.merge_from_other_cfg(CfgNode.load_cfg(order["cfg"]))
    settings = Settings(**order["settings"])
    torch.set_num_threads(settings.threads)
    device = _device(cfg)
    if order["name"] != OURS:
        import_classes()
    before = peak_memory()
    _Runner(cfg, settings, order["name"], device).turn(_WARM_UP)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_memory() - before


if __name__ == "__main__":
    print(_measure_memory(json.loads(sys.stdin.read())))
