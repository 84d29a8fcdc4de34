"""Set up a run: device, output folder, logging and checks of the config."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import vmae_det
from vmae_det.config import CfgNode, check_config
from vmae_det.config.checks import unused_keys
from vmae_det.config.size_bounds import clips_per_pass, min_training_bytes
from vmae_det.engine.num_classes import resolve_num_classes
from vmae_det.utils import cpu, distributed
from vmae_det.utils.errors import ConfigError, UserError
from vmae_det.utils.logging import setup_logging
from vmae_det.utils.memory import device_memory, format_bytes
from vmae_det.utils.moved import moved_names
from vmae_det.utils.output_files import make_output_folder, write_text
from vmae_det.utils.watchdog import write_stacks_to
from vmae_det.video.readers.base import get_reader_class

logger = logging.getLogger(__name__)

__getattr__ = moved_names(
    __name__, {"run_training": "vmae_det.engine.train", "run_evaluation": "vmae_det.engine.evaluation"}
)

FINAL_WEIGHTS = "model_final.pt"
METRICS = "metrics.jsonl"


def get_device(cfg: CfgNode) -> torch.device:
    """Return the device that MODEL.DEVICE names: the CPU, or the GPU of this process.

    With several processes, a GPU becomes the current device of its process.

    Raises:
        ConfigError: the device is not available, or does not support SOLVER.AMP; another process uses the
            GPU of this process.
    """
    name = cfg.MODEL.DEVICE
    if name == "mps":
        _check_mps(cfg)
        return torch.device("mps")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"MODEL.DEVICE: cuda, but torch finds no GPU on this machine ({_why_no_gpu()}); set it to cpu or "
            "auto, or see https://pytorch.org/get-started/locally for how to install torch with CUDA"
        )
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    count, local_rank = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", 0))
    if distributed.get_world_size() > 1:
        if local_rank >= count:
            gpus = f"{count} GPU{'s' * (count > 1)}"
            raise ConfigError(f"--num-gpus: process {local_rank + 1} finds only {gpus} on this machine")
        torch.cuda.set_device(local_rank)
    return torch.device("cuda", torch.cuda.current_device())


def _why_no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return f"CUDA_VISIBLE_DEVICES is '{os.environ['CUDA_VISIBLE_DEVICES']}'"
    return (
        f"torch {torch.__version__} needs a driver for CUDA {torch.version.cuda}; nvidia-smi shows the "
        "installed one"
    )


def _check_mps(cfg: CfgNode) -> None:
    """Raise a ConfigError if this run cannot use MPS, the GPU of an Apple computer."""
    if not torch.backends.mps.is_available():
        reason = (
            "torch finds no MPS device: this computer or its version of macOS does not support it"
            if torch.backends.mps.is_built()
            else f"torch {torch.__version__} is built without MPS: that needs macOS on Apple silicon"
        )
        raise ConfigError(f"MODEL.DEVICE: mps, but {reason}; set it to cpu or auto")
    if _torch_version() < (2, 5):  # it has no torch.autocast for MPS, not even a disabled one
        raise ConfigError(
            f"MODEL.DEVICE: mps needs torch 2.5 or newer, got {torch.__version__}; set it to cpu or auto"
        )
    processes, amp = distributed.get_world_size(), cfg.SOLVER.AMP
    if processes > 1:
        raise ConfigError(f"--num-gpus: got {processes}, but MODEL.DEVICE mps supports a single process")
    if amp == "fp16" or (amp == "bf16" and _torch_version() < (2, 6)):
        remedy = "; bf16 needs torch 2.6 or newer" if amp == "bf16" else ""
        raise ConfigError(f"SOLVER.AMP: {amp} is not supported with MODEL.DEVICE mps; set it to none{remedy}")


def _torch_version() -> tuple[int, ...]:
    return tuple(int(part) for part in torch.__version__.split(".")[:2])


@functools.cache  # once per run: each model of a pipeline calls it
def warn_about_device(device: torch.device, amp: str) -> None:
    """Log a warning on the main process if a device is untested, or slow in a precision (SOLVER.AMP)."""
    if not distributed.is_main_process():
        return
    if device.type == "mps":
        logger.warning(
            "MODEL.DEVICE: mps is untested; compare the results with those of cpu. Operators that MPS lacks "
            "run on the CPU%s",
            ""
            if os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK") == "1"
            else " if the environment variable PYTORCH_ENABLE_MPS_FALLBACK is 1 before torch is imported",
        )
    if device.type == "cuda" and amp == "bf16" and not has_bfloat16_units(device):
        logger.warning(
            "SOLVER.AMP: bf16, but %s (compute capability %d.%d, below 8.0) has no bfloat16 units, so that "
            "bf16 is emulated, which is slow; set it to fp16 or none",
            torch.cuda.get_device_name(device),
            *torch.cuda.get_device_capability(device),
        )
    if device.type == "cpu" and amp != "none" and cpu.is_bfloat16_emulated():
        logger.warning("SOLVER.AMP: %s is emulated on this CPU, which is slower than none (float32)", amp)


def has_bfloat16_units(gpu: torch.device) -> bool:
    """Return whether a GPU computes in bfloat16. Otherwise torch emulates it."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(gpu) >= (8, 0)


