"""`benchmark scaling`: pre-training steps with 1, 2, 4 ... processes of this machine, measured and predicted.

Each process has the same number of clips. The constants of the model are fitted to the first two runs.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
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
    overlap_window,
)
from vmae_det.benchmarks.synthetic_videos import random_clips
from vmae_det.benchmarks.training_step import WARM_UP_STEPS, TimedTrainingStep, seconds_of
from vmae_det.config import CfgNode
from vmae_det.data.loader import collate
from vmae_det.engine.inspection import FLOAT_BYTES, empty_model
from vmae_det.engine.launch import launch
from vmae_det.engine.parallel import is_sharded, no_gradient_sync, parallelize
from vmae_det.engine.setup import setup_device
from vmae_det.engine.trainer import to_device
from vmae_det.modeling import build_model, model_class
from vmae_det.solver import build_optimizer
from vmae_det.utils import distributed
from vmae_det.utils.cpu import count_cores
from vmae_det.utils.errors import ConfigError, UserError

_PARTS = ("forward", "backward", "update")
_FITTED_RUNS = 2


# ---------------------------------------------------------------- the model's constants


@dataclass(frozen=True)
class Run:
    """Measurements with a number of processes in seconds: medians over the steps of the slowest process.

    Attributes:
        processes: number of processes.
        threads: CPU threads per process.
        step: with communication.
        forward, backward, update: their sum is `compute`.
        compute: steps without communication, of all processes at the same time.
        exchange: communication of a step's bytes by itself.
        sending: CPU seconds of a process in that communication.
        empty: an all-reduce of one number.
        steps: seconds of each step, of which `step` is the median.
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
class FittedModel:
    """The model of a step with constants fitted to two runs.

    Attributes:
        runs: the two runs by number of processes.
        traffic: communication of each step.
        cores: CPU cores that the processes share; None: each process has its own device.
        seconds_per_byte: seconds that a process takes to send a byte if it has the cores that it needs.
        hop: seconds of a hop of an empty message under the same condition.
        busy: cores that a process uses while it sends.
        overlap: hidden fraction of the communication, at most 1; see `exposed_seconds`.
    """

    runs: dict[int, Run]
    traffic: Traffic
    cores: int | None
    seconds_per_byte: float
    hop: float
    busy: float
    overlap: float

    def predict(self, processes: int) -> Step:
        """Predict the step of a number of processes."""
        nearest = self.runs[max(n for n in self.runs if n <= processes)]
        # Ratio of the numbers of threads that share a core, to that of the nearest measured run.
        slowdown = _threads_per_core(processes, threads_of(processes, self.cores), self.cores)
        slowdown /= _threads_per_core(nearest.processes, nearest.threads, self.cores)
        forward, backward, update = (
            slowdown * part for part in (nearest.forward, nearest.backward, nearest.update)
        )
        sender_slowdown = _sender_slowdown(processes, self.busy, self.cores)
        exchange = exchange_seconds(
            self.traffic,
            processes,
            sender_slowdown * self.seconds_per_byte,
            sender_slowdown * self.hop * (processes - 1),
        )
        window = overlap_window(self.traffic, forward, backward)
        exposed = exposed_seconds(self.traffic, exchange, window, self.overlap)
        return Step(forward, backward, update, exchange, exposed)


