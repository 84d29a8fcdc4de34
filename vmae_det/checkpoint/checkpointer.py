"""Saving a run so that it can go on: whole files, the last few kept, the newest found again."""

from __future__ import annotations

import logging
import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from vmae_det.checkpoint import sharded
from vmae_det.checkpoint.digest import DIGEST_SUFFIX, check_digest, write_with_digest
from vmae_det.checkpoint.files import read_checkpoint
from vmae_det.utils import distributed
from vmae_det.utils.errors import WeightsError

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint_(\d+)(\.pt)?$")


class Checkpointer:
    """Saves the state of a run in a folder, and reads the newest checkpoint there that is whole.

    The main process saves to `checkpoint_STEP.pt`, with its SHA-256 beside it, as `sha256sum` writes it; or,
    where processes share the tensors, all save to a folder `checkpoint_STEP`. Threads write, so that training
    goes on.

    Args:
        folder: made when the first checkpoint is written.
        keep: how many of the latest stay.
        sharded: whether processes share the tensors, so that all of them save.
    """

    def __init__(self, folder: str | Path, keep: int = 3, sharded: bool = False) -> None:
        self.folder = Path(folder)
        self.keep = keep
        self.sharded = sharded
        self._thread: threading.Thread | None = None
        self._error: WeightsError | None = None

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Copy `state` to the CPU's memory and start to write it; waits for the writing before it.

        What is older than the last `keep` goes when it is written.

        Raises:
            WeightsError: the checkpoint before could not be written.
        """
        self.wait()
        path = self.folder / f"checkpoint_{step:07d}"
        if self.sharded:
            part = self.folder / f".{path.name}.tmp"
            writing = sharded.start_to_write(state, part)
            rest = _copy(sharded.rest_of(state))
            self._start(path, lambda: self._finish_sharded(writing, rest, part, path))
        else:
            path = path.with_suffix(".pt")
            state = _copy(state)
            self._start(path, lambda: write_with_digest(state, path))
        return path

    def _start(self, path: Path, write: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=self._write, args=(path, write), name="checkpoint")
        self._thread.start()

    def _finish_sharded(self, writing: Future, rest: dict[str, Any], part: Path, path: Path) -> None:
        writing.result()
        if distributed.is_main_process():
            sharded.finish(rest, part, path)

    def wait(self) -> None:
        """Return when all that was saved is on disk; WeightsError if it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    @property
    def failed(self) -> bool:
        """Whether a checkpoint could not be written, as far as is known by now."""
        return self._error is not None

    def check(self) -> None:
        """WeightsError if a checkpoint could not be written, as far as is known by now; waits for nothing."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(self, path: Path, write: Callable[[], None]) -> None:
        try:
            write()
            if distributed.is_main_process():
                for old in self.all()[: -self.keep]:
                    _remove(old)
        except BaseException as error:
            # The failures of several processes come in torch's CheckpointException, a BaseException. Its
            # module takes a second to import, so it is told by its attribute.
            if not (isinstance(error, OSError) or hasattr(error, "failures")):
                raise
            kept = [other.name for other in self.all() if other != path]
            rest = f"the newest on disk is {kept[-1]}" if kept else "there is none on disk"
            self._error = WeightsError(f"{path}: the checkpoint cannot be written: {_reason(error)}; {rest}")

    def all(self) -> list[Path]:
        """The checkpoints in the folder, by step."""
        return sorted(path for path in self.folder.glob("checkpoint_*") if _NAME.fullmatch(path.name))

    def load_newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that is whole and its state; None if there is none.

        The log says which it is, and why newer ones are passed over. All processes call this, and take the
        checkpoint that the first of them has chosen; what an ended process has left half-written goes.

        Raises:
            WeightsError: this process cannot read what the first has chosen.
        """
        found = None
        if distributed.is_main_process():
            self._remove_half_written()
            found = self._newest()
        chosen = distributed.all_gather_object(found and str(found[0]))[0]
        if chosen is None or found is not None:
            return found
        return Path(chosen), _read(Path(chosen))

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        paths = self.all()
        for passed_over, path in enumerate(reversed(paths)):
            try:
                checked = sharded.check_sums(path) if path.is_dir() else check_digest(path)
                state = _read(path)
            except WeightsError as error:
                logger.warning("passed over: %s", error)
                continue
            logger.info(
                "%s is the newest %scheckpoint of %d in the folder%s",
                path.name,
                "whole " if passed_over else "",
                len(paths),
                ", its checksum is right" if checked else "; it has no checksum, but can be read",
            )
            return path, state
        return None

    def _remove_half_written(self) -> None:
        for path in self.folder.glob(".checkpoint_*.tmp*"):
            logger.info("removed %s, which was never finished", path.name)
            _remove(path)


def _read(path: Path) -> dict[str, Any]:
    return sharded.read_rest(path) if path.is_dir() else read_checkpoint(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        half = path.with_name(
            f".{path.name}.tmp"
        )  # what is left of it, if this is interrupted, is no checkpoint
        path.rename(half)
        shutil.rmtree(half)
    else:
        path.unlink(missing_ok=True)
        path.with_name(path.name + DIGEST_SUFFIX).unlink(missing_ok=True)


def _reason(error: BaseException) -> str:
    """What the system said, of the first process that met something."""
    if hasattr(error, "failures"):
        causes = [failure[0] for failure in error.failures.values()]
        error = next((cause for cause in causes if isinstance(cause, OSError)), causes[0])
    return getattr(error, "strerror", None) or str(error)


def _copy(value: Any) -> Any:
    """A copy in the CPU's memory that later steps do not change."""
    if torch.is_tensor(value):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(item) for item in value)
    return value


def save_weights(
    state_dict: dict[str, torch.Tensor],
    config: str,
    path: str | Path,
    label_map: dict[str, Any] | None = None,
    **extras: Any,
) -> Path:
    """Write the weights of a model with its config as text and its classes, whole or not at all, and the
    file's SHA-256 beside it.

    Such a file is all that detection on a video needs.

    Args:
        extras: plain data to go with them.

    Raises:
        WeightsError: the file cannot be written.
    """
    path = Path(path)
    try:
        write_with_digest({"model": state_dict, "config": config, "label_map": label_map, **extras}, path)
    except OSError as error:
        raise WeightsError(f"{path}: the weights cannot be written: {error.strerror or error}") from None
    return path
