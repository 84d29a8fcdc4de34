"""`benchmark train`: time and memory of a training step, optionally compared with another implementation.

`python -m vmae_det.benchmarks.train` is the worker process of one implementation. It takes steps on
request. Its memory and its PyTorch settings are therefore those of one implementation only.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from vmae_det.benchmarks.hugging_face import build_hugging_face, check_comparable, import_transformers
from vmae_det.benchmarks.synthetic_videos import random_clips
from vmae_det.benchmarks.training_step import STEP_PARTS, WARM_UP_STEPS, TimedTrainingStep, seconds_of
from vmae_det.config import CfgNode, get_cfg
from vmae_det.engine.compilation import compile_model
from vmae_det.engine.inspection import count_flops, count_tokens
from vmae_det.engine.setup import get_device
from vmae_det.engine.trainer import AMP_TYPES, to_device
from vmae_det.modeling import build_model, model_class
from vmae_det.solver import build_optimizer
from vmae_det.utils import cpu
from vmae_det.utils.errors import ConfigError, UserError
from vmae_det.utils.resource_usage import peak_memory

OURS = "vmae_det"
PARTS = ("data", *STEP_PARTS)
# Side of the square matrices whose multiplication measures the GEMM rate: large enough for the peak rate.
_GEMM_SIDE = {"cpu": 2048, "cuda": 8192}


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


@dataclass
class Measurements:
    """Measurements of one implementation.

    Attributes:
        turns: median seconds of a step's parts for each turn.
        peak_bytes: peak memory of its process beyond that before the model was built; on a GPU, peak GPU
            memory.
    """

    turns: list[dict[str, float]] = field(default_factory=list)
    peak_bytes: int = 0

    def seconds(self, part: str) -> float:
        """Return the median over the turns of a part of a step; "step": of the entire step."""
        return statistics.median(turn[part] for turn in self.turns)


@dataclass(frozen=True)
class TrainBenchmark:
    """Result of the benchmark.

    Attributes:
        settings: settings of the benchmark.
        device: name of the device.
        flops: floating-point operations of a step of the model (a multiply-add is two), three times those of
            its forward pass.
        gemm_rate: floating-point operations per second of the device in matrix multiplications.
        measurements: by name of the implementation, ours first.
    """

    settings: Settings
    device: str
    flops: float
    gemm_rate: float
    measurements: dict[str, Measurements]

    @property
    def ratios(self) -> list[float]:
        """Time of our step divided by that of the other implementation, for each turn."""
        ours, *others = self.measurements.values()
        return [a["step"] / b["step"] for other in others for a, b in zip(ours.turns, other.turns)]

    def report(self) -> str:
        """Return a table with a line for each implementation."""
        settings = self.settings
        lines = [
            f"{settings.batch} clips per step on {self.device}, precision: {settings.amp}, compiled: "
            f"{'yes' if settings.compile else 'no'}; median of {settings.repeats} turns of {settings.steps} "
            "steps",
            f"{'':12}{'step':>9}  {'clips/s':>8}{'data':>11}{'forward':>11}{'backward':>11}{'optimizer':>11}"
            f"{'memory':>10}",
        ]
        for name, measured in self.measurements.items():
            step = measured.seconds("step")
            parts = "".join(f"{measured.seconds(part):9.3f} s" for part in PARTS)
            memory = f"{measured.peak_bytes / 1e9:.2f} GB"
            lines.append(f"{name:12}{step:7.3f} s  {settings.batch / step:8.2f}{parts}{memory:>10}")
        rate = self.flops / self.measurements[OURS].seconds("step")
        lines.append(
            f"{rate / 1e9:.0f} GFLOP/s of the model, {rate / self.gemm_rate:.0%} of the "
            f"{self.gemm_rate / 1e9:.0f} GFLOP/s of matrix multiplications (GEMM) on this device"
        )
        if self.ratios:
            lines.append(
                f"{statistics.median(self.ratios):.2f} of Hugging Face's time, median over the turns "
                f"({min(self.ratios):.2f} to {max(self.ratios):.2f})"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        contestants = {
            name: {part: measured.seconds(part) for part in (*PARTS, "step")}
            | {"clips_per_second": self.settings.batch / measured.seconds("step")}
            | asdict(measured)
            for name, measured in self.measurements.items()
        }
        rate = self.flops / self.measurements[OURS].seconds("step")
        figures = {
            "settings": asdict(self.settings),
            "device": self.device,
            "flops_per_step": self.flops,
            "flops_per_second": rate,
            "matrix_flops_per_second": self.gemm_rate,
            "share_of_matrix_rate": rate / self.gemm_rate,
            "contestants": contestants,
        }
        return figures | ({"ratio": statistics.median(self.ratios)} if self.ratios else {})


def benchmark_train(cfg: CfgNode, settings: Settings, progress: bool = True) -> TrainBenchmark:
    """Time training steps on synthetic clips; with another implementation, the two take turns.

    The parts of a step are data (collation and copy to the device), forward, backward and optimizer. The
    device is synchronized after each part. "step" is the sum without data.

    Raises:
        ConfigError: the config is not for pre-training, or the other implementation does not support it.
        UserError: the other implementation is not installed.
    """
    if model_class(cfg).task != "pretraining":
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: got {cfg.MODEL.META_ARCHITECTURE}, but benchmark train times "
            "pre-training: expected MaskedAutoencoder"
        )
    if settings.against:
        check_comparable(cfg)
    torch.set_num_threads(settings.threads)
    device = get_device(cfg)
    cpu.use_fast_gemm()  # measure the peak GEMM rate
    names = [OURS, *([settings.against] if settings.against else [])]
    measurements = {name: Measurements() for name in names}
    gemm_rates = []
    total = len(names) * (settings.repeats + 1)
    with ExitStack() as stack, tqdm(total=total, desc="turns", disable=not progress, leave=False) as bar:
        workers = {}
        for name in names:
            workers[name] = stack.enter_context(_Worker(cfg, settings, name))
            bar.update()
        for _ in range(settings.repeats):
            for name, worker in workers.items():
                reply = worker.run_turn(settings.steps)
                measurements[name].turns.append(reply["turn"])
                measurements[name].peak_bytes = reply["peak_bytes"]
                bar.update()
            # Measured between the turns, so that other load of the machine affects both in the same way.
            gemm_rates.append(measure_gemm_rate(device, AMP_TYPES[settings.amp] or torch.float32))
    flops = 2 * 3 * count_flops(cfg, count_tokens(cfg)) * settings.batch
    return TrainBenchmark(settings, _device_name(device), flops, statistics.median(gemm_rates), measurements)


def measure_gemm_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return floating-point operations per second in GEMMs of large square matrices, the best of six."""
    side = _GEMM_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = min(seconds_of(lambda: a @ b, device) for _ in range(6))
    return 2 * side**3 / best


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU, {torch.get_num_threads()} threads"


