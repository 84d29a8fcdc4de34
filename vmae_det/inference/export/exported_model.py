"""Reads and runs exported models: .pt2 files with PyTorch, .onnx files with onnxruntime."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torchvision  # noqa: F401  # registers the operator RoIAlign

from vmae_det.config import CfgNode, get_cfg
from vmae_det.engine.trainer import to_device
from vmae_det.inference.export.archive_check import read_extra_file, safe_copy
from vmae_det.inference.export.onnx_fusion import fuse
from vmae_det.inference.onnx_session import first_line, open_session
from vmae_det.modeling.boxes import clip_indices
from vmae_det.utils.downloads import parse_url
from vmae_det.utils.errors import ConfigError, WeightsError
from vmae_det.utils.memory import is_out_of_memory
from vmae_det.utils.paths import is_url

logger = logging.getLogger(__name__)

T = TypeVar("T")

ONNX_SUFFIX = ".onnx"
TORCH_SUFFIX = ".pt2"
METADATA_KEY = "vmae_det"  # in the metadata of an ONNX file; with .json, among the extra files of a .pt2
FORMAT_VERSION = 2
INT8 = "int8"  # value of `precision` in the metadata of files with int8 weights
DETECTOR_INPUTS = ("video", "boxes", "clips", "person_scores", "sizes")
# Of a detector that finds the persons. In an ONNX file, `score_threshold` has a default.
ONE_STAGE_INPUTS = ("video", "sizes", "score_threshold")
ONE_STAGE_OUTPUTS = ("boxes", "clips", "person_scores", "scores")
# Keys of MODEL that may differ from those of the export; all others are fixed in the graph.
_FREE_KEYS = (
    "WEIGHTS",
    "DEVICE",
    "INIT",
    "COMPILE",
    "COMPILE_SCOPE",
    "CUDA_GRAPHS",
    "BACKBONE.CHECKPOINT",
    "BACKBONE.DROP_PATH",
    "PERSON_HEAD.SCORE_THRESHOLD",
    "PERSON_HEAD.LOSS_WEIGHT",
    "PERSON_HEAD.TRAIN_ALONE",
)
_UNUSED_GROUPS = ("DECODER", "MASK", "RECONSTRUCTION")


def is_exported(source: str | Path) -> bool:
    """Return whether a path or URL has the suffix of an exported model."""
    path = parse_url(str(source)).path if is_url(source) else source
    return Path(path).suffix in (ONNX_SUFFIX, TORCH_SUFFIX)


# ---------------------------------------------------------------- metadata


def read_exported_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata that `export` stores in a file; see `parse_metadata`.

    Raises:
        WeightsError: the file cannot be read, or has no metadata of vmae_det.
        UserError: the file is an ONNX file and onnxruntime is not installed.
    """
    if path.suffix == ONNX_SUFFIX:
        metadata = open_session(path, optimize=False).get_modelmeta().custom_metadata_map
        return parse_metadata(metadata.get(METADATA_KEY), path)
    return parse_metadata(read_extra_file(path, f"{METADATA_KEY}.json"), path)


def parse_metadata(text: str | None, path: Path) -> dict[str, Any]:
    """Parse the metadata of an exported file: `config` (YAML text), `label_map` (dict or None) and others.

    Raises:
        WeightsError: there is no metadata, or it is not that of vmae_det.
    """
    if text is None:
        raise WeightsError(
            f"{path}: contains no metadata of vmae_det; expected a file written by `vmae-det export`"
        )
    try:
        metadata = json.loads(text)
        version = metadata["format"]
        valid = isinstance(metadata["config"], str) and isinstance(metadata["label_map"], (dict, type(None)))
    except (ValueError, KeyError, TypeError, RecursionError):
        valid, version = False, None
    if not valid:
        raise WeightsError(f"{path}: its metadata is damaged; expected a file written by `vmae-det export`")
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"{path}: metadata of version {version}, expected {FORMAT_VERSION}: export the model again"
        )
    return metadata


def check_overrides(cfg: CfgNode, exported_config: str, path: Path) -> None:
    """Raise a ConfigError if a config describes another model than the exported one.

    Args:
        exported_config: config of the exported model, YAML text.
        path: the exported file, for the message.
    """
    exported = get_cfg()
    exported.merge_from_text(exported_config, str(path))
    requested = _fixed_keys(cfg)
    for key, value in _fixed_keys(exported).items():
        if requested[key] != value:
            raise ConfigError(
                f"{key}: {requested[key]!r}, but {path} was exported with {value!r}; export the model again"
            )


