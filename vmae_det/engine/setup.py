"""Set up a run: device, output folder, logging and checks of the config."""

from __future__ import annotations

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
from vmae_det.modeling import model_class
from vmae_det.utils import cpu, distributed
from vmae_det.utils.errors import ConfigError, UserError
from vmae_det.utils.logging import setup_logging
from vmae_det.utils.memory import device_memory, in_gb
from vmae_det.utils.moved import moved_names
from vmae_det.utils.output_files import make_output_folder, write_text
from vmae_det.utils.watchdog import write_stacks_to

logger = logging.getLogger(__name__)

__getattr__ = moved_names(
    __name__, {"run_training": "vmae_det.engine.train", "run_evaluation": "vmae_det.engine.evaluation"}
)

FINAL_WEIGHTS = "model_final.pt"
METRICS = "metrics.jsonl"


def get_device(cfg: CfgNode) -> torch.device:
    """Return the device that MODEL.DEVICE names: the CPU, or the GPU of this process.

    Raises:
        ConfigError: MODEL.DEVICE is cuda and torch finds no GPU.
    """
    name = cfg.MODEL.DEVICE
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("MODEL.DEVICE: cuda, but torch finds no GPU on this machine; set it to cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def setup_device(cfg: CfgNode) -> torch.device:
    """Return `get_device(cfg)`. For the CPU, also set the threads, the GEMM kernels and the allocator."""
    device = get_device(cfg)
    if device.type == "cpu":
        # Leave a core for each loader worker, because threads that share a core wait for each other.
        cores = (os.cpu_count() or 1) // distributed.get_world_size()
        torch.set_num_threads(max(cores - cfg.DATALOADER.NUM_WORKERS, 1))
        cpu.use_fast_gemm()
        cpu.keep_freed_memory()
    return device


def setup_run(cfg: CfgNode, training: bool = True) -> torch.device:
    """Check the config, create OUTPUT_DIR, start logging, save the config there, and return the device.

    Raises:
        ConfigError: the config is invalid, OUTPUT_DIR cannot be written to, or it contains a training run
            that an evaluation would overwrite.
    """
    check_config(cfg)
    model_class(cfg)
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
    if training:
        for line in unused_keys(cfg):
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
            f"{in_gb(model)} for weights, gradients and optimizer state, and {in_gb(clips)} for the {number} "
            f"clips of a forward pass; its device has {in_gb(available)}. A larger SOLVER.ACCUMULATE makes "
            "forward passes smaller"
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