# ---------------------------------------------------------------- worker processes


class _Worker:
    """The worker process of one implementation, idle between turns; a context manager that kills it.

    The worker has warmed up when the context is entered.
    """

    def __init__(self, cfg: CfgNode, settings: Settings, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vmae_det.benchmarks.train"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt is handled by the parent
        )
        self._order = {"cfg": cfg.dump(), "settings": asdict(settings), "name": name}

    def __enter__(self) -> _Worker:
        try:
            self._send(json.dumps(self._order))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def run_turn(self, steps: int) -> dict[str, Any]:
        """Take some steps; return `turn`, the median seconds of each part, and `peak_bytes`."""
        return self._send(str(steps))

    def _send(self, line: str) -> dict[str, Any]:
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            reply = self.process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            raise UserError(f"the worker that times {self.name} exited with status {self.process.wait()}")
        return json.loads(reply)


def run_worker(order: dict[str, Any]) -> None:
    """Warm up, then read numbers of steps from standard input and print the seconds of each turn as JSON.

    Replies also contain `peak_bytes`, the peak memory so far beyond that before the model was built.
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
    while True:
        is_gpu = device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(device) if is_gpu else peak_memory() - memory_before
        print(json.dumps({"turn": turn, "peak_bytes": peak}), file=replies, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        turn = training.run_turn(int(line))


class _Training:
    """A model with its optimizer, and synthetic clips to train it on."""

    def __init__(self, cfg: CfgNode, settings: Settings, name: str, device: torch.device) -> None:
        model, optimizer, self.to_inputs = _BUILDERS[name](cfg, device)
        if settings.compile:
            model = _compile(cfg, model, name)
        self.step = TimedTrainingStep(model, optimizer, device, settings.amp, scale_loss=True)
        self.device = device
        self.samples = random_clips(cfg, settings.batch)

    def run_turn(self, steps: int) -> dict[str, float]:
        """Return the median seconds of each part over some steps, and of the entire step without data."""
        taken = [self._run_step() for _ in range(steps)]
        medians = {part: statistics.median(step[part] for step in taken) for part in PARTS}
        total = statistics.median(sum(step[part] for part in STEP_PARTS) for step in taken)
        return medians | {"step": total}

    def _run_step(self) -> dict[str, float]:
        inputs: dict[str, Any] = {}

        def prepare_data() -> None:
            batch = {name: torch.stack([sample[name] for sample in self.samples]) for name in self.samples[0]}
            inputs.update(self.to_inputs(to_device(batch, self.device)))

        return {"data": seconds_of(prepare_data, self.device)} | self.step.run(inputs)


def _compile(cfg: CfgNode, model: nn.Module, name: str) -> nn.Module:
    if name != OURS:
        return torch.compile(model)
    compile_model(cfg, model)
    return model


def _build_ours(cfg: CfgNode, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer, Callable]:
    model = build_model(cfg).to(device).train()
    return model, build_optimizer(cfg, model), lambda batch: {"batch": batch}


_BUILDERS = {OURS: _build_ours, "huggingface": build_hugging_face}


if __name__ == "__main__":
    run_worker(json.loads(sys.stdin.readline()))
