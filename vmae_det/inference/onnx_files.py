"""ONNX files through onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vmae_det.inference.exported_files import METADATA_KEY, flatten, parse_metadata, split
from vmae_det.utils.errors import UserError, WeightsError


def need(*names: str) -> list[Any]:
    """Modules of the extra `onnx`; UserError if one is not installed."""
    import importlib

    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise UserError(
            f"ONNX files need {' and '.join(names)}, of which {error.name or 'one'} is missing here: "
            "pip install 'vmae_det[onnx]'"
        ) from None


def open_session(path: Path, device: str = "cpu", optimize: bool = True) -> Any:
    """The onnxruntime.InferenceSession of a file.

    Args:
        device: `cuda` runs on a GPU where onnxruntime has its part for that; all else on the CPU.
        optimize: False is quicker to open, for who wants no more than the metadata.

    Raises:
        UserError: onnxruntime is missing.
        WeightsError: the file is no ONNX model that it can read.
    """
    (onnxruntime,) = need("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    providers = ["CPUExecutionProvider"]
    if device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime has many kinds, without a common base
        raise WeightsError(f"{path}: not an ONNX model that onnxruntime can read: {_first(error)}") from None


def read_onnx_metadata(path: Path) -> dict[str, Any]:
    """What `export` wrote beside the graph; WeightsError if there is none."""
    session = open_session(path, optimize=False)
    return parse_metadata(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), path)


class OnnxModel:
    """A detector in an ONNX file; a callable as `backends.Scorer` says."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path = path
        self.session = open_session(path, device.type)
        self.names = [node.name for node in self.session.get_inputs()]

    def __call__(self, batch: dict) -> list[np.ndarray]:
        """Scores (N_i, classes) of each clip's people."""
        inputs = {name: value.numpy() for name, value in flatten(batch).items()}
        try:
            (scores,) = self.session.run(["scores"], {name: inputs[name] for name in self.names})
        except Exception as error:  # as above
            raise WeightsError(f"{self.path}: onnxruntime cannot run it: {_first(error)}") from None
        return [part.numpy() for part in split(torch.from_numpy(scores), batch)]


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