def threads_of(processes: int, cores: int | None) -> int:
    """Return the number of CPU threads per process."""
    return max((cores or 1) // processes, 1)


def _threads_per_core(processes: int, threads: int, cores: int | None) -> float:
    """Return processes per core that they use: 1 if each has one core, 1/2 if each has two."""
    return 1.0 if cores is None else processes / min(processes * threads, cores)


def _sender_slowdown(processes: int, busy: float, cores: int | None) -> float:
    """Return how much slower processes send than with free cores; a waiting process frees its core."""
    return 1.0 if cores is None else max(processes * busy / cores, 1.0)


def fit(runs: Sequence[Run], traffic: Traffic, cores: int | None) -> FittedModel:
    """Fit the constants to a run of one process and a run of several."""
    run = runs[1]
    busy = run.sending / run.exchange if run.exchange else 0.0
    sender_slowdown = _sender_slowdown(run.processes, busy, cores)
    hop = run.empty / 2 / (run.processes - 1)  # an all-reduce has two passes
    moving = max(run.exchange - traffic.passes * traffic.messages * hop * (run.processes - 1), 0)
    sent = traffic.passes * (run.processes - 1) / run.processes * traffic.size
    exchange = exchange_seconds(traffic, run.processes, moving / sent, hop * (run.processes - 1))
    window = overlap_window(traffic, run.forward, run.backward)
    hideable = exchange - exposed_seconds(traffic, exchange, window)
    hidden = exchange - (run.step - run.compute)
    overlap = min(hidden / hideable, 1.0) if hideable else 0.0
    runs_by_count = {run.processes: run for run in runs}
    return FittedModel(
        runs_by_count, traffic, cores, moving / sent / sender_slowdown, hop / sender_slowdown, busy, overlap
    )


# ---------------------------------------------------------------- the result


@dataclass(frozen=True)
class ScalingBenchmark:
    """Result of the benchmark: the runs, and the model fitted to the first two.

    Attributes:
        batch: clips per process.
    """

    batch: int
    runs: list[Run]
    model: FittedModel

    def report(self) -> str:
        """Return a Markdown table, then the constants."""
        traffic = self.model.traffic
        lines = [
            "| processes x threads | clips/s | step | compute alone | exchange alone "
            "| predicted step | error | predicted compute | predicted exchange |",
            "|---" * 9 + "|",
        ]
        for run in self.runs:
            predicted = self.model.predict(run.processes)
            fitted = " (fitted)" if run.processes in self.model.runs else ""
            cells = (
                *(f"{run.processes} x {run.threads}", f"{run.processes * self.batch / run.step:.2f}"),
                *(f"{seconds:.3f} s" for seconds in (run.step, run.compute, run.exchange, predicted.seconds)),
                f"{predicted.seconds / run.step - 1:+.0%}{fitted}",
                *(f"{seconds:.3f} s" for seconds in (predicted.compute, predicted.exchange)),
            )
            lines.append(f"| {' | '.join(cells)} |")
        rate = "more than can be measured" if not self.model.seconds_per_byte else ""
        rate = rate or f"{1e-6 / self.model.seconds_per_byte:.0f} MB/s"
        lines += [
            f"{self.batch} clips on each process, {traffic.parallel}, {traffic.size / 1e6:.1f} MB of "
            f"gradients in {traffic.messages} messages; median of {len(self.runs[0].steps)} steps",
            f"fitted: a process sends {rate} and uses {self.model.busy:.2f} cores to send, a hop takes "
            f"{1000 * self.model.hop:.2f} ms, overlap {self.model.overlap:.2f}",
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        predicted = {run.processes: self.model.predict(run.processes) for run in self.runs}
        runs = [
            asdict(run)
            | {"fitted": run.processes in self.model.runs}
            | {"predicted": asdict(predicted[run.processes]) | {"step": predicted[run.processes].seconds}}
            for run in self.runs
        ]
        constants = ("cores", "seconds_per_byte", "hop", "busy", "overlap")
        return {
            "batch": self.batch,
            "traffic": asdict(self.model.traffic),
            "fit": {name: getattr(self.model, name) for name in constants},
            "runs": runs,
        }


# ---------------------------------------------------------------- the measurement


def benchmark_scaling(
    cfg: CfgNode, batch: int, process_counts: Sequence[int], repeats: int, progress: bool = True
) -> ScalingBenchmark:
    """Time steps on synthetic clips with different numbers of processes, parallelized by SOLVER.PARALLEL.

    Args:
        batch: clips per process.
        process_counts: 1 and larger numbers, ascending.
        repeats: number of steps of each kind.

    Raises:
        ConfigError: the config is not for pre-training.
        UserError: `process_counts` is invalid, or a process failed.
    """
    if model_class(cfg).task != "pretraining":
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: got {cfg.MODEL.META_ARCHITECTURE}, but benchmark scaling times "
            "pre-training: expected MaskedAutoencoder"
        )
    if (
        len(process_counts) < _FITTED_RUNS
        or process_counts[0] != 1
        or sorted(set(process_counts)) != list(process_counts)
    ):
        given = " ".join(map(str, process_counts))
        raise UserError(f"--processes: expected 1 and larger numbers, ascending, such as 1 2 4; got {given}")
    has_gpus = cfg.MODEL.DEVICE != "cpu" and torch.cuda.is_available()
    cores = None if has_gpus else count_cores()
    runs = [
        _measure_run(cfg, batch, threads_of(count, cores), count, repeats, progress)
        for count in process_counts
    ]
    traffic = count_traffic(empty_model(cfg), cfg.SOLVER.PARALLEL)
    return ScalingBenchmark(batch, runs, fit(runs[:_FITTED_RUNS], traffic, cores))


def _measure_run(cfg: CfgNode, batch: int, threads: int, processes: int, repeats: int, progress: bool) -> Run:
    threads_before = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="vmae_det_benchmark_") as folder:
        file = Path(folder) / "times.json"
        args = (cfg, batch, threads, repeats, file, progress)
        status = launch(measure_process, args, num_processes=processes)
        torch.set_num_threads(threads_before)  # a single process is this one
        if status:
            raise UserError(f"--processes {processes}: the processes exited with status {status}")
        times = json.loads(file.read_text(encoding="utf-8"))
    medians = {name: statistics.median(values) for name, values in times.items()}
    scale = medians["compute"] / sum(medians[part] for part in _PARTS)
    return Run(
        processes, threads, steps=times["step"], **medians | {part: scale * medians[part] for part in _PARTS}
    )


