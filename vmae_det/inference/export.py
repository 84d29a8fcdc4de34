"""Models as files that run without this program: torch.export's archive (.pt2) and ONNX."""

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
from vmae_det.engine.setup import build_model_with_weights
from vmae_det.inference.exported_files import (
    DETECTOR_INPUTS,
    FORMAT_VERSION,
    METADATA_KEY,
    ONNX_SUFFIX,
    TORCH_SUFFIX,
)
from vmae_det.inference.exported_program import load_program
from vmae_det.inference.onnx_files import need, open_session
from vmae_det.utils.errors import ConfigError, WeightsError
from vmae_det.utils.output_files import atomic_write

TOLERANCE = 1e-4  # largest difference of a score, in [0, 1], from the model's own
OPSET = 18
# Of ONNX files; a file of protobuf holds no more.
MAX_ONNX_BYTES = 2**31 - 2**20
BATCHES = (1, 4)
PEOPLE = (0, 1, 3)
SUFFIXES = {"torch": TORCH_SUFFIX, "onnx": ONNX_SUFFIX}

Runner = Callable[..., torch.Tensor]  # an exported model: tensors in, scores out


class DetectorGraph(nn.Module):
    """A detector as a function of tensors alone."""

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
        """Scores (R, classes) of R people in a video uint8 (B, 3, T, H, W); see `ActionDetector.scores`."""
        return self.model.scores(self.model.normalization(video), boxes, clips, person_scores, sizes)


class ClassifierGraph(nn.Module):
    """A classifier as a function of tensors alone."""

    inputs = ("video",)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Scores (B, classes) of a video uint8 (B, 3, T, H, W)."""
        return self.model({"video": video})["scores"]


GRAPHS = {"ActionDetector": DetectorGraph, "VideoClassifier": ClassifierGraph}


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares.

    Args:
        difference: the largest of a score, over all `cases`.
        cases: (clips, people, height, width) of each comparison; a classifier has no people.
    """

    path: Path
    difference: float
    cases: tuple[tuple[int, int, int, int], ...]

    def __str__(self) -> str:
        size = self.path.stat().st_size / 2**20
        return (
            f"{self.path}: {size:.1f} MiB; scores differ from the model's by {self.difference:.1e} at most "
            f"({len(self.cases)} comparisons, {TOLERANCE:.0e} allowed)"
        )


def export_model(
    cfg: CfgNode, output: str | Path, form: str, label_map: dict[str, Any] | None = None
) -> ExportReport:
    """Write the model that a config describes, with the weights of MODEL.WEIGHTS, as a file of its own.

    The number of clips, of people, height and width stay free. The file is compared with the model before it
    gets its name, and is not kept if they differ.

    Args:
        form: torch or onnx.
        label_map: of the classes, to travel in the file.

    Raises:
        ConfigError: the config is of another model than a detector or classifier.
        WeightsError: the weights do not fit, the file cannot be written, or its scores differ from the
            model's by more than TOLERANCE.
        UserError: a package for ONNX is missing.
    """
    output = Path(output)
    if output.suffix != SUFFIXES[form]:
        raise WeightsError(f"{output}: ends in '{output.suffix}'; a file of {form} ends in {SUFFIXES[form]}")
    if form == "onnx":
        need("onnx", "onnxscript", "onnxruntime")
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture not in GRAPHS:
        raise ConfigError(f"MODEL.META_ARCHITECTURE: expected {' or '.join(GRAPHS)}, got {architecture}")
    graph = GRAPHS[architecture](build_model_with_weights(cfg, complete=True)).eval().requires_grad_(False)
    metadata = json.dumps(_metadata(cfg, label_map))
    cases = list(_cases(cfg, graph))
    with tqdm(total=2 + len(cases), desc="tracing", unit="step", disable=None) as bar:
        program = trace(graph, cfg)
        _step(bar, "writing")
        with atomic_write(output) as temporary:
            (_write_onnx if form == "onnx" else _write_torch)(program, temporary, metadata, graph.inputs)
            del program
            _step(bar, "comparing")
            runner = (_onnx_runner if form == "onnx" else _torch_runner)(temporary)
            difference = _compare(graph, runner, cases, cfg, bar)
            if not difference <= TOLERANCE:
                raise WeightsError(
                    f"{output}: not kept: its scores differ from the model's by {difference:.1e}, more "
                    f"than {TOLERANCE:.0e}"
                )
    return ExportReport(output, difference, tuple(cases))


