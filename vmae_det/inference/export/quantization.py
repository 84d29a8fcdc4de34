"""Int8 export: an ONNX file whose linear layers multiply 8-bit integers, for CPUs.

The weights of a linear layer of the backbone are int8 with a scale per output channel. Its input is quantized
when the file runs, to uint8 with the range of the clip's values ("dynamic quantization"). LayerNorm, softmax,
GELU, attention and the heads stay in float32.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from vmae_det.config import CfgNode
from vmae_det.data.classes import ModelClasses
from vmae_det.engine.trainer import to_device
from vmae_det.evaluation.evaluators import Evaluator
from vmae_det.inference.evaluation import ScorerModule
from vmae_det.inference.export.calibration import CalibrationClips
from vmae_det.inference.export.exported_model import INT8, METADATA_KEY, ONNX_SUFFIX, OnnxModel
from vmae_det.inference.export.exporter import DetectorGraph, build_graph, metadata_of, trace, write_onnx
from vmae_det.inference.export.one_stage import OneStageGraph
from vmae_det.inference.onnx_session import import_onnx_packages
from vmae_det.utils.errors import ConfigError, WeightsError
from vmae_det.utils.output_files import atomic_write

# A layer stays in float32 if 8 bits change its output by more than this, relative to the output (RMS).
MAX_LAYER_ERROR = 0.1
CPU = torch.device("cpu")

Prediction = tuple[dict[str, Any], dict[str, Any]]  # a batch, and what a model returns for it


@dataclass(frozen=True)
class Int8Report:
    """Summary of an int8 export.

    Args:
        path: the exported file.
        source: where the clips are from.
        clips: number of clips.
        quantized: number of linear layers in int8.
        kept: names of the linear layers that stay in float32, with their errors.
        mean, largest: difference between a score of the file and of the model in fp32, for given persons.
        metrics: value of the model and of the file on the clips, by name; empty without labels. Those of a
            detector that finds the persons are of the persons that it finds.
    """

    path: Path
    source: str
    clips: int
    quantized: int
    kept: dict[str, float]
    mean: float
    largest: float
    metrics: dict[str, tuple[float, float]]

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.path.stat().st_size / 2**20:.1f} MiB; {self.quantized} linear layers in "
            f"int8, {len(self.kept)} in fp32",
            *(f"  {name} stays in fp32: int8 changes its output by {e:.0%}" for name, e in self.kept.items()),
            f"{self.clips} clips of {self.source}: scores differ from the model's by {self.mean:.1e} on "
            f"average and at most {self.largest:.1e}",
            *(
                f"  {name}: {old:.4f} -> {new:.4f} on these clips"
                for name, (old, new) in self.metrics.items()
            ),
        ]
        return "\n".join(lines)


def export_int8(
    cfg: CfgNode, output: str | Path, source: str, count: int, label_map: dict[str, Any] | None = None
) -> Int8Report:
    """Export the model of a config, with the weights of MODEL.WEIGHTS, to an ONNX file with int8 layers.

    The clips of `source` decide which layers stay in float32, and show how much the scores of given persons
    and the metrics change.

    Args:
        source, count: see `CalibrationClips`.
        label_map: label map of the classes, to store in the file.

    Raises:
        ConfigError: the config describes neither a detector nor a classifier, its backbone has no linear
            layers, or it has no such dataset.
        DataError: the clips cannot be read.
        WeightsError: the weights do not fit, or a score of the file is not a number.
        UserError: a package for ONNX is not installed.
    """
    output = Path(output)
    if output.suffix != ONNX_SUFFIX:
        raise WeightsError(f"{output}: expected the suffix {ONNX_SUFFIX} for an int8 file")
    import_onnx_packages("onnx", "onnxscript", "onnxruntime")
    graph = build_graph(cfg)
    finds_persons = isinstance(graph, OneStageGraph)
    clips = CalibrationClips(cfg, source, count, ModelClasses.from_checkpoint(label_map, cfg.MODEL.WEIGHTS))
    with tqdm(
        total=2 * len(clips) + 2 + 2 * finds_persons, desc="calibrating", unit="step", disable=None
    ) as bar:
        meter = LayerErrors(graph.model.backbone)
        with meter:
            expected = _scores(lambda batch: graph.model(to_device(batch, CPU))["scores"], clips, bar)
        errors = meter.errors()
        if not errors:
            raise ConfigError(
                f"MODEL.BACKBONE.NAME: {cfg.MODEL.BACKBONE.NAME} has no linear layers to quantize"
            )
        kept = {name: error for name, error in errors.items() if not error <= MAX_LAYER_ERROR}
        weights = [meter.layers[name].weight for name in errors if name not in kept]
        bar.set_description("writing")
        with atomic_write(output) as temporary, tempfile.TemporaryDirectory() as folder:
            measured = temporary
            files = [(graph, temporary)]
            if finds_persons:  # a second file, with the same layers, takes the persons
                measured = Path(folder) / "boxes.onnx"
                files.append((DetectorGraph(graph.model).eval(), measured))
            for part, path in files:
                float_file = Path(folder) / "float32.onnx"
                write_onnx(trace(part, cfg), float_file, json.dumps(metadata_of(cfg, part, label_map)), part)
                bar.update()
                quantized = quantize_layers(float_file, path, weights)
                bar.update()
            bar.set_description("comparing")
            actual = _scores(OnnxModel(measured, CPU), clips, bar)
            differences = np.abs(np.concatenate(actual) - np.concatenate(expected))
            if not np.isfinite(differences).all():
                raise WeightsError(f"{output}: deleted: a score of the int8 model is not a number")
            predictions = _given(clips, expected), _given(clips, actual)
            if finds_persons:
                threshold = cfg.MODEL.PERSON_HEAD.SCORE_THRESHOLD
                file = ScorerModule(OnnxModel(temporary, CPU, threshold))
                predictions = _found(graph.model, clips), _found(file, clips)
            metrics = _metrics(clips.evaluator, *predictions)
    return Int8Report(
        *(output, source, len(clips), quantized, kept),
        mean=float(differences.mean()),
        largest=float(differences.max()),
        metrics=metrics,
    )


class LayerErrors:
    """Measures how much 8 bits change the output of each linear layer, while a model runs in the context.

    Attributes:
        layers: linear layers of the model by name.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
        self._sums = {name: np.zeros(2) for name in self.layers}  # squared errors, squared outputs
        self._weights = {name: quantized_weight(layer.weight) for name, layer in self.layers.items()}
        self._hooks: list[Any] = []

    def __enter__(self) -> LayerErrors:
        for name, layer in self.layers.items():
            self._hooks.append(layer.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def errors(self) -> dict[str, float]:
        """Return the RMS of the change relative to that of the output, by name, of the layers that ran."""
        return {
            name: float(np.sqrt(error / max(total, 1e-30)))
            for name, (error, total) in self._sums.items()
            if total
        }

    def simulate(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Return the output of a layer with 8 bits."""
        return F.linear(quantized_input(x), self._weights[name], self.layers[name].bias)

    def _hook(self, name: str) -> Any:
        def measure(layer: nn.Linear, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            error = (self.simulate(name, inputs[0]) - output).double().square().sum()
            self._sums[name] += float(error), float(output.double().square().sum())

        return measure


def quantized_weight(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight (outputs, inputs) rounded to int8 with a scale per output."""
    scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127
    return (weight / scale).round() * scale


def quantized_input(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor rounded to uint8 with the scale and the zero point of DynamicQuantizeLinear."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=1e-30)
    zero = (-low / scale).round()
    return (((x / scale).round() + zero).clamp(0, 255) - zero) * scale


def quantize_layers(source: Path, target: Path, weights: Iterable[torch.Tensor]) -> int:
    """Quantize the matrix multiplications of an exported ONNX file by these weights (outputs, inputs).

    The metadata of the target is that of the source, with the precision INT8.

    Returns:
        Their number.
    """
    (onnx,) = import_onnx_packages("onnx")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(source))
    chosen = {_content(weight.T) for weight in weights}
    names = {
        entry.name
        for entry in model.graph.initializer
        if len(entry.dims) == 2
        and _content(torch.from_numpy(onnx.numpy_helper.to_array(entry).copy())) in chosen
    }
    nodes = [node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in names]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    with _quiet():
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=nodes or ["none"],  # an empty list quantizes all
        )
    model = onnx.load(str(target))
    del model.metadata_props[:]
    own = json.loads(metadata[METADATA_KEY]) | {"precision": INT8}
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(own))
    onnx.save(model, str(target))
    return sum(node.op_type == "MatMulInteger" for node in model.graph.node)


