"""Steps of pre-training with 1, 2, 4 ... processes of this machine, beside what a model of them predicts.

Each process has as many clips, whatever their number. The model's constants come from the first two numbers.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from tqdm import tqdm

from vmae_det.benchmarks.scaling_model import (
    Step,
    Traffic,
    count_traffic,
    exchange_seconds,
    exposed_seconds,
    window,
)
from vmae_det.benchmarks.steps import WARM_UP, made_up_clips, seconds_of
from vmae_det.config import CfgNode
from vmae_det.data.loader import collate
from vmae_det.engine.inspection import FLOAT_BYTES, empty_model
from vmae_det.engine.launch import launch
from vmae_det.engine.parallel import is_sharded, no_gradient_sync, parallelize
from vmae_det.engine.setup import setup_device
from vmae_det.engine.trainer import AMP_TYPES, to_device
from vmae_det.modeling import build_model, model_class
from vmae_det.solver import build_optimizer
from vmae_det.utils import distributed
from vmae_det.utils.errors import ConfigError, UserError

_PARTS = ("forward", "backward", "update")
_FITTED = 2  # numbers of processes from which the constants come


@dataclass(frozen=True)
class Run:
    """What so many processes took, in seconds: medians over the steps, of the slowest process in each.

    Attributes:
        step: with the exchange.
        compute: of steps without exchange, of all processes side by side.
        forward, backward, update: their sum is `compute`.
        exchange: that of a step's bytes, alone.
        sending: of a process's cores, in that exchange.
        empty: an all-reduce of one number.
        steps: those that `step` is the median of.
    """

    processes: int
    threads: int
    step: float
    forward: float
    backward: float
    update: float
    compute: float
    exchange: float
    sending: float
    empty: float
    steps: list[float]


@dataclass(frozen=True)
class Fit:
    """The model's constants, from two runs; processes share `cores`, or have a device each (None).

    Attributes:
        runs: the two, by their number of processes.
        seconds_per_byte: that a process sends, with the cores that it needs.
        hop: seconds of a hop of an empty message, alike.
        busy: cores that a process keeps busy while it sends.
        overlap: how much of the exchange that could be hidden is, at most 1; see `exposed_seconds`.
    """

    runs: dict[int, Run]
    traffic: Traffic
    cores: int | None
    seconds_per_byte: float
    hop: float
    busy: float
    overlap: float

    def predict(self, processes: int) -> Step:
        """The step of so many processes."""
        known = self.runs[max(n for n in self.runs if n <= processes)]
        # A core serves so many times as many threads as in the run that is known.
        slower = _crowd(processes, threads_of(processes, self.cores), self.cores) / _crowd(
            known.processes, known.threads, self.cores
        )
        forward, backward, update = (slower * part for part in (known.forward, known.backward, known.update))
        crowd = _crowd_of_senders(processes, self.busy, self.cores)
        exchange = exchange_seconds(
            self.traffic, processes, crowd * self.seconds_per_byte, crowd * self.hop * (processes - 1)
        )
        hidden_by = window(self.traffic, forward, backward)
        exposed = exposed_seconds(self.traffic, exchange, hidden_by, self.overlap)
        return Step(forward, backward, update, exchange, exposed)


def threads_of(processes: int, cores: int | None) -> int:
    """Of each process, on the CPU."""
    return max((cores or 1) // processes, 1)


def _crowd(processes: int, threads: int, cores: int | None) -> float:
    """Processes for each core's worth of them: 1 where each has one core, 1/2 where each has two."""
    return 1.0 if cores is None else processes / min(processes * threads, cores)


def _crowd_of_senders(processes: int, busy: float, cores: int | None) -> float:
    """How many times as long as with free cores processes take to send: one that waits leaves its core."""
    return 1.0 if cores is None else max(processes * busy / cores, 1.0)


def fit(runs: Sequence[Run], traffic: Traffic, cores: int | None) -> Fit:
    """Constants from the runs of one process and of several."""
    run = runs[1]
    busy = run.sending / run.exchange if run.exchange else 0.0
    crowd = _crowd_of_senders(run.processes, busy, cores)
    hop = run.empty / 2 / (run.processes - 1)  # an all-reduce has two passes
    moving = max(run.exchange - traffic.passes * traffic.messages * hop * (run.processes - 1), 0)
    sent = traffic.passes * (run.processes - 1) / run.processes * traffic.size
    alone = exchange_seconds(traffic, run.processes, moving / sent, hop * (run.processes - 1))
    most = alone - exposed_seconds(traffic, alone, window(traffic, run.forward, run.backward))
    hidden = alone - (run.step - run.compute)
    overlap = min(hidden / most, 1.0) if most else 0.0
    known = {run.processes: run for run in runs}
    return Fit(known, traffic, cores, moving / sent / crowd, hop / crowd, busy, overlap)


