"""What each way to run a detector gives: bf16, token dropout, onnxruntime, int8. For `benchmark detect`."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vmae_det.config import CfgNode
from vmae_det.inference.export.exporter import build_graph, metadata_of, trace, write_onnx
from vmae_det.inference.export.quantization import export_int8
from vmae_det.inference.predictor import ActionPredictor, find_label_map
from vmae_det.utils import cpu
from vmae_det.utils.resource_usage import Stopwatch

TORCH, ONNX, INT8 = "PyTorch", "ONNX Runtime", "ONNX Runtime int8"
_PUBLISHED_KEEP_RATE = 0.7
_CALIBRATION_CLIPS = 2  # the speed does not depend on them

# Detects with a predictor, with all stages in parallel, and measures the stages.
RunDetection = Callable[[ActionPredictor, Stopwatch], None]


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
    weights: Path, cfg: CfgNode, video: Path, seconds: float, repeats: int, run: RunDetection
) -> list[StepTime]:
    """Measure all steps in turns, so that they share the state of the machine.

    Args:
        cfg: config of the weights.
        video: calibrates int8.
        seconds: length of the video that `run` detects in.
    """
    steps = choose_steps(cfg)
    predictors = [_predictor(step, weights, cfg, video) for step in tqdm(steps, "preparing", disable=None)]
    walls: list[list[float]] = [[] for _ in steps]
    models: list[list[float]] = [[] for _ in steps]
    for turn in tqdm(range(repeats + 1), "measuring", unit="turn", disable=None):
        for predictor, own_walls, own_models in zip(predictors, walls, models):
            stopwatch, start = Stopwatch(), time.perf_counter()
            run(predictor, stopwatch)
            if turn:  # the first one warms up
                own_walls.append((time.perf_counter() - start) / seconds)
                own_models.append(stopwatch.seconds["model"] / (int(seconds) + 1))
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


def _predictor(step: Step, weights: Path, cfg: CfgNode, video: Path) -> ActionPredictor:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.SOLVER.AMP = str(weights), step.amp
    cfg.MODEL.BACKBONE.TOKEN_KEEP_RATE = step.keep_rate
    cfg.TEST.PERSON_BOXES = "dataset"  # the boxes are given
    if step.keep_rate == 1:
        cfg.MODEL.BACKBONE.TOKEN_DROP_BLOCKS = ()
    label_map = find_label_map(weights)
    if step.engine != TORCH:
        file = weights.with_name(f"{step.name}.onnx".replace(" ", "_"))
        fields = {key: list(getattr(label_map, key)) for key in ("ids", "names", "kinds")}
        if step.engine == INT8:
            export_int8(cfg, file, str(video), _CALIBRATION_CLIPS, fields)
        else:
            graph = build_graph(cfg)
            write_onnx(trace(graph, cfg), file, json.dumps(metadata_of(cfg, graph, fields)), graph)
        cfg.MODEL.WEIGHTS = str(file)
    return ActionPredictor(cfg)


def _has_onnx() -> bool:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        return False
    return True