def _content(weight: torch.Tensor) -> bytes:
    return weight.detach().contiguous().numpy().tobytes()


@torch.no_grad()
def _scores(model: Any, clips: CalibrationClips, bar: tqdm) -> list[np.ndarray]:
    """Return the scores (persons or 1, classes) of each clip."""
    results = []
    for batch in clips:
        scores = model(batch)
        results.append(np.asarray(scores[0], dtype=np.float32).reshape(-1, np.shape(scores[0])[-1]))
        bar.update()
    return results


def _given(clips: CalibrationClips, scores: list[np.ndarray]) -> Iterator[Prediction]:
    """Yield each clip with its scores, as the evaluator takes them."""
    for batch, own in zip(clips, map(torch.from_numpy, scores)):
        yield batch, {"scores": [own] if "boxes" in batch else own}


@torch.no_grad()
def _found(model: Callable[[dict], dict[str, Any]], clips: CalibrationClips) -> Iterator[Prediction]:
    """Yield each clip with the persons that a model finds in it, and their scores."""
    for batch in clips:
        batch = {name: value for name, value in batch.items() if name not in ("boxes", "person_scores")}
        yield batch, model(batch)


def _metrics(
    evaluator: Evaluator | None, expected: Iterable[Prediction], actual: Iterable[Prediction]
) -> dict[str, tuple[float, float]]:
    if evaluator is None:
        return {}
    results = []
    for predictions in (expected, actual):
        evaluator.reset()
        for batch, own in predictions:
            evaluator.process(batch, own)
        results.append(evaluator.evaluate())
    return {name: (results[0][name], results[1][name]) for name in results[0] if "/" not in name}


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the advice that onnxruntime.quantization logs."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
