"""Exports a model as a torch.export archive (.pt2) or an ONNX file, and compares the file with the model."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

import vmae_det
from vmae_det.config import CfgNode
from vmae_det.engine.weights import build_model_with_weights
from vmae_det.inference.export.exported_model import (
    DETECTOR_INPUTS,
    FORMAT_VERSION,
    METADATA_KEY,
    ONNX_SUFFIX,
    TORCH_SUFFIX,
    load_program,
    open_fused_session,
)
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

ExportedFunction = Callable[..., torch.Tensor]  # an exported model: takes tensors, returns scores


class DetectorGraph(nn.Module):
    """A detector whose inputs are tensors only."""

    inputs = DETECTOR_INPUTS

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

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Return scores (B, classes) of a video uint8 (B, 3, T, H, W)."""
        return self.model({"video": video})["scores"]


GRAPHS = {"ActionDetector": DetectorGraph, "VideoClassifier": ClassifierGraph}


@dataclass(frozen=True)
class ExportReport:
    """Summary of an export.

    Args:
        path: the exported file.
        difference: largest difference between scores of the file and of the model, over all `cases`.
        cases: (clips, persons, height, width) of each comparison; a classifier has no persons.
    """

    path: Path
    difference: float
    cases: tuple[tuple[int, int, int, int], ...]

    def __str__(self) -> str:
        size = self.path.stat().st_size / 2**20
        return (
            f"{self.path}: {size:.1f} MiB; scores differ from the model's by at most {self.difference:.1e} "
            f"({len(self.cases)} comparisons, tolerance {TOLERANCE:.0e})"
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
    metadata = json.dumps(metadata_of(cfg, label_map))
    cases = list(_cases(cfg, graph))
    with tqdm(total=2 + len(cases), desc="tracing", unit="step", disable=None) as bar:
        program = trace(graph, cfg)
        _next_step(bar, "writing")
        with atomic_write(output) as temporary:
            (write_onnx if form == "onnx" else _write_torch)(program, temporary, metadata, graph.inputs)
            del program
            _next_step(bar, "comparing")
            exported = (_load_onnx if form == "onnx" else _load_torch)(temporary)
            difference = _compare(graph, exported, cases, cfg, bar)
            if not difference <= TOLERANCE:
                raise WeightsError(
                    f"{output}: deleted: its scores differ from the model's by {difference:.1e}, more than "
                    f"{TOLERANCE:.0e}"
                )
    return ExportReport(output, difference, tuple(cases))


def build_graph(cfg: CfgNode) -> nn.Module:
    """Build the model of a config, with the weights of MODEL.WEIGHTS, as a module whose inputs are tensors.

    Raises:
        ConfigError: the config describes neither a detector nor a classifier.
        WeightsError: the weights do not fit.
    """
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture not in GRAPHS:
        raise ConfigError(f"MODEL.META_ARCHITECTURE: expected {' or '.join(GRAPHS)}, got {architecture}")
    return GRAPHS[architecture](build_model_with_weights(cfg, complete=True)).eval().requires_grad_(False)


def trace(graph: nn.Module, cfg: CfgNode) -> torch.export.ExportedProgram:
    """Trace a model for any number of clips and persons and any height and width."""
    patch = cfg.MODEL.BACKBONE.PATCH_SIZE
    dim = torch.export.Dim
    people = {0: dim("people", min=0)}
    sizes = {
        "video": {0: dim("clips", min=1), 3: patch * dim("rows", min=2), 4: patch * dim("columns", min=2)},
        **dict.fromkeys(graph.inputs[1:], people),
    }
    example = _inputs(graph, cfg, (2, 3, 3 * patch, 4 * patch))
    with torch.no_grad(), _quiet():
        program = torch.export.export(graph, example, dynamic_shapes=sizes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # contains paths of this machine
    return program


def _write_torch(
    program: torch.export.ExportedProgram, path: Path, metadata: str, names: tuple[str, ...]
) -> None:
    with path.open("wb") as file, _quiet():
        torch.export.save(program, file, extra_files={f"{METADATA_KEY}.json": metadata})


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, metadata: str, names: tuple[str, ...]
) -> None:
    """Write a traced model, with metadata (JSON), to an ONNX file.

    Args:
        names: names of the inputs.

    Raises:
        WeightsError: the model is too large for one file.
    """
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
            input_names=names,
            output_names=["scores"],
            verbose=False,
        )
    exported.model.metadata_props[METADATA_KEY] = metadata
    exported.save(str(path), external_data=False)


def _load_torch(path: Path) -> ExportedFunction:
    return load_program(path)


def _load_onnx(path: Path) -> ExportedFunction:
    session = open_fused_session(path)  # as `detect` opens it
    names = [node.name for node in session.get_inputs()]

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, dict(zip(names, (value.numpy() for value in inputs))))[0])

    return run


def _compare(
    graph: nn.Module,
    exported: ExportedFunction,
    cases: list[tuple[int, int, int, int]],
    cfg: CfgNode,
    bar: tqdm,
) -> float:
    """Return the largest difference between scores; infinity if a score is NaN or missing."""
    largest = 0.0
    for case in cases:
        inputs = _inputs(graph, cfg, case)
        with torch.no_grad():
            expected, actual = graph(*inputs), exported(*inputs)
        if actual.shape != expected.shape:
            return float("inf")
        if expected.numel():
            difference = float((actual - expected).abs().max())
            largest = max(largest, difference) if difference == difference else float("inf")
        bar.update()
    return largest


def _cases(cfg: CfgNode, graph: nn.Module) -> Iterator[tuple[int, int, int, int]]:
    """Yield (clips, persons, height, width): all counts at the training size, then a clip that is wider."""
    side, patch = cfg.INPUT.CROP_SIZE, cfg.MODEL.BACKBONE.PATCH_SIZE
    persons = PERSON_COUNTS if "boxes" in graph.inputs else PERSON_COUNTS[:1]
    yield from ((clips, number, side, side) for clips in CLIP_COUNTS for number in persons)
    yield 1, persons[-1], side, side + 2 * patch


def _inputs(graph: nn.Module, cfg: CfgNode, case: tuple[int, int, int, int]) -> tuple[torch.Tensor, ...]:
    """Return random inputs for a case (clips, persons, height, width), the same ones in every call."""
    clips, number, height, width = case
    generator = torch.Generator().manual_seed(clips * 100 + number)
    shape = (clips, 3, cfg.INPUT.NUM_FRAMES, height, width)
    video = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    corner, size = torch.rand(2, number, 2, generator=generator)
    boxes = torch.cat([corner / 2, corner / 2 + 0.1 + size / 2], dim=1)
    inputs = {
        "video": video,
        "boxes": boxes * torch.tensor([width, height, width, height]),
        "clips": torch.randint(0, clips, (number,), generator=generator),
        "person_scores": torch.rand(number, generator=generator),
        "sizes": torch.tensor([width - 5.0, height - 3.0]).expand(number, 2).clone(),
    }
    return tuple(inputs[name] for name in graph.inputs)


def metadata_of(cfg: CfgNode, label_map: dict[str, Any] | None) -> dict[str, Any]:
    """Return what an exported file stores about its model."""
    patch = cfg.MODEL.BACKBONE.PATCH_SIZE
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = cfg.MODEL.BACKBONE.CHECKPOINT = ""
    return {
        "format": FORMAT_VERSION,
        "config": cfg.dump(),
        "label_map": label_map,
        "video": {"frames": cfg.INPUT.NUM_FRAMES, "side_multiple": patch, "smallest_side": 2 * patch},
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
