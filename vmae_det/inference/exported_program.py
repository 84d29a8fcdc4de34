"""Archives of torch.export (.pt2) through PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision  # noqa: F401  # registers the operator RoIAlign

from vmae_det.inference.exported_files import DETECTOR_INPUTS, METADATA_KEY, flatten, parse_metadata, split
from vmae_det.inference.program_check import read_extra, safe_copy
from vmae_det.utils.errors import WeightsError


def read_torch_metadata(path: Path) -> dict[str, Any]:
    """What `export` wrote beside the graph; WeightsError if there is none."""
    return parse_metadata(read_extra(path, f"{METADATA_KEY}.json"), path)


def load_program(path: Path, device: torch.device | None = None) -> Callable[..., torch.Tensor]:
    """The function in an archive, on a device (None: the CPU), when `safe_copy` has found it safe.

    Raises:
        WeightsError: it is not, or torch cannot load it.
    """
    copy = safe_copy(path)
    try:
        program = torch.export.load(copy)
        if device is not None and device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        return program.module()
    except Exception as error:  # what a parser says to what is not its own
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise WeightsError(f"{path}: torch cannot load it: {reason}") from None


class ExportedModel:
    """A detector in a .pt2 file; a callable as `backends.Scorer` says."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path = path
        self.device = device
        self.program = load_program(path, device)

    @torch.no_grad()
    def __call__(self, batch: dict) -> list[np.ndarray]:
        """Scores (N_i, classes) of each clip's people."""
        inputs = flatten(batch)
        scores = self.program(*(inputs[name].to(self.device) for name in DETECTOR_INPUTS))
        return [part.numpy() for part in split(scores.cpu(), batch)]