@dataclass(frozen=True)
class Result:
    """Runs, the model fitted to the first two, and `batch` clips of each process."""

    batch: int
    runs: list[Run]
    model: Fit

    def report(self) -> str:
        """A table in Markdown, then the constants."""
        traffic = self.model.traffic
        lines = [
            "| processes x threads | clips/s | step | compute alone | exchange alone "
            "| predicted step | error | predicted compute | predicted exchange |",
            "|---" * 9 + "|",
        ]
        for run in self.runs:
            said = self.model.predict(run.processes)
            fitted = " (fitted)" if run.processes in self.model.runs else ""
            cells = (
                *(f"{run.processes} x {run.threads}", f"{run.processes * self.batch / run.step:.2f}"),
                *(f"{seconds:.3f} s" for seconds in (run.step, run.compute, run.exchange, said.seconds)),
                f"{said.seconds / run.step - 1:+.0%}{fitted}",
                *(f"{seconds:.3f} s" for seconds in (said.compute, said.exchange)),
            )
            lines.append(f"| {' | '.join(cells)} |")
        rate = "more than can be told" if not self.model.seconds_per_byte else ""
        rate = rate or f"{1e-6 / self.model.seconds_per_byte:.0f} MB/s"
        lines += [
            f"{self.batch} clips on each process, {traffic.parallel}, {traffic.size / 1e6:.1f} MB of "
            f"gradients in {traffic.messages} messages; median of {len(self.runs[0].steps)} steps",
            f"fitted: a process sends {rate} and keeps {self.model.busy:.2f} of a core busy with it, a hop "
            f"takes {1000 * self.model.hop:.2f} ms, overlap {self.model.overlap:.2f}",
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """What json.dump takes."""
        said = {run.processes: self.model.predict(run.processes) for run in self.runs}
        runs = [
            asdict(run)
            | {"fitted": run.processes in self.model.runs}
            | {"predicted": asdict(said[run.processes]) | {"step": said[run.processes].seconds}}
            for run in self.runs
        ]
        constants = ("cores", "seconds_per_byte", "hop", "busy", "overlap")
        return {
            "batch": self.batch,
            "traffic": asdict(self.model.traffic),
            "fit": {name: getattr(self.model, name) for name in constants},
            "runs": runs,
        }


def benchmark_scaling(
    cfg: CfgNode, batch: int, numbers: Sequence[int], repeats: int, progress: bool = True
) -> Result:
    """Time steps with so many processes, shared as SOLVER.PARALLEL says; clips are made up.

    Args:
        batch: clips of each process.
        numbers: 1 and larger ones, rising.
        repeats: steps of each kind, in turn.

    Raises:
        ConfigError: the config describes no pre-training.
        UserError: `numbers` are others, or a process failed.
    """
    if model_class(cfg).task != "pretraining":
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: {cfg.MODEL.META_ARCHITECTURE}; benchmark scaling times pre-training, "
            "MaskedAutoencoder"
        )
    if len(numbers) < _FITTED or numbers[0] != 1 or sorted(set(numbers)) != list(numbers):
        given = " ".join(map(str, numbers))
        raise UserError(f"--processes: expected 1 and larger numbers, rising, such as 1 2 4; got {given}")
    own_devices = cfg.MODEL.DEVICE != "cpu" and torch.cuda.is_available()
    cores = None if own_devices else os.cpu_count() or 1
    runs = [_run(cfg, batch, threads_of(number, cores), number, repeats, progress) for number in numbers]
    traffic = count_traffic(empty_model(cfg), cfg.SOLVER.PARALLEL)
    return Result(batch, runs, fit(runs[:_FITTED], traffic, cores))


