"""The time and memory of training steps, beside those of another implementation."""

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

from vmae_det.benchmarks.hugging_face import check_comparable
from vmae_det.benchmarks.steps import OURS, PARTS, Settings, seconds_of
from vmae_det.config import CfgNode
from vmae_det.engine.inspection import count_flops, count_tokens
from vmae_det.engine.setup import get_device
from vmae_det.engine.trainer import AMP_TYPES
from vmae_det.modeling import model_class
from vmae_det.utils import cpu
from vmae_det.utils.errors import ConfigError, UserError

# Sides of the square matrices whose product sets the rate of a device: large enough for its best.
_MATRIX = {"cpu": 2048, "cuda": 8192}


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
    device = get_device(cfg)
    cpu.use_fast_gemm()  # for the rate of products: the machine's best
    names = [OURS, *([settings.against] if settings.against else [])]
    found = {name: Contestant() for name in names}
    rates = []
    total = len(names) * (settings.repeats + 1)
    with ExitStack() as stack, tqdm(total=total, desc="turns", disable=not progress, leave=False) as bar:
        processes = {}
        for name in names:
            processes[name] = stack.enter_context(_Process(cfg, settings, name))
            bar.update()
        for _ in range(settings.repeats):
            for name, process in processes.items():
                answer = process.turn(settings.steps)
                found[name].turns.append(answer["turn"])
                found[name].peak_bytes = answer["peak_bytes"]
                bar.update()
            # Between the turns, so that what else goes on here weighs on both alike.
            rates.append(matrix_rate(device, AMP_TYPES[settings.amp] or torch.float32))
    flops = 2 * 3 * count_flops(cfg, count_tokens(cfg)) * settings.batch
    return Result(settings, _device_name(device), flops, statistics.median(rates), found)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second in products of large square matrices, the best of five."""
    side = _MATRIX[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = min(seconds_of(lambda: a @ b, device) for _ in range(6))
    return 2 * side**3 / best


class _Process:
    """A process that takes steps of one implementation, and is idle in between; a context that ends it.

    It is warm once it is entered.
    """

    def __init__(self, cfg: CfgNode, settings: Settings, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vmae_det.benchmarks.steps"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt is this process's matter
        )
        self._order = {"cfg": cfg.dump(), "settings": asdict(settings), "name": name}

    def __enter__(self) -> _Process:
        try:
            self._ask(json.dumps(self._order))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def turn(self, steps: int) -> dict[str, Any]:
        """`turn`, the median seconds of each part, and `peak_bytes`."""
        return self._ask(str(steps))

    def _ask(self, line: str) -> dict[str, Any]:
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise UserError(f"the process that times {self.name} ended with status {self.process.wait()}")
        return json.loads(answer)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU, {torch.get_num_threads()} threads"
