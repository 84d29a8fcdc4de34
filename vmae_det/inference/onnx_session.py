"""Opens ONNX files with onnxruntime, which is optional (`pip install 'vmae_det[onnx]'`)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from vmae_det.utils.errors import UserError, WeightsError


def import_onnx_packages(*names: str) -> list[Any]:
    """Import packages of the extra `onnx`.

    Raises:
        UserError: a package is not installed.
    """
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise UserError(
            f"ONNX files need {' and '.join(names)}, but {error.name or 'one of them'} is not installed: "
            "pip install 'vmae_det[onnx]'"
        ) from None


def open_session(path: Path, device: str = "cpu", optimize: bool = True) -> Any:
    """Open a file as an onnxruntime.InferenceSession.

    Args:
        device: `cuda` runs on a GPU if onnxruntime has its CUDA provider; anything else runs on the CPU.
        optimize: False opens the file faster; use it to read the metadata only.

    Raises:
        UserError: onnxruntime is not installed.
        WeightsError: onnxruntime cannot read the file.
    """
    (onnxruntime,) = import_onnx_packages("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    providers = ["CPUExecutionProvider"]
    if device == "cuda" and has_cuda_provider():
        providers.insert(0, "CUDAExecutionProvider")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # the exceptions of onnxruntime have no common base class
        raise WeightsError(
            f"{path}: not an ONNX model that onnxruntime can read: {first_line(error)}"
        ) from None


def has_cuda_provider() -> bool:
    """Return whether the installed onnxruntime can run on a GPU."""
    (onnxruntime,) = import_onnx_packages("onnxruntime")
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name, at most 300 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
