"""`benchmark train`: time and memory of a training step, optionally compared with another implementation."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from vmae_det.benchmarks.gpu_peaks import peak_flops
from vmae_det.benchmarks.hugging_face import check_comparable
from vmae_det.benchmarks.train_worker import OURS, PARTS, Settings
from vmae_det.benchmarks.training_step import seconds_of
from vmae_det.config import CfgNode
from vmae_det.engine.inspection import count_flops, count_tokens
from vmae_det.engine.setup import get_device
from vmae_det.engine.trainer import AMP_TYPES
from vmae_det.modeling import model_class
from vmae_det.utils import cpu
from vmae_det.utils.errors import ConfigError, UserError

# Side of the square matrices whose multiplication measures the GEMM rate: large enough for the peak rate.
_GEMM_SIDE = {"cpu": 2048, "mps": 4096, "cuda": 8192}
_TASKS = ("pretraining", "contrastive", "classification", "detection")


@dataclass
class Measurements:
    """Measurements of one implementation.

    Attributes:
        turns: median seconds of a step's parts for each turn.
        peak_bytes: peak memory of its process beyond that before the model was built; on a GPU, peak GPU
            memory.
        host_waits: how often the host waits for the GPU in a step; None on a CPU.
        graphs: number of graphs compiled in the warm-up, then after each turn.
    """

    turns: list[dict[str, float]] = field(default_factory=list)
    peak_bytes: int = 0
    host_waits: int | None = None
    graphs: list[int] = field(default_factory=list)

    def add(self, reply: dict[str, Any]) -> None:
        """Add the reply of a turn."""
        self.turns.append(reply["turn"])
        self.add_state(reply)

    def add_state(self, reply: dict[str, Any]) -> None:
        """Add a reply without the times of its turn."""
        self.peak_bytes, self.host_waits = reply["peak_bytes"], reply["host_waits"]
        self.graphs.append(reply["graphs"])

    @property
    def late_graphs(self) -> int:
        """Number of graphs compiled after the warm-up: for other numbers of persons, or by mistake."""
        return self.graphs[-1] - self.graphs[0]

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
            its forward pass. With a frozen backbone, those of the forward pass.
        gemm_rate: measured floating-point operations per second of the device in matrix multiplications.
        peak: the same from the data sheet of a GPU; None if unknown.
        measurements: by name of the implementation, ours first.
    """

    settings: Settings
    device: str
    flops: float
    gemm_rate: float
    peak: float | None
    measurements: dict[str, Measurements]

    @property
    def ratios(self) -> list[float]:
        """Time of our step divided by that of the other implementation, for each turn."""
        ours, *others = self.measurements.values()
        return [a["step"] / b["step"] for other in others for a, b in zip(ours.turns, other.turns)]

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilization: the model's rate as a fraction of `peak`."""
        return self.peak and self.flops / self.measurements[OURS].seconds("step") / self.peak

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
        ours = self.measurements[OURS]
        if self.mfu is not None:
            lines.append(f"MFU {self.mfu:.1%} of the {self.peak / 1e12:.0f} TFLOP/s of its data sheet")
        if ours.host_waits is not None:
            lines.append(f"the host waits for the GPU {ours.host_waits} times in a step")
        if settings.compile:
            lines.append(
                f"{ours.graphs[0]} graphs compiled in the warm-up, {ours.late_graphs} during the measurement"
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
            "data_sheet_flops_per_second": self.peak,
            "mfu": self.mfu,
            "contestants": contestants,
        }
        return figures | ({"ratio": statistics.median(self.ratios)} if self.ratios else {})


def benchmark_train(cfg: CfgNode, settings: Settings, progress: bool = True) -> TrainBenchmark:
    """Time training steps on synthetic clips; with another implementation, the two take turns.

    The parts of a step are data (collation and copy to the device), forward, backward and optimizer. The
    device is synchronized after each part. "step" is the sum without data. On a GPU, "step" is measured
    separately: it includes the copy of a batch from pinned memory, and nothing waits for the GPU between
    steps.

    Raises:
        ConfigError: the task of the config is not supported, or not by the other implementation.
        UserError: the other implementation is not installed.
    """
    if model_class(cfg).task not in _TASKS:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: {cfg.MODEL.META_ARCHITECTURE} has the task "
            f"'{model_class(cfg).task}', but benchmark train supports {', '.join(_TASKS)}"
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
            measurements[name].add_state(workers[name].first_reply)
            bar.update()
        for _ in range(settings.repeats):
            for name, worker in workers.items():
                measurements[name].add(worker.run_turn(settings.steps))
                bar.update()
            # Measured between the turns, so that other load of the machine affects both in the same way.
            gemm_rates.append(measure_gemm_rate(device, AMP_TYPES[settings.amp] or torch.float32))
    flops = 2 * _passes(cfg) * count_flops(cfg, count_tokens(cfg)) * settings.batch
    name = _device_name(device)
    return TrainBenchmark(
        settings, name, flops, statistics.median(gemm_rates), peak_flops(name, settings.amp), measurements
    )


def _passes(cfg: CfgNode) -> int:
    """Cost of a step in forward passes: the backward pass costs two, if the backbone is trained.

    Half of the forward pass of MoCo v3 is that of the momentum encoder, which has no backward pass.
    """
    task = model_class(cfg).task
    is_probe = task == "classification" and cfg.MODEL.CLASSIFIER.LINEAR_PROBE
    return 1 if is_probe else 2 if task == "contrastive" else 3


def measure_gemm_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return floating-point operations per second in GEMMs of large square matrices, the best of six."""
    side = _GEMM_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = min(seconds_of(lambda: a @ b, device) for _ in range(6))
    return 2 * side**3 / best


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "MPS"
    return f"the CPU, {torch.get_num_threads()} threads"


# ---------------------------------------------------------------- worker processes


class _Worker:
    """The worker process of one implementation, idle between turns; a context manager that kills it.

    The worker has warmed up when the context is entered.
    """

    def __init__(self, cfg: CfgNode, settings: Settings, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vmae_det.benchmarks.train_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt is handled by the parent
        )
        self._order = {"cfg": cfg.dump(), "settings": asdict(settings), "name": name}

    def __enter__(self) -> _Worker:
        try:
            self.first_reply = self._send(json.dumps(self._order))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def run_turn(self, steps: int) -> dict[str, Any]:
        """Take some steps; return the reply (see `run_worker`)."""
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
