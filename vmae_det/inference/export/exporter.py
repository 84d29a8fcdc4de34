"""Exports a model as a torch.export archive (.pt2) or an ONNX file, and compares the file with the model."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from tqdm import tqdm

import vmae_det
from vmae_det.config import CfgNode
from vmae_det.config.checks import uses_model_persons
from vmae_det.engine.weights import build_model_with_weights
from vmae_det.inference.export.exported_model import (
    DETECTOR_INPUTS,
    FORMAT_VERSION,
    METADATA_KEY,
    ONE_STAGE_INPUTS,
    ONNX_SUFFIX,
    TORCH_SUFFIX,
    load_program,
    open_fused_session,
)
from vmae_det.inference.export.one_stage import OneStageGraph
from vmae_det.inference.onnx_session import import_onnx_packages
from vmae_det.utils.errors import ConfigError, WeightsError
from vmae_det.utils.output_files import atomic_write

TOLERANCE = 1e-4  # largest allowed difference between scores, in [0, 1], of the file and of the model
OPSET = 18
MAX_ONNX_BYTES = 2**31 - 2**20  # the limit of protobuf
# Numbers of clips and of persons for which the file is compared with the model.
CLIP_COUNTS = (1, 4)
PERSON_COUNTS = (0, 1, 3)
SUFFIXES = {"torch": TORCH_SUFFIX, "onnx": ONNX_SUFFIX}

# An exported model: takes tensors in the order of its graph's `inputs`, returns one tensor or several.
ExportedFunction = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]


class DetectorGraph(nn.Module):
    """A detector whose inputs are tensors only."""

    inputs = DETECTOR_INPUTS
    outputs = ("scores",)
    defaults: ClassVar[dict[str, float]] = {}  # of inputs
    smallest_grid = 2  # patches per side of the smallest clip

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        video: torch.Tensor,
        boxes: torch.Tensor,
        clips: torch.Tensor,
        person_scores: torch.Tensor,
        sizes: torch.Tensor,
    ) -> torch.Tensor:
        """Return scores (R, classes) of R persons in a video uint8 (B, 3, T, H, W).

        See `ActionDetector.scores`.
        """
        return self.model.scores(self.model.normalization(video), boxes, clips, person_scores, sizes)


class ClassifierGraph(nn.Module):
    """A classifier whose inputs are tensors only."""

    inputs = ("video",)
    outputs = ("scores",)
    defaults: ClassVar[dict[str, float]] = {}  # of inputs
    smallest_grid = 2  # patches per side of the smallest clip

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Return scores (B, classes) of a video uint8 (B, 3, T, H, W)."""
        return self.model({"video": video})["scores"]


def graph_of(cfg: CfgNode) -> type[nn.Module]:
    """Return the class of the graph that is exported for a config.

    Raises:
        ConfigError: the config describes neither a detector nor a classifier.
    """
    graphs = {
        "ActionDetector": OneStageGraph if uses_model_persons(cfg) else DetectorGraph,
        "VideoClassifier": ClassifierGraph,
    }
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture not in graphs:
        raise ConfigError(f"MODEL.META_ARCHITECTURE: expected {' or '.join(graphs)}, got {architecture}")
    return graphs[architecture]


@dataclass(frozen=True)
class ExportReport:
    """Summary of an export.

    Args:
        path: the exported file.
        difference: largest difference between the outputs of the file and of the model, over all `cases`.
            Boxes are divided by the longer side of the clip.
        cases: (clips, persons, height, width) of each comparison; a classifier has no persons.
        compared: what was compared.
    """

    path: Path
    difference: float
    cases: tuple[tuple[int, int, int, int], ...]
    compared: str = "scores"

    def __str__(self) -> str:
        size = self.path.stat().st_size / 2**20
        return (
            f"{self.path}: {size:.1f} MiB; {self.compared} differ from the model's by at most "
            f"{self.difference:.1e} ({len(self.cases)} comparisons, tolerance {TOLERANCE:.0e})"
        )


