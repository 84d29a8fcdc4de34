"""Resume a run: restore a checkpoint, and report how the run differs from the one that wrote it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vmae_det.checkpoint.sharded import (
    initialize_optimizer_state,
    load_full_optimizer_state,
    load_tensors,
    optimizer_state_by_name,
)
from vmae_det.checkpoint.state_dicts import AVERAGED_WEIGHTS
from vmae_det.config import CfgNode
from vmae_det.config.differences import config_differences
from vmae_det.engine.ema import ModelEMA
from vmae_det.utils import distributed

logger = logging.getLogger(__name__)


def restore(
    path: Path,
    state: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: ModelEMA | None,
) -> None:
    """Load weights, optimizer state and EMA from a checkpoint. All processes must call this.

    The tensors may be sharded or not, in the checkpoint and in this run.

    Args:
        path: a file, whose weights are in the model already, or the folder of a sharded checkpoint.
        state: of the checkpoint, as `Checkpointer.load_newest` returns it.

    Raises:
        WeightsError: the checkpoint is damaged, or belongs to another model.
    """
    if path.is_dir():
        initialize_optimizer_state(optimizer)
        targets = {"model": model.state_dict(), "optimizer": optimizer_state_by_name(optimizer)}
        if ema and state["averages"]:
            targets[AVERAGED_WEIGHTS] = ema.state_dict()
        load_tensors(path, targets)
    else:
        load_full_optimizer_state(optimizer, state["optimizer"])
        if ema and AVERAGED_WEIGHTS in state:
            ema.load_state_dict(state[AVERAGED_WEIGHTS])
    if ema and not (state.get("averages") or AVERAGED_WEIGHTS in state):
        ema.reset()
        logger.info("%s contains no EMA weights: the EMA starts at its weights", path)


def report_differences(state: dict[str, Any], cfg: CfgNode, versions: dict[str, str]) -> None:
    """Log the differences in config, code and number of processes between a checkpoint and this run.

    Differences that change the resulting weights are logged as a warning.

    Args:
        state: of the checkpoint.
        versions: of the code that runs now.
    """
    differences = config_differences(state.get("config", ""), cfg)
    harmless = [str(difference) for difference in differences if difference.harmless]
    others = [str(difference) for difference in differences if not difference.harmless]
    saved_versions = state.get("versions", {})
    others += [
        f"{name} {saved_versions[name]} -> {versions[name]}"
        for name in versions
        if name != "python" and saved_versions.get(name, versions[name]) != versions[name]
    ]
    processes = state.get("num_processes", distributed.get_world_size())
    if processes != distributed.get_world_size():
        others.append(f"processes {processes} -> {distributed.get_world_size()}")
    if harmless:
        logger.info("differences from the checkpoint that do not affect the weights: %s", "; ".join(harmless))
    if others:
        logger.warning(
            "the resumed run will not be bit-identical to an uninterrupted one; changed since the "
            "checkpoint: %s",
            "; ".join(others),
        )
