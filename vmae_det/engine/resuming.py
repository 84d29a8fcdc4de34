"""What a resumed run says about the run that it goes on with."""

from __future__ import annotations

import logging
from typing import Any

from vmae_det.config import CfgNode
from vmae_det.config.differences import config_differences
from vmae_det.utils import distributed

logger = logging.getLogger(__name__)


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
