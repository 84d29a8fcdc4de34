"""Opens ONNX files with onnxruntime, which is optional (`pip install 'vmae_det[onnx]'`)."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import torch

from vmae_det.utils import cpu
from vmae_det.utils.errors import UserError, WeightsError

logger = logging.getLogger(__name__)

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


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


def open_session(
    path: Path, device: torch.device | None = None, optimize: bool = True, content: bytes | None = None
) -> Any:
    """Open a file as an onnxruntime.InferenceSession.

    Args:
        device: a GPU is used if onnxruntime can use it, else a warning is logged; None: the CPU.
        optimize: False opens the file faster; use it to read the metadata only.
        content: open this content instead of that of the file.

    Raises:
        UserError: onnxruntime is not installed, or cannot run on the CPU.
        WeightsError: onnxruntime cannot read the file.
    """
    (onnxruntime,) = import_onnx_packages("onnxruntime")
    available = onnxruntime.get_available_providers()
    if _CPU not in available:
        raise UserError(
            f"{path}: this build of onnxruntime has no CPU provider, only {', '.join(available)}: "
            "pip install onnxruntime"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait do not spin, because decoding and drawing need the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not cpu.has_int8_units():
        # The faster int8 kernels overflow in 16 bits on such a CPU. These do not.
        options.add_session_config_entry("session.x64quantprecision", "1")
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    providers: list[Any] = [_CPU]
    on_gpu = device is not None and device.type == "cuda"
    if on_gpu and _CUDA in available:
        # By default all processes use the first GPU.
        providers.insert(0, (_CUDA, {"device_id": device.index or 0}))
    try:
        session = onnxruntime.InferenceSession(content or str(path), options, providers=providers)
    except Exception as error:  # the exceptions of onnxruntime have no common base class
        raise WeightsError(
            f"{path}: not an ONNX model that onnxruntime can read: {first_line(error)}"
        ) from None
    if on_gpu and _CUDA not in session.get_providers():  # also if its libraries cannot be loaded
        remedy = (
            "onnxruntime cannot load its CUDA provider: the CUDA and cuDNN versions of onnxruntime-gpu and "
            "of this machine must match"
            if len(providers) > 1
            else "to run it on the GPU, pip install onnxruntime-gpu"
        )
        logger.warning("%s: runs on the CPU; %s", path, remedy)
    return session


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name, at most 300 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
