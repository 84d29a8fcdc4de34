"""`benchmark gpu-scaling`: pre-training on 8 to 512 GPUs, calculated by `scaling_model` for assumed hardware.

Nothing is measured. torch is imported only where it is used, because the command line reads `Cluster`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from vmae_det import model_zoo
from vmae_det.benchmarks.scaling_model import (
    Step,
    Traffic,
    count_traffic,
    exchange_seconds,
    exposed_seconds,
    overlap_window,
)
from vmae_det.config import CfgNode, get_cfg
from vmae_det.utils.errors import UserError

SIZES = {"S": "small", "B": "base", "L": "large", "H": "huge"}
_FEW_CLIPS = 8  # with fewer clips per GPU, the assumed utilization is certainly too high
# AdamW reads weight, gradient and two moments, and writes all but the gradient; float32.
_UPDATE_BYTES_PER_PARAMETER = 7 * 4


def _assume(default: float, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Cluster:
    """Assumed hardware; by default machines with eight H100, from their data sheets."""

    matrix_rate: float = _assume(
        989e12, "bf16 operations per second of a GPU in matrix multiplications (GEMM)"
    )
    share: float = _assume(0.35, "fraction of the GEMM rate that training reaches")
    block_floor: float = _assume(3e-4, "minimum seconds of a block, forward and backward, for few clips")
    memory_rate: float = _assume(3.35e12, "memory bandwidth of a GPU in bytes per second")
    gpus: float = _assume(8, "GPUs per machine")
    nvlink: float = _assume(450e9, "bytes per second that a GPU sends to others of its machine")
    network: float = _assume(400e9, "bytes per second that a machine sends to others")
    link_share: float = _assume(0.8, "fraction of the link rates that communication reaches")
    latency: float = _assume(1e-5, "seconds per hop")
    cores: float = _assume(14, "CPU cores per GPU")
    loading_rate: float = _assume(21.6, "clips per second that a core loads")
    batch: float = _assume(1024, "clips per step, of all GPUs")

    def seconds_per_byte(self, gpus: float) -> float:
        """Return the seconds that one of so many GPUs takes to send a byte over the slowest link.

        A ring leaves each machine once, so that it has the full network bandwidth of the machine.
        """
        rate = self.nvlink if gpus <= self.gpus else min(self.nvlink, self.network)
        return 1 / (rate * self.link_share)

    def pass_latency(self, gpus: float) -> float:
        """Return the seconds of an empty pass: a chain within machines, a tree between them (NCCL 2.4)."""
        inside = min(gpus, self.gpus) - 1
        return self.latency * (inside + math.ceil(math.log2(max(gpus / self.gpus, 1))))


@dataclass(frozen=True)
class Network:
    """Properties of a model.

    Attributes:
        flops: multiply-adds of one clip's forward pass.
        parameters: number of parameters.
        blocks: number of transformer blocks.
        traffic: communication of each step.
    """

    flops: float
    parameters: int
    blocks: int
    traffic: Traffic


@dataclass(frozen=True)
class Row:
    """The prediction for a model on a number of GPUs.

    Attributes:
        size: a key of `SIZES`.
        gpus: number of GPUs.
        clips: clips per GPU.
        step: the predicted step.
        floor: minimum seconds of forward and backward, for few clips.
        alone: the step of a single GPU with all clips.
        several_machines: whether the GPUs are in more than one machine.
    """

    size: str
    gpus: int
    clips: float
    step: Step
    floor: float
    alone: Step
    several_machines: bool

    @property
    def limit(self) -> str:
        """The bottleneck of the step."""
        step = self.step
        return "loading" if step.loading >= step.work else self.limit_of_work

    @property
    def limit_of_work(self) -> str:
        """The bottleneck if loading is fast enough."""
        step = self.step
        computing = step.forward + step.backward
        name = "starting kernels" if computing <= self.floor else "compute"
        link = "network" if self.several_machines else "NVLink"
        parts = {name: computing, "optimizer": step.update, link: step.exposed}
        return max(parts, key=parts.get)

    @property
    def efficiency(self) -> float:
        """Clips per second per GPU, relative to a single GPU; both without loading."""
        return self.alone.work / (self.gpus * self.step.work)


def recipe(size: str) -> CfgNode:
    """Return the Kinetics pre-training config of a key of `SIZES`."""
    cfg = get_cfg()
    for name in ("Kinetics/_pretrain.yaml", f"_vit_{SIZES[size]}.yaml"):
        cfg.merge_from_file(str(model_zoo.config_folder() / name))
    return cfg


def describe(size: str, parallel: str) -> Network:
    """Return the properties of a model; `size` is a key of `SIZES`, `parallel` "ddp" or "fsdp"."""
    from vmae_det.engine.inspection import count, count_flops, count_tokens, empty_model

    cfg = recipe(size)
    model = empty_model(cfg)
    blocks = cfg.MODEL.BACKBONE.DEPTH + cfg.MODEL.DECODER.DEPTH
    return Network(count_flops(cfg, count_tokens(cfg)), count(model), blocks, count_traffic(model, parallel))


def predict_step(network: Network, gpus: int, cluster: Cluster) -> Step:
    """Predict a step in which the GPUs share the batch."""
    clips = cluster.batch / gpus
    floor = network.blocks * cluster.block_floor
    # The backward pass costs twice the forward pass; a multiply-add is two operations.
    seconds = 2 * network.flops * clips / (cluster.matrix_rate * cluster.share)
    forward, backward = max(seconds, floor / 3), max(2 * seconds, 2 * floor / 3)
    parameters_per_gpu = network.parameters / (gpus if network.traffic.parallel == "fsdp" else 1)
    exchange = exchange_seconds(
        network.traffic, gpus, cluster.seconds_per_byte(gpus), cluster.pass_latency(gpus)
    )
    window = overlap_window(network.traffic, forward, backward)
    return Step(
        forward,
        backward,
        update=_UPDATE_BYTES_PER_PARAMETER * parameters_per_gpu / cluster.memory_rate,
        exchange=exchange,
        exposed=exposed_seconds(network.traffic, exchange, window),
        loading=clips / (cluster.loading_rate * cluster.cores),
    )


def predict(sizes: Sequence[str], gpu_counts: Sequence[int], cluster: Cluster, parallel: str) -> list[Row]:
    """Predict a row for each size and number of GPUs.

    Raises:
        UserError: there are more GPUs than clips.
    """
    if max(gpu_counts) > cluster.batch:
        raise UserError(
            f"--total-gpus: {max(gpu_counts)} GPUs, but a step has only {cluster.batch:g} clips (--batch)"
        )
    rows = []
    for size in sizes:
        network = describe(size, parallel)
        alone = predict_step(network, 1, cluster)
        floor = network.blocks * cluster.block_floor
        for gpus in gpu_counts:
            step = predict_step(network, gpus, cluster)
            rows.append(Row(size, gpus, cluster.batch / gpus, step, floor, alone, gpus > cluster.gpus))
    return rows


def report(rows: Sequence[Row], cluster: Cluster, parallel: str) -> str:
    """Return the assumptions and a Markdown table."""
    lines = [f"calculated, not measured; {parallel}, {cluster.batch:g} clips per step; assumed:"]
    lines += [
        f"  {part.name} {getattr(cluster, part.name):g}: {part.metadata['help']}" for part in fields(cluster)
    ]
    lines += [
        "",
        "| model | GPUs | clips per GPU | compute | exchange | exposed | loading | clips/s | limit "
        "| clips/s without loading | efficiency | limit without loading |",
        "|---" * 12 + "|",
    ]
    for row in rows:
        step, few = row.step, " (few)" if row.clips < _FEW_CLIPS else ""
        times = (step.compute, step.exchange, step.exposed, step.loading)
        cells = (
            *(row.size, str(row.gpus), f"{row.clips:g}{few}"),
            *(f"{1000 * seconds:.1f} ms" for seconds in times),
            *(f"{cluster.batch / step.seconds:,.0f}", row.limit),
            *(f"{cluster.batch / step.work:,.0f}", f"{row.efficiency:.0%}", row.limit_of_work),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def to_json(rows: Sequence[Row], cluster: Cluster) -> dict[str, Any]:
    """Return the rows as JSON data."""
    figures = [
        asdict(row)
        | {
            "clips_per_second": cluster.batch / row.step.seconds,
            "limit": row.limit,
            "clips_per_second_without_loading": cluster.batch / row.step.work,
            "efficiency": row.efficiency,
            "limit_without_loading": row.limit_of_work,
        }
        for row in rows
    ]
    return {"assumed": asdict(cluster), "rows": figures}
