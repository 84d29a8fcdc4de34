"""How a run goes on from a checkpoint, and what it says about the run that it goes on with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vmae_det.checkpoint.optimizer_state import load_whole, make_tensors, tensors_by_name
from vmae_det.checkpoint.sharded import load_tensors
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
    average: ModelEMA | None,
) -> None:
    """Take weights and optimizer state from a checkpoint, a file or a folder of parts; all processes call.

    The processes may share the tensors, whether those that saved did or not. The weights of a file are in
    the model already.

    Args:
        state: of the checkpoint, as `Checkpointer.load_newest` gives it.

    Raises:
        WeightsError: the checkpoint is damaged, or of another model.
    """
    if path.is_dir():
        make_tensors(optimizer)
        targets = {"model": model.state_dict(), "optimizer": tensors_by_name(optimizer)}
        if average and state["averages"]:
            targets[AVERAGED_WEIGHTS] = average.state_dict()
        load_tensors(path, targets)
    else:
        load_whole(optimizer, state["optimizer"])
        if average and AVERAGED_WEIGHTS in state:
            average.load_state_dict(state[AVERAGED_WEIGHTS])
    if average and not (state.get("averages") or AVERAGED_WEIGHTS in state):
        average.restart()
        logger.info("%s holds no averaged weights: the average starts at its weights", path)


def report_differences(state: dict[str, Any], cfg: CfgNode, versions: dict[str, str]) -> None:
    """Log in what config, code and number of processes differ from those of a checkpoint.

    A warning names what makes the run another one than if it had never been interrupted.

    Args:
        state: of the checkpoint.
        versions: of the code that runs now.
    """
    found = config_differences(state.get("config", ""), cfg)
    harmless = [str(difference) for difference in found if difference.harmless]
    others = [str(difference) for difference in found if not difference.harmless]
    before = state.get("versions", {})
    others += [
        f"{name} {before[name]} -> {versions[name]}"
        for name in versions
        if name != "python" and before.get(name, versions[name]) != versions[name]
    ]
    processes = state.get("num_processes", distributed.get_world_size())
    if processes != distributed.get_world_size():
        others.append(f"processes {processes} -> {distributed.get_world_size()}")
    if harmless:
        logger.info("differs from the checkpoint, without effect on the weights: %s", "; ".join(harmless))
    if others:
        logger.warning(
            "the run will not end, bit for bit, as it would have without the interrupt; since the checkpoint "
            "these changed: %s",
            "; ".join(others),
        )