def measure_process(cfg: CfgNode, batch: int, threads: int, repeats: int, file: Path, progress: bool) -> None:
    """Measure in each process; the main process writes the seconds of the slowest, by kind, as JSON."""
    device = setup_device(cfg)
    torch.set_num_threads(threads)
    torch.manual_seed(cfg.SEED)
    samples = to_device(collate([[sample] for sample in random_clips(cfg, batch)]), device)
    parallel = _build_step(cfg, device, parallel=True)
    # A sharded model cannot train without communication, so that a local model is timed instead.
    local = _build_step(cfg, device, parallel=False) if is_sharded(cfg) else parallel
    exchange = _make_exchange(cfg, count_traffic(empty_model(cfg), cfg.SOLVER.PARALLEL), device)
    number = torch.zeros(1, device=device)
    times: dict[str, list[float]] = {}
    turns = tqdm(
        range(WARM_UP_STEPS + repeats),
        desc=f"{distributed.get_world_size()} process(es)",
        disable=not (progress and distributed.is_main_process()),
        leave=False,
    )
    for turn in turns:
        seconds = {"step": sum(_run_step(parallel, samples))}
        with no_gradient_sync(local.model):
            parts = _run_step(local, samples)
        seconds |= dict(zip(_PARTS, parts)) | {"compute": sum(parts)}
        seconds["exchange"], seconds["sending"] = _time_together(exchange, device)
        seconds["empty"], _ = _time_together(lambda: distributed.all_reduce_sum(number), device)
        if turn >= WARM_UP_STEPS:
            for name, value in seconds.items():
                times.setdefault(name, []).append(value)
    all_times = distributed.all_gather_object(times)
    if distributed.is_main_process():
        slowest = {name: [max(step) for step in zip(*(each[name] for each in all_times))] for name in times}
        file.write_text(json.dumps(slowest), encoding="utf-8")


def _build_step(cfg: CfgNode, device: torch.device, parallel: bool) -> TimedTrainingStep:
    """Build a model with its optimizer, parallelized over the processes or local."""
    model = build_model(cfg).to(device).train()
    wrapped = parallelize(cfg, model, device) if parallel else model
    return TimedTrainingStep(wrapped, build_optimizer(cfg, model), device, cfg.SOLVER.AMP, scale_loss=False)


def _run_step(step: TimedTrainingStep, samples: dict[str, Any]) -> tuple[float, ...]:
    """Return the seconds of forward, backward and update; all processes start at the same time."""
    distributed.barrier()
    return tuple(step.time_parts({"batch": samples}).values())


def _time_together(function: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Return the seconds of a call that all processes start at the same time, and its CPU seconds here."""
    distributed.barrier()
    before = time.process_time()
    return seconds_of(function, device), time.process_time() - before


def _make_exchange(cfg: CfgNode, traffic: Traffic, device: torch.device) -> Callable[[], None]:
    """Return a function that sends as many bytes as a step does, in as many messages."""
    processes = distributed.get_world_size()
    if processes == 1:
        return lambda: None
    length = -(-traffic.size // FLOAT_BYTES // traffic.messages // processes)  # of each process's shard
    shard = torch.zeros(length, device=device)
    full = torch.zeros(length * processes, device=device)

    def reduce() -> None:
        for _ in range(traffic.messages):
            dist.all_reduce(full)

    def gather_and_reduce() -> None:
        for _ in range(traffic.messages):
            dist.all_gather_into_tensor(full, shard)
            dist.all_gather_into_tensor(full, shard)
            dist.reduce_scatter_tensor(shard, full)

    return gather_and_reduce if traffic.parallel == "fsdp" else reduce
