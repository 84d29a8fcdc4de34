"""Pre-training on 8 to 512 GPUs as `scaling_model` has it: calculated from assumed hardware, not measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from vmae_det import model_zoo
from vmae_det.benchmarks.cluster import SIZES, Cluster
from vmae_det.benchmarks.scaling_model import (
    Step,
    Traffic,
    count_traffic,
    exchange_seconds,
    exposed_seconds,
    window,
)
from vmae_det.config import CfgNode, get_cfg
from vmae_det.engine.inspection import FLOAT_BYTES, count, count_flops, count_tokens, empty_model
from vmae_det.utils.errors import UserError

_FEW = 8  # clips on a GPU, below which its share of the matrix rate is surely lower than assumed
# AdamW reads weight, gradient and both averages, and writes all but the gradient.
_UPDATE_BYTES = 7 * FLOAT_BYTES


@dataclass(frozen=True)
class Network:
    """What the calculation needs of a model: multiply-adds of one clip forward, sizes, what is exchanged."""

    flops: float
    parameters: int
    blocks: int
    traffic: Traffic


@dataclass(frozen=True)
class Row:
    """A model on so many GPUs.

    Attributes:
        floor: seconds that the passes take with hardly a clip.
        alone: the step of one GPU that has all clips to itself.
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
        """What a step spends most of its time on, or waits for."""
        step = self.step
        return "loading" if step.loading >= step.work else self.limit_of_work

    @property
    def limit_of_work(self) -> str:
        """What it is once loading is fast enough."""
        step = self.step
        computing = step.forward + step.backward
        name = "starting kernels" if computing <= self.floor else "compute"
        link = "network" if self.several_machines else "NVLink"
        parts = {name: computing, "optimizer": step.update, link: step.exposed}
        return max(parts, key=parts.get)

    @property
    def efficiency(self) -> float:
        """Clips a second of a GPU beside those of one GPU alone, both without loading."""
        return self.alone.work / (self.gpus * self.step.work)


def recipe(size: str) -> CfgNode:
    """The Kinetics pre-training of S, B, L or H."""
    cfg = get_cfg()
    for name in ("Kinetics/_pretrain.yaml", f"_vit_{SIZES[size]}.yaml"):
        cfg.merge_from_file(str(model_zoo.config_folder() / name))
    return cfg


def describe(size: str, parallel: str) -> Network:
    """Of one of `SIZES`; "ddp" or "fsdp"."""
    cfg = recipe(size)
    model = empty_model(cfg)
    blocks = cfg.MODEL.BACKBONE.DEPTH + cfg.MODEL.DECODER.DEPTH
    return Network(count_flops(cfg, count_tokens(cfg)), count(model), blocks, count_traffic(model, parallel))


def predict_step(network: Network, gpus: int, cluster: Cluster) -> Step:
    """A step in which each GPU has its part of the batch."""
    clips = cluster.batch / gpus
    floor = network.blocks * cluster.block_floor
    # The backward pass costs twice the forward pass; a multiply-add is two operations.
    seconds = 2 * network.flops * clips / (cluster.matrix_rate * cluster.share)
    forward, backward = max(seconds, floor / 3), max(2 * seconds, 2 * floor / 3)
    held = network.parameters / (gpus if network.traffic.parallel == "fsdp" else 1)
    exchange = exchange_seconds(
        network.traffic, gpus, cluster.seconds_per_byte(gpus), cluster.pass_latency(gpus)
    )
    return Step(
        forward,
        backward,
        update=_UPDATE_BYTES * held / cluster.memory_rate,
        exchange=exchange,
        exposed=exposed_seconds(network.traffic, exchange, window(network.traffic, forward, backward)),
        loading=clips / (cluster.loading_rate * cluster.cores),
    )


def predict(sizes: Sequence[str], numbers: Sequence[int], cluster: Cluster, parallel: str) -> list[Row]:
    """A row for each size and number of GPUs.

    Raises:
        UserError: there are more GPUs than clips.
    """
    if max(numbers) > cluster.batch:
        raise UserError(
            f"--total-gpus: {max(numbers)} GPUs, but a step has only {cluster.batch:g} clips (--batch)"
        )
    rows = []
    for size in sizes:
        network = describe(size, parallel)
        alone = predict_step(network, 1, cluster)
        floor = network.blocks * cluster.block_floor
        for gpus in numbers:
            step = predict_step(network, gpus, cluster)
            rows.append(Row(size, gpus, cluster.batch / gpus, step, floor, alone, gpus > cluster.gpus))
    return rows


def report(rows: Sequence[Row], cluster: Cluster, parallel: str) -> str:
    """A table in Markdown, below what it assumes."""
    lines = [f"calculated, not measured; {parallel}, {cluster.batch:g} clips a step; assumed:"]
    lines += [
        f"  {part.name} {getattr(cluster, part.name):g}: {part.metadata['help']}" for part in fields(cluster)
    ]
    lines += [
        "",
        "| model | GPUs | clips on each | compute | exchange | exposed | loading | clips/s | limit "
        "| clips/s with loading aside | efficiency | limit then |",
        "|---" * 12 + "|",
    ]
    for row in rows:
        step, few = row.step, " (few)" if row.clips < _FEW else ""
        times = (step.compute, step.exchange, step.exposed, step.loading)
        cells = (
            *(row.size, str(row.gpus), f"{row.clips:g}{few}"),
            *(f"{1000 * seconds:.1f} ms" for seconds in times),
            *(f"{cluster.batch / step.seconds:,.0f}", row.limit),
            *(f"{cluster.batch / step.work:,.0f}", f"{row.efficiency:.0%}", row.limit_of_work),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_json(rows: Sequence[Row], cluster: Cluster) -> dict[str, Any]:
    """What json.dump takes."""
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