def _run(cfg: CfgNode, batch: int, threads: int, processes: int, repeats: int, progress: bool) -> Run:
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="vmae_det_benchmark_") as folder:
        file = Path(folder) / "times.json"
        args = (cfg, batch, threads, repeats, file, progress)
        status = launch(measure, args, num_processes=processes)
        torch.set_num_threads(before)  # one process is this one
        if status:
            raise UserError(f"--processes {processes}: the processes ended with status {status}")
        times = json.loads(file.read_text(encoding="utf-8"))
    medians = {name: statistics.median(values) for name, values in times.items()}
    scale = medians["compute"] / sum(medians[part] for part in _PARTS)
    return Run(
        processes, threads, steps=times["step"], **medians | {part: scale * medians[part] for part in _PARTS}
    )


def measure(cfg: CfgNode, batch: int, threads: int, repeats: int, file: Path, progress: bool) -> None:
    """What each process does; the first writes the seconds of the slowest one, by kind, as JSON."""
    device = setup_device(cfg)
    torch.set_num_threads(threads)
    torch.manual_seed(cfg.SEED)
    samples = to_device(collate([[sample] for sample in made_up_clips(cfg, batch)]), device)
    shared = _Stepper(cfg, device)
    # Sharded tensors cannot be trained without an exchange; a model of one's own can.
    silent = _Stepper(cfg, device, alone=True) if is_sharded(cfg) else shared
    exchange = _exchange(cfg, count_traffic(empty_model(cfg), cfg.SOLVER.PARALLEL), device)
    number = torch.zeros(1, device=device)
    times: dict[str, list[float]] = {}
    turns = tqdm(
        range(WARM_UP + repeats),
        desc=f"{distributed.get_world_size()} process(es)",
        disable=not (progress and distributed.is_main_process()),
        leave=False,
    )
    for turn in turns:
        found = {"step": sum(shared.step(samples).values())}
        with no_gradient_sync(silent.model):
            parts = silent.step(samples)
        found |= parts | {"compute": sum(parts.values())}
        found["exchange"], found["sending"] = _together(exchange, device)
        found["empty"], _ = _together(lambda: distributed.all_reduce_sum(number), device)
        if turn >= WARM_UP:
            for name, seconds in found.items():
                times.setdefault(name, []).append(seconds)
    everyone = distributed.all_gather_object(times)
    if distributed.is_main_process():
        slowest = {name: [max(step) for step in zip(*(one[name] for one in everyone))] for name in times}
        file.write_text(json.dumps(slowest), encoding="utf-8")


class _Stepper:
    """A model with its optimizer, shared with the other processes or not."""

    def __init__(self, cfg: CfgNode, device: torch.device, alone: bool = False) -> None:
        model = build_model(cfg).to(device).train()
        self.model = model if alone else parallelize(cfg, model, device)
        self.optimizer = build_optimizer(cfg, model)
        self.device, self.amp = device, AMP_TYPES[cfg.SOLVER.AMP]

    def step(self, samples: dict[str, Any]) -> dict[str, float]:
        """Seconds by part; all processes begin together."""
        made: dict[str, torch.Tensor] = {}

        def forward() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, self.amp) if self.amp else nullcontext():
                made.update(self.model(samples))

        distributed.barrier()
        work = {
            "forward": forward,
            "backward": lambda: made["loss"].backward(),
            "update": self.optimizer.step,
        }
        return {name: seconds_of(part, self.device) for name, part in work.items()}


def _together(work: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Seconds of something that all processes begin together, and of this process's cores in it."""
    distributed.barrier()
    before = time.process_time()
    return seconds_of(work, device), time.process_time() - before


def _exchange(cfg: CfgNode, traffic: Traffic, device: torch.device) -> Callable[[], None]:
    """What sends a step's bytes, in as many messages."""
    processes = distributed.get_world_size()
    if processes == 1:
        return lambda: None
    length = -(-traffic.size // FLOAT_BYTES // traffic.messages // processes)  # of each process's part
    part = torch.zeros(length, device=device)
    whole = torch.zeros(length * processes, device=device)

    def reduce() -> None:
        for _ in range(traffic.messages):
            dist.all_reduce(whole)

    def gather_and_reduce() -> None:
        for _ in range(traffic.messages):
            dist.all_gather_into_tensor(whole, part)
            dist.all_gather_into_tensor(whole, part)
            dist.reduce_scatter_tensor(part, whole)

    return gather_and_reduce if traffic.parallel == "fsdp" else reduce