def _fixed_keys(cfg: CfgNode) -> dict[str, Any]:
    """Return the keys, with their values, that are fixed in an exported graph."""
    fixed = {
        f"MODEL.{key}": value
        for key, value in _flat_keys(cfg.MODEL)
        if key not in _FREE_KEYS and key.split(".")[0] not in _UNUSED_GROUPS
    }
    return fixed | {"INPUT.NUM_FRAMES": cfg.INPUT.NUM_FRAMES}


def _flat_keys(node: CfgNode, prefix: str = "") -> list[tuple[str, Any]]:
    keys = []
    for key, value in node.items():
        is_group = isinstance(value, CfgNode)
        keys += _flat_keys(value, f"{prefix}{key}.") if is_group else [(prefix + key, value)]
    return keys


# ---------------------------------------------------------------- inputs and outputs


def flatten_batch(batch: dict) -> dict[str, torch.Tensor]:
    """Convert a batch, with lists by clip, to the inputs of an exported model, in their order.

    Returns:
        For a classifier `video`. For a detector
        `video` uint8 (B, 3, T, H, W), and with one row per person `boxes` (R, 4), `clips` (R,) int64 (index
        of the person's clip), `person_scores` (R,) and `sizes` (R, 2). For a detector that finds the persons,
        whose batch has no boxes, `video` and `sizes` (B, 2).
    """
    if "boxes" not in batch:
        sizes = {"sizes": torch.stack(batch["size"])} if "size" in batch else {}
        return {"video": batch["video"]} | sizes
    clips = clip_indices(batch["boxes"])
    return {
        "video": batch["video"],
        "boxes": torch.cat(batch["boxes"]),
        "clips": clips,
        "person_scores": torch.cat(batch["person_scores"]),
        "sizes": torch.stack(batch["size"])[clips],
    }


def split_scores(scores: torch.Tensor, batch: dict) -> list[np.ndarray]:
    """Split scores (R, classes) into a list by clip; a classifier has one row per clip."""
    counts = [len(boxes) for boxes in batch["boxes"]] if "boxes" in batch else 1
    return [clip_scores.numpy() for clip_scores in scores.split(counts)]


def split_batch(batch: dict) -> Iterator[dict]:
    """Yield a batch of one clip for each clip of a batch."""
    keys = [key for key in ("video", "boxes", "person_scores", "size") if key in batch]
    for number in range(len(batch["video"])):
        yield {key: batch[key][number : number + 1] for key in keys}


class FoundPersons(NamedTuple):
    """The persons that a detector finds in each clip, and their scores.

    Args:
        boxes: list of (N_i, 4) float32, xyxy pixels of the clip.
        person_scores: list of (N_i,) float32.
        scores: list of (N_i, classes) float32.
    """

    boxes: list[np.ndarray]
    person_scores: list[np.ndarray]
    scores: list[np.ndarray]

    @classmethod
    def split(cls, outputs: Sequence[torch.Tensor], clips: int) -> FoundPersons:
        """Split the outputs of an exported model by clip.

        Args:
            outputs: those of `ONE_STAGE_OUTPUTS`, with a row for each person, sorted by clip.
            clips: number of clips.
        """
        by_name = dict(zip(ONE_STAGE_OUTPUTS, outputs))
        counts = torch.bincount(by_name["clips"], minlength=clips).tolist()
        return cls(*([part.numpy() for part in by_name[name].split(counts)] for name in cls._fields))


# ---------------------------------------------------------------- ONNX


def open_fused_session(path: Path) -> Any:
    """Open an ONNX file for the CPU, with fused operators of onnxruntime if the package `onnx` is installed.

    Raises:
        UserError, WeightsError: see `open_session`.
    """
    with suppress(ImportError):
        import onnx

        # A file that is damaged or has other operators than expected: onnxruntime opens it itself.
        with suppress(Exception):
            model = onnx.load(str(path), load_external_data=False)
            if fuse(model):
                return open_session(path, content=model.SerializeToString())
    return open_session(path)