def export_model(
    cfg: CfgNode, output: str | Path, form: str, label_map: dict[str, Any] | None = None
) -> ExportReport:
    """Export the model of a config, with the weights of MODEL.WEIGHTS, to a file.

    The number of clips, the number of persons, height and width remain dynamic. The file is written under a
    temporary name and compared with the model. It is deleted if their scores differ.

    Args:
        form: torch or onnx.
        label_map: label map of the classes, to store in the file.

    Raises:
        ConfigError: the config describes neither a detector nor a classifier.
        WeightsError: the weights do not fit, the file cannot be written, or its scores differ from the
            model's by more than TOLERANCE.
        UserError: a package for ONNX is not installed.
    """
    output = Path(output)
    if output.suffix != SUFFIXES[form]:
        raise WeightsError(
            f"{output}: expected the suffix {SUFFIXES[form]} for the format {form}, got '{output.suffix}'"
        )
    if form == "onnx":
        import_onnx_packages("onnx", "onnxscript", "onnxruntime")
    graph = build_graph(cfg)
    metadata = json.dumps(metadata_of(cfg, graph, label_map))
    compared = "boxes and scores" if "boxes" in graph.outputs else "scores"
    cases = list(_cases(cfg, graph))
    with tqdm(total=2 + len(cases), desc="tracing", unit="step", disable=None) as bar:
        program = trace(graph, cfg)
        _next_step(bar, "writing")
        with atomic_write(output) as temporary:
            (write_onnx if form == "onnx" else _write_torch)(program, temporary, metadata, graph)
            del program
            _next_step(bar, "comparing")
            exported = (_load_onnx if form == "onnx" else _load_torch)(temporary)
            difference = _compare(graph, exported, cases, cfg, bar)
            if not difference <= TOLERANCE:
                raise WeightsError(
                    f"{output}: deleted: its {compared} differ from the model's by {difference:.1e}, more "
                    f"than {TOLERANCE:.0e}"
                )
    return ExportReport(output, difference, tuple(cases), compared)


def build_graph(cfg: CfgNode) -> nn.Module:
    """Build the model of a config, with the weights of MODEL.WEIGHTS, as a module whose inputs are tensors.

    Raises:
        ConfigError: the config describes neither a detector nor a classifier.
        WeightsError: the weights do not fit.
    """
    return graph_of(cfg)(build_model_with_weights(cfg, complete=True)).eval().requires_grad_(False)


def trace(graph: nn.Module, cfg: CfgNode) -> torch.export.ExportedProgram:
    """Trace a model for any number of clips and persons and any height and width."""
    patch = cfg.MODEL.BACKBONE.PATCH_SIZE
    dim = torch.export.Dim
    clips, people = dim("clips", min=1), {0: dim("people", min=0)}
    sizes = dict.fromkeys(graph.inputs, people) | {
        "video": {
            0: clips,
            3: patch * dim("rows", min=graph.smallest_grid),
            4: patch * dim("columns", min=graph.smallest_grid),
        }
    }
    if graph.inputs == ONE_STAGE_INPUTS:
        sizes |= {"sizes": {0: clips}, "score_threshold": None}
    with torch.no_grad(), _quiet():
        example = _inputs(graph, cfg, (2, 3, 4 * patch, 5 * patch))
        program = torch.export.export(graph, example, dynamic_shapes=sizes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # contains paths of this machine
    return program


def _write_torch(program: torch.export.ExportedProgram, path: Path, metadata: str, graph: nn.Module) -> None:
    with path.open("wb") as file, _quiet():
        torch.export.save(program, file, extra_files={f"{METADATA_KEY}.json": metadata})


def write_onnx(program: torch.export.ExportedProgram, path: Path, metadata: str, graph: nn.Module) -> None:
    """Write a traced model, with metadata (JSON), to an ONNX file.

    Args:
        graph: what was traced; names the inputs and outputs.

    Raises:
        WeightsError: the model is too large for one file.
    """
    import onnx_ir  # of onnxscript

    size = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    if size > MAX_ONNX_BYTES:
        raise WeightsError(
            f"{path.suffix}: the weights have {size / 2**30:.1f} GiB, but an ONNX file stores at most 2 GiB; "
            "use --format torch"
        )
    with _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=graph.inputs,
            output_names=graph.outputs,
            verbose=False,
        )
    exported.model.metadata_props[METADATA_KEY] = metadata
    for value in exported.model.graph.inputs:
        if value.name in graph.defaults:  # an initializer of the name of an input is its default
            value.const_value = onnx_ir.tensor(graph.defaults[value.name], onnx_ir.DataType.FLOAT)
            exported.model.graph.initializers[value.name] = value
    exported.save(str(path), external_data=False)


