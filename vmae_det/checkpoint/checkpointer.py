"""Saving a run so that it can go on: whole files, the last few kept, the newest found again."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch

from vmae_det.checkpoint.files import read_checkpoint
from vmae_det.utils.errors import WeightsError
from vmae_det.utils.files import write_whole

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint_(\d+)\.pt$")


class Checkpointer:
    """Saves the state of a run as `checkpoint_STEP.pt` in a folder, and reads the newest that is whole.

    Args:
        folder: made when the first checkpoint is written.
        keep: how many of the latest stay.
    """

    def __init__(self, folder: str | Path, keep: int = 3) -> None:
        self.folder = Path(folder)
        self.keep = keep

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Write `state` whole or not at all, then delete what is older than the last `keep`."""
        path = self.folder / f"checkpoint_{step:07d}.pt"
        with write_whole(path) as temporary:
            torch.save(state, temporary)
        for old in self.all()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def all(self) -> list[Path]:
        """The checkpoints in the folder, by step."""
        return sorted(path for path in self.folder.glob("checkpoint_*.pt") if _NAME.search(path.name))

    def load_newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that can be read and its state; None if there is none."""
        for path in reversed(self.all()):
            try:
                return path, read_checkpoint(path)
            except WeightsError as error:
                logger.warning("passed over: %s", error)
        return None


def save_weights(
    state_dict: dict[str, torch.Tensor],
    config: str,
    path: str | Path,
    label_map: dict[str, Any] | None = None,
) -> Path:
    """Write the weights of a model with its config as text and its classes, whole or not at all.

    Such a file is all that detection on a video needs.
    """
    with write_whole(Path(path)) as temporary:
        torch.save({"model": state_dict, "config": config, "label_map": label_map}, temporary)
    return Path(path)