def trace(graph: nn.Module, cfg: CfgNode) -> torch.export.ExportedProgram:
    """The operations of a model, for any number of clips and people and any height and width."""
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
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program


def _write_torch(
    program: torch.export.ExportedProgram, path: Path, metadata: str, names: tuple[str, ...]
) -> None:
    with path.open("wb") as file, _quiet():
        torch.export.save(program, file, extra_files={f"{METADATA_KEY}.json": metadata})


def _write_onnx(
    program: torch.export.ExportedProgram, path: Path, metadata: str, names: tuple[str, ...]
) -> None:
    size = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    if size > MAX_ONNX_BYTES:
        raise WeightsError(
            f"{path.suffix}: the weights have {size / 2**30:.1f} GiB, and a file of ONNX holds 2 at most; "
            "export it as torch"
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


def _torch_runner(path: Path) -> Runner:
    return load_program(path)


def _onnx_runner(path: Path) -> Runner:
    session = open_session(path)
    names = [node.name for node in session.get_inputs()]

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, dict(zip(names, (value.numpy() for value in inputs))))[0])

    return run


def _compare(
    graph: nn.Module, runner: Runner, cases: list[tuple[int, int, int, int]], cfg: CfgNode, bar: tqdm
) -> float:
    """The largest difference of scores; infinite where a score is not a number or one is missing."""
    largest = 0.0
    for case in cases:
        inputs = _inputs(graph, cfg, case)
        with torch.no_grad():
            expected, actual = graph(*inputs), runner(*inputs)
        if actual.shape != expected.shape:
            return float("inf")
        if expected.numel():
            difference = float((actual - expected).abs().max())
            largest = max(largest, difference) if difference == difference else float("inf")
        bar.update()
    return largest


def _cases(cfg: CfgNode, graph: nn.Module) -> Iterator[tuple[int, int, int, int]]:
    """(clips, people, height, width): all numbers at the size of training, then a clip of another shape."""
    side, patch = cfg.INPUT.CROP_SIZE, cfg.MODEL.BACKBONE.PATCH_SIZE
    people = PEOPLE if "boxes" in graph.inputs else PEOPLE[:1]
    yield from ((batch, number, side, side) for batch in BATCHES for number in people)
    yield 1, people[-1], side, side + 2 * patch


def _inputs(graph: nn.Module, cfg: CfgNode, case: tuple[int, int, int, int]) -> tuple[torch.Tensor, ...]:
    """Made-up inputs of a graph, always the same ones for a case (clips, people, height, width)."""
    batch, number, height, width = case
    generator = torch.Generator().manual_seed(batch * 100 + number)
    shape = (batch, 3, cfg.INPUT.NUM_FRAMES, height, width)
    video = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    corner, size = torch.rand(2, number, 2, generator=generator)
    boxes = torch.cat([corner / 2, corner / 2 + 0.1 + size / 2], dim=1)
    inputs = {
        "video": video,
        "boxes": boxes * torch.tensor([width, height, width, height]),
        "clips": torch.randint(0, batch, (number,), generator=generator),
        "person_scores": torch.rand(number, generator=generator),
        "sizes": torch.tensor([width - 5.0, height - 3.0]).expand(number, 2).clone(),
    }
    return tuple(inputs[name] for name in graph.inputs)


def _metadata(cfg: CfgNode, label_map: dict[str, Any] | None) -> dict[str, Any]:
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


def _step(bar: tqdm, description: str) -> None:
    bar.update()
    bar.set_description(description)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' words on their own inner affairs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