class OnnxModel:
    """A model in an ONNX file; a `scorers.Scorer`.

    An int8 file scores the clips of a batch one by one: it scales activations by their range in the input, so
    that in a batch the score of a clip would depend on the other clips.

    Args:
        person_threshold: persons that the model finds have this score or more; None: it finds no persons.
    """

    def __init__(self, path: Path, device: torch.device, person_threshold: float | None = None) -> None:
        self.path = path
        self.is_int8 = read_exported_metadata(path).get("precision") == INT8
        if self.is_int8 and device.type != "cpu":
            logger.warning("%s: runs on the CPU; its int8 operators are for CPUs", path)
            device = torch.device("cpu")
        self.session = open_fused_session(path) if device.type == "cpu" else open_session(path, device)
        self.input_names = [node.name for node in self.session.get_inputs()]
        self.person_threshold = person_threshold
        self.finds_persons = person_threshold is not None
        self.takes_boxes = not self.finds_persons

    def __call__(self, batch: dict) -> list[np.ndarray]:
        """Return the scores (N_i, classes) of each clip's persons."""
        if self.is_int8 and len(batch["video"]) > 1:
            return [self(clip)[0] for clip in split_batch(batch)]
        inputs = flatten_batch(batch)
        (scores,) = self._run(["scores"], {name: inputs[name] for name in self.input_names})
        return split_scores(scores, batch)

    def find(self, batch: dict) -> FoundPersons:
        """Return the persons that the model finds, and their scores."""
        if self.is_int8 and len(batch["video"]) > 1:
            found = zip(*(self.find(clip) for clip in split_batch(batch)))
            return FoundPersons(*([part for clip in column for part in clip] for column in found))
        inputs = flatten_batch(batch) | {"score_threshold": torch.tensor(self.person_threshold)}
        return FoundPersons.split(self._run(ONE_STAGE_OUTPUTS, inputs), len(batch["video"]))

    def _run(self, outputs: Sequence[str], inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        try:
            values = self.session.run(outputs, {name: value.numpy() for name, value in inputs.items()})
        except Exception as error:  # the exceptions of onnxruntime have no common base class
            raise WeightsError(f"{self.path}: onnxruntime cannot run it: {first_line(error)}") from None
        return [torch.from_numpy(value) for value in values]


# ---------------------------------------------------------------- torch.export


def load_program(path: Path, device: torch.device | None = None) -> Callable[..., torch.Tensor]:
    """Load the function in a torch.export archive on a device (None: the CPU), after checking its safety.

    Raises:
        WeightsError: the archive is refused by `safe_copy`, or torch cannot load it.
    """
    copy = safe_copy(path)
    silenced = _SilencedLog()
    try:
        with silenced:
            program = torch.export.load(copy)
        if device is not None and device.type != "cpu":
            program = move_program(program, device)
        return program.module()
    except Exception as error:  # an untrusted file can cause any exception
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        reason = first_line(silenced.error or error)
        raise WeightsError(f"{path}: torch cannot load it: {reason}") from None


def move_program(program: torch.export.ExportedProgram, device: torch.device) -> torch.export.ExportedProgram:
    """Move the weights and constants of an exported program, and the devices in its graph, to a device."""
    try:
        from torch.export.passes import move_to_device_pass
    except ImportError:
        raise RuntimeError(
            f"this version of torch runs it only on the CPU; set MODEL.DEVICE cpu, or install torch 2.5 or "
            f"newer to run it on {device}"
        ) from None
    program = move_to_device_pass(program, str(device))
    # Before torch 2.9 the pass does not move conversions (`aten.to.device`): their results stay on the CPU.
    for node in program.graph.nodes:
        node.args = tuple(device if isinstance(value, torch.device) else value for value in node.args)
    return program


class _SilencedLog(logging.Filter):
    """Suppresses the log of torch.export; `error` is the exception whose traceback it would have logged."""

    logger = logging.getLogger("torch.export")
    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info:
            self.error = record.exc_info[1]
        return False

    def __enter__(self) -> None:
        self.logger.addFilter(self)

    def __exit__(self, *_: object) -> None:
        self.logger.removeFilter(self)


class TorchExportModel:
    """A model in a .pt2 file; a `scorers.Scorer`. See `OnnxModel` for the arguments."""

    def __init__(self, path: Path, device: torch.device, person_threshold: float | None = None) -> None:
        self.path = path
        self.device = device
        self.program = load_program(path, device)
        self.person_threshold = person_threshold
        self.finds_persons = person_threshold is not None
        self.takes_boxes = not self.finds_persons

    def __call__(self, batch: dict) -> list[np.ndarray]:
        """Return the scores (N_i, classes) of each clip's persons."""
        return self._run(flatten_batch(batch), lambda scores: split_scores(scores.cpu(), batch))

    def find(self, batch: dict) -> FoundPersons:
        """Return the persons that the model finds, and their scores."""
        inputs = flatten_batch(batch) | {"score_threshold": torch.tensor(self.person_threshold)}
        clips = len(batch["video"])
        return self._run(inputs, lambda outputs: FoundPersons.split([part.cpu() for part in outputs], clips))

    @torch.no_grad()
    def _run(self, inputs: dict[str, torch.Tensor], split: Callable[[Any], T]) -> T:
        """Run the program, and convert its outputs with `split`."""
        try:
            return split(self.program(*to_device(inputs, self.device).values()))
        except Exception as error:  # an untrusted graph can cause any exception
            if is_out_of_memory(error):
                raise
            raise WeightsError(f"{self.path}: torch cannot run it: {first_line(error)}") from None