def _load_torch(path: Path) -> ExportedFunction:
    return load_program(path)


def _load_onnx(path: Path) -> ExportedFunction:
    session = open_fused_session(path)  # as `detect` opens it
    names = [node.name for node in (*session.get_inputs(), *session.get_overridable_initializers())]

    def run(*inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        outputs = session.run(None, dict(zip(names, (value.numpy() for value in inputs))))
        outputs = tuple(map(torch.from_numpy, outputs))
        return outputs if len(outputs) > 1 else outputs[0]

    return run


def _as_tuple(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


def _compare(
    graph: nn.Module,
    exported: ExportedFunction,
    cases: list[tuple[int, int, int, int]],
    cfg: CfgNode,
    bar: tqdm,
) -> float:
    """Return the largest difference between outputs; infinity if a value is NaN or missing."""
    largest = 0.0
    for case in cases:
        with torch.no_grad():
            inputs = _inputs(graph, cfg, case)
            expected, actual = _as_tuple(graph(*inputs)), _as_tuple(exported(*inputs))
        for name, ours, theirs in zip(graph.outputs, expected, actual):
            if theirs.shape != ours.shape:
                return float("inf")
            if ours.numel():
                unit = max(case[2:]) if name == "boxes" else 1
                difference = float((theirs - ours).abs().max()) / unit
                largest = max(largest, difference) if difference == difference else float("inf")
        bar.update()
    return largest


def _cases(cfg: CfgNode, graph: nn.Module) -> Iterator[tuple[int, int, int, int]]:
    """Yield (clips, persons, height, width): all counts at the training size, then a clip that is wider."""
    patch = cfg.MODEL.BACKBONE.PATCH_SIZE
    side = max(cfg.INPUT.CROP_SIZE, graph.smallest_grid * patch)
    persons = PERSON_COUNTS[:1] if isinstance(graph, ClassifierGraph) else PERSON_COUNTS
    yield from ((clips, number, side, side) for clips in CLIP_COUNTS for number in persons)
    yield 1, persons[-1], side, side + 2 * patch


def _inputs(graph: nn.Module, cfg: CfgNode, case: tuple[int, int, int, int]) -> tuple[torch.Tensor, ...]:
    """Return random inputs for a case (clips, persons, height, width), the same ones in every call."""
    clips, number, height, width = case
    generator = torch.Generator().manual_seed(clips * 100 + number)
    shape = (clips, 3, cfg.INPUT.NUM_FRAMES, height, width)
    video = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    size = torch.tensor([width - 5.0, height - 3.0])
    if graph.inputs == ONE_STAGE_INPUTS:
        sizes = size.expand(clips, 2).clone()
        return video, sizes, graph.threshold_for(video, sizes, number)
    corner, side = torch.rand(2, number, 2, generator=generator)
    boxes = torch.cat([corner / 2, corner / 2 + 0.1 + side / 2], dim=1)
    inputs = {
        "video": video,
        "boxes": boxes * torch.tensor([width, height, width, height]),
        "clips": torch.randint(0, clips, (number,), generator=generator),
        "person_scores": torch.rand(number, generator=generator),
        "sizes": size.expand(number, 2).clone(),
    }
    return tuple(inputs[name] for name in graph.inputs)


def metadata_of(cfg: CfgNode, graph: nn.Module, label_map: dict[str, Any] | None) -> dict[str, Any]:
    """Return what an exported file stores about its model."""
    patch = cfg.MODEL.BACKBONE.PATCH_SIZE
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = cfg.MODEL.BACKBONE.CHECKPOINT = ""
    return {
        "format": FORMAT_VERSION,
        "config": cfg.dump(),
        "label_map": label_map,
        "outputs": graph.outputs,
        "video": {
            "frames": cfg.INPUT.NUM_FRAMES,
            "side_multiple": patch,
            "smallest_side": graph.smallest_grid * patch,
        },
        "versions": {"vmae_det": vmae_det.__version__, "torch": torch.__version__},
    }


def _next_step(bar: tqdm, description: str) -> None:
    bar.update()
    bar.set_description(description)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings and log messages of the exporters."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
