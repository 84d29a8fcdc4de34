"""Archives of torch.export (.pt2) through PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision  # noqa: F401  # registers the operator RoIAlign

from vmae_det.inference.exported_files import DETECTOR_INPUTS, METADATA_KEY, flatten, parse_metadata, split
from vmae_det.inference.program_check import read_extra, safe_copy
from vmae_det.utils.errors import WeightsError
from vmae_det.utils.memory import is_out_of_memory


def read_torch_metadata(path: Path) -> dict[str, Any]:
    """What `export` wrote beside the graph; WeightsError if there is none."""
    return parse_metadata(read_extra(path, f"{METADATA_KEY}.json"), path)


def load_program(path: Path, device: torch.device | None = None) -> Callable[..., torch.Tensor]:
    """The function in an archive, on a device (None: the CPU), when `safe_copy` has found it safe.

    Raises:
        WeightsError: it is not, or torch cannot load it.
    """
    copy = safe_copy(path)
    heard = _Heard()
    try:
        with heard:
            program = torch.export.load(copy)
        if device is not None and device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        return program.module()
    except Exception as error:  # what a parser says to what is not its own
        raise WeightsError(f"{path}: torch cannot load it: {_first(heard.error or error)}") from None


def _first(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


class _Heard(logging.Filter):
    """Keeps from the terminal what torch.export logs: `error` is the one whose traceback it would print."""

    logger = logging.getLogger("torch.export")
    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info:
            self.error = record.exc_info[1]
        return False

    def __enter__(self) -> None:
        self.logger.addFilter(self)

    def __exit__(self, *_: object) -> None:
        self.logger.removeFilter(self)


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
        try:
            scores = self.program(*(inputs[name].to(self.device) for name in DETECTOR_INPUTS))
            return [part.numpy() for part in split(scores.cpu(), batch)]
        except Exception as error:  # what a graph of others leads to
            if is_out_of_memory(error):
                raise
            raise WeightsError(f"{self.path}: torch cannot run it: {_first(error)}") from None