def choose_amp(device: torch.device) -> tuple[str, str]:
    """Return the value of SOLVER.AMP that is fastest on a device and safe in training, and why."""
    if device.type == "cuda":
        if has_bfloat16_units(device):
            return "bf16", "the GPU supports bfloat16"
        return "fp16", "the GPU has no bfloat16 units"
    if device.type == "cpu" and (units := cpu.bfloat16_units()):
        return "bf16", f"the CPU has {units}"
    return "none", "no bfloat16 units are known"


def setup_device(cfg: CfgNode) -> torch.device:
    """Return `get_device(cfg)`. For the CPU, also set the threads, the GEMM kernels and the allocator."""
    device = get_device(cfg)
    if device.type == "cpu":
        torch.set_num_threads(cpu.count_threads(cfg.DATALOADER.NUM_WORKERS))
        cpu.use_fast_gemm()
        cpu.keep_freed_memory()
    return device


def setup_run(cfg: CfgNode, training: bool = True) -> torch.device:
    """Check the config, create OUTPUT_DIR, start logging, save the config there, and return the device.

    Raises:
        ConfigError: the config is invalid, its video reader is not available, or OUTPUT_DIR cannot be written
            to or contains a training run that an evaluation would overwrite.
    """
    check_config(cfg)
    get_reader_class(cfg.DATALOADER.READER).check_available()
    resolve_num_classes(cfg)
    device = setup_device(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    try:
        make_output_folder(folder)
        if not training and any((folder / name).exists() for name in (METRICS, FINAL_WEIGHTS)):
            raise ConfigError(
                f"OUTPUT_DIR: {folder} contains a training run; this would overwrite its config.yaml and "
                f"results.json; choose another folder, such as OUTPUT_DIR {folder / 'test'}"
            )
        setup_logging(folder)
        if distributed.is_main_process():
            write_text(folder / "config.yaml", cfg.dump())
        write_stacks_to(folder)
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR: {folder} cannot be written to: {error.strerror or error}") from None
    logger.info(
        "vmae_det %s, torch %s, %d process(es) on %s; config in %s",
        vmae_det.__version__,
        torch.__version__,
        distributed.get_world_size(),
        device,
        folder / "config.yaml",
    )
    warn_about_device(device, cfg.SOLVER.AMP)
    for line in unused_keys(cfg):
        if training or line.startswith("TEST."):
            logger.warning(line)
    return device


def check_training_memory(cfg: CfgNode, device: torch.device) -> None:
    """Refuse a run that cannot fit into the memory of the device.

    Raises:
        ConfigError: it names the key to change, the memory needed and the memory available.
    """
    available = device_memory(device)
    model, clips = min_training_bytes(cfg, distributed.get_world_size())
    if model + clips > available:
        number = clips_per_pass(cfg, distributed.get_world_size())
        raise ConfigError(
            f"{'MODEL.BACKBONE' if model > available else 'SOLVER.BATCH_SIZE'}: a process needs at least "
            f"{format_bytes(model)} for weights, gradients and optimizer state, and {format_bytes(clips)} "
            f"for the {number} clips of a forward pass; its device has {format_bytes(available)}. A larger "
            "SOLVER.ACCUMULATE makes forward passes smaller"
        )


def write_on_main_process(write: Callable[[], Any]) -> None:
    """Call `write` on the main process. All processes must call this; an error is raised on all of them.

    Raises:
        UserError: raised by `write`.
        ConfigError: a file cannot be written.
    """
    error: UserError | None = None
    if distributed.is_main_process():
        try:
            write()
        except UserError as problem:
            error = problem
        except OSError as problem:
            where = f"{problem.filename}: " if problem.filename else ""
            error = ConfigError(f"OUTPUT_DIR: {where}cannot be written: {problem.strerror or problem}")
    distributed.raise_together(error)
