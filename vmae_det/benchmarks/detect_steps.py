"""What each way to run a detector gives: bf16, token dropout, onnxruntime, int8. For `benchmark detect`."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from vmae_det.config import CfgNode
from vmae_det.inference.export.exporter import build_graph, metadata_of, trace, write_onnx
from vmae_det.inference.export.quantization import quantize_layers
from vmae_det.inference.predictor import ActionPredictor, find_label_map
from vmae_det.utils import cpu
from vmae_det.utils.resource_usage import Stopwatch

TORCH, ONNX, INT8 = "PyTorch", "ONNX Runtime", "ONNX Runtime int8"
_PUBLISHED_KEEP_RATE = 0.7
_SECONDS = 3.99  # of video: four keyframes, one a second

# Detects with a predictor up to this second of the video, all stages in parallel, and measures the stages.
RunDetection = Callable[[ActionPredictor, Stopwatch, float], None]


@dataclass(frozen=True)
class Step:
    """A way to run the detector.

    Attributes:
        engine: TORCH, ONNX or INT8.
        amp: SOLVER.AMP, for TORCH.
        keep_rate: MODEL.BACKBONE.TOKEN_KEEP_RATE.
    """

    engine: str
    amp: str = "none"
    keep_rate: float = 1.0

    @property
    def name(self) -> str:
        """The step in words."""
        precision = {"none": " fp32", "bf16": " bf16"}[self.amp] if self.engine != INT8 else ""
        dropout = f", keep rate {self.keep_rate:g}" if self.keep_rate < 1 else ""
        return f"{self.engine}{precision}{dropout}"


@dataclass(frozen=True)
class StepTime:
    """Times of a step; medians of the repeats.

    Attributes:
        name: the step in words.
        model: wall-clock seconds of the model per keyframe, while the other stages run beside it.
        total: wall-clock seconds of the whole pipeline per second of video.
    """

    name: str
    model: float
    total: float


def choose_steps(cfg: CfgNode) -> list[Step]:
    """Return the steps that this machine and this version can run; the first one is fp32 in PyTorch.

    bf16 needs a CPU with instructions for it. ONNX needs its packages.
    """
    engines = [Step(TORCH)]
    if cpu.bfloat16_units():
        engines.append(Step(TORCH, "bf16"))
    engines += [Step(ONNX), Step(INT8)] if _has_onnx() else []
    if cfg.MODEL.BACKBONE.NAME == "Hiera":  # it has no token dropout
        return engines
    rate = cfg.MODEL.BACKBONE.TOKEN_KEEP_RATE
    dropout = rate if rate < 1 else _PUBLISHED_KEEP_RATE
    return [Step(step.engine, step.amp, keep) for keep in (1.0, dropout) for step in engines]


def measure_steps(
    weights: Path, cfg: CfgNode, duration: float, repeats: int, run: RunDetection
) -> list[StepTime]:
    """Measure all steps in turns, so that they share the state of the machine.

    Args:
        weights: checkpoint file. Exported files are written beside it.
        cfg: config of the weights.
        duration: length of the video that `run` detects in, in seconds.
    """
    steps, seconds = choose_steps(cfg), min(duration, _SECONDS)
    predictors: list[ActionPredictor] = []
    walls: list[list[float]] = [[] for _ in steps]
    models: list[list[float]] = [[] for _ in steps]
    with tqdm(total=len(steps) * (1 + repeats), unit="run", disable=None) as bar:
        for step in steps:
            bar.set_description(f"preparing {step.name}")
            predictors.append(_predictor(step, weights, cfg))
            run(predictors[-1], Stopwatch(), 0.0)  # warm up with one keyframe
            bar.update()
        for turn in range(repeats):
            for step, predictor, own_walls, own_models in zip(steps, predictors, walls, models):
                bar.set_description(f"turn {turn + 1} of {repeats}, {step.name}")
                stopwatch, start = Stopwatch(), time.perf_counter()
                run(predictor, stopwatch, seconds)
                own_walls.append((time.perf_counter() - start) / seconds)
                own_models.append(stopwatch.seconds["model"] / (int(seconds) + 1))
                bar.update()
    return [
        StepTime(step.name, statistics.median(own_models), statistics.median(own_walls))
        for step, own_walls, own_models in zip(steps, walls, models)
    ]


def report(times: list[StepTime]) -> str:
    """Return a Markdown table. Ratios are relative to the first step."""
    lines = [
        "| | model, per keyframe | ratio | pipeline, per second of video | ratio | x real time |",
        "|---|---|---|---|---|---|",
    ]
    for own in times:
        ratios = [times[0].model / own.model, times[0].total / own.total]
        lines.append(
            f"| {own.name} | {own.model:.3f} s | {ratios[0]:.2f} | {own.total:.3f} s | {ratios[1]:.2f} | "
            f"{1 / own.total:.2f} |"
        )
    return "\n".join(lines)


def to_json(times: list[StepTime]) -> list[dict[str, Any]]:
    """Return the times as JSON data."""
    return [asdict(own) for own in times]


def _predictor(step: Step, weights: Path, cfg: CfgNode) -> ActionPredictor:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.SOLVER.AMP = str(weights), step.amp
    cfg.MODEL.BACKBONE.TOKEN_KEEP_RATE = step.keep_rate
    cfg.TEST.PERSON_BOXES = "dataset"  # the boxes are given
    if step.keep_rate == 1:
        cfg.MODEL.BACKBONE.TOKEN_DROP_BLOCKS = ()
    if step.engine != TORCH:
        cfg.MODEL.WEIGHTS = str(_export(step, weights, cfg))
    return ActionPredictor(cfg)


def _export(step: Step, weights: Path, cfg: CfgNode) -> Path:
    """Return the ONNX file of a step. Its model is exported once, for fp32 and for int8."""
    float_file = weights.with_name(f"keep_rate_{step.keep_rate:g}.onnx")
    graph = build_graph(cfg)
    if not float_file.exists():
        label_map = find_label_map(weights)
        fields = {key: list(getattr(label_map, key)) for key in ("ids", "names", "kinds")}
        write_onnx(trace(graph, cfg), float_file, json.dumps(metadata_of(cfg, graph, fields)), graph)
    if step.engine == ONNX:
        return float_file
    # All linear layers, without calibration: in random weights, none is sensitive to 8 bits.
    int8_file = float_file.with_suffix(".int8.onnx")
    layers = (layer for layer in graph.model.backbone.modules() if isinstance(layer, nn.Linear))
    quantize_layers(float_file, int8_file, [layer.weight for layer in layers])
    return int8_file


def _has_onnx() -> bool:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        return False
    return True
