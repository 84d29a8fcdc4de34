"""Save the state of a run, keep the last few checkpoints, and find the newest intact one to resume from.

Each file is written atomically, with its SHA-256 next to it in the format of `sha256sum`.
"""

from __future__ import annotations

import copy
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
from vmae_det.checkpoint.files import read_checkpoint
from vmae_det.checkpoint.torch_files import save_torch
from vmae_det.utils import distributed
from vmae_det.utils.errors import WeightsError
from vmae_det.utils.input_files import sha256_of
from vmae_det.utils.output_files import atomic_write, write_text

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint_(\d+)(\.pt)?$")


class Checkpointer:
    """Saves the state of a run in a folder, and loads the newest intact checkpoint from it.

    The main process writes `checkpoint_STEP.pt` and its SHA-256. If tensors are sharded, all processes write
    to a folder `checkpoint_STEP`. Writing happens in a thread, while training continues.

    Args:
        folder: created when the first checkpoint is written.
        keep: number of latest checkpoints to keep.
        sharded: whether tensors are sharded, so that all processes save.
    """

    def __init__(self, folder: str | Path, keep: int = 3, sharded: bool = False) -> None:
        self.folder = Path(folder)
        self.keep = keep
        self.sharded = sharded
        self._thread: threading.Thread | None = None
        self._error: WeightsError | None = None

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Copy `state` to CPU memory and start writing it. Waits until the previous checkpoint is written.

        Checkpoints older than the last `keep` are removed afterwards.

        Raises:
            WeightsError: the previous checkpoint could not be written.
        """
        self.wait()
        path = self.folder / f"checkpoint_{step:07d}"
        if self.sharded:
            temporary = self.folder / f".{path.name}.tmp"
            writing = sharded.save_tensors(state, temporary)
            other_state = _copy_to_cpu(sharded.non_tensor_state(state))
            self._start(path, lambda: self._finish_sharded(writing, other_state, temporary, path))
        else:
            path = path.with_suffix(".pt")
            state = _copy_to_cpu(state)
            self._start(path, lambda: _write_with_digest(state, path))
        return path

    def _start(self, path: Path, write: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=self._write, args=(path, write), name="checkpoint")
        self._thread.start()

    def _finish_sharded(
        self, writing: Future, other_state: dict[str, Any], temporary: Path, path: Path
    ) -> None:
        writing.result()
        if distributed.is_main_process():
            sharded.finish(other_state, temporary, path)

    def wait(self) -> None:
        """Wait until everything is on disk. WeightsError if it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    @property
    def failed(self) -> bool:
        """Whether writing a checkpoint has failed so far."""
        return self._error is not None

    def check(self) -> None:
        """Raise WeightsError if writing a checkpoint has failed so far. Does not wait."""
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
            # Failures of several processes come as torch's CheckpointException, a BaseException. It is
            # recognized by its attribute, since importing its module takes a second.
            if not (isinstance(error, OSError) or hasattr(error, "failures")):
                raise
            remaining = [other.name for other in self.all() if other != path]
            newest = f"the newest on disk is {remaining[-1]}" if remaining else "none is on disk"
            self._error = WeightsError(
                f"{path}: the checkpoint cannot be written: {_reason(error)}; {newest}"
            )

    def all(self) -> list[Path]:
        """Return the checkpoints in the folder, ordered by step."""
        return sorted(path for path in self.folder.glob("checkpoint_*") if _NAME.fullmatch(path.name))

    def load_newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest intact checkpoint and its state, or None if there is none.

        All processes must call this. The main process chooses the checkpoint, logs which one and why newer
        ones were skipped, and removes what an interrupted process has left half-written.

        Raises:
            WeightsError: this process cannot read the checkpoint that the main process has chosen.
        """
        newest = None
        if distributed.is_main_process():
            self._remove_unfinished()
            newest = self._newest()
        chosen = distributed.all_gather_object(newest and str(newest[0]))[0]
        if chosen is None or newest is not None:
            return newest
        return Path(chosen), _read(Path(chosen))

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        paths = self.all()
        for num_skipped, path in enumerate(reversed(paths)):
            try:
                has_checksum = sharded.verify_checksums(path) if path.is_dir() else verify_digest(path)
                state = _read(path)
            except WeightsError as error:
                logger.warning("skipped a checkpoint: %s", error)
                continue
            logger.info(
                "%s is the newest %scheckpoint of %d in the folder%s",
                path.name,
                "intact " if num_skipped else "",
                len(paths),
                ", its checksum is correct" if has_checksum else "; it has no checksum, but is readable",
            )
            return path, state
        return None

    def _remove_unfinished(self) -> None:
        for path in self.folder.glob(".checkpoint_*.tmp*"):
            logger.info("removed %s, which was never finished", path.name)
            _remove(path)


def _read(path: Path) -> dict[str, Any]:
    return sharded.read_non_tensor_state(path) if path.is_dir() else read_checkpoint(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        # If this is interrupted, the remainder must not look like a checkpoint.
        temporary = path.with_name(f".{path.name}.tmp")
        path.rename(temporary)
        shutil.rmtree(temporary)
    else:
        path.unlink(missing_ok=True)
        _digest_path(path).unlink(missing_ok=True)


def _reason(error: BaseException) -> str:
    """Return the reason of the operating system, from the first process that has one."""
    if hasattr(error, "failures"):
        causes = [failure[0] for failure in error.failures.values()]
        error = next((cause for cause in causes if isinstance(cause, OSError)), causes[0])
    return getattr(error, "strerror", None) or str(error)


def _copy_to_cpu(value: Any) -> Any:
    """Copy all tensors in a value to CPU memory, so that later steps do not change them."""
    if torch.is_tensor(value):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy_to_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy_to_cpu(item) for item in value)
    return value


def save_weights(
    state_dict: dict[str, torch.Tensor],
    config: str,
    path: str | Path,
    label_map: dict[str, Any] | None = None,
    **extras: Any,
) -> Path:
    """Write the weights of a model atomically, with its config and label map, and the SHA-256 next to it.

    Detection on a video needs no other file.

    Args:
        state_dict: parameters under our names.
        config: config of the model as YAML.
        label_map: fields of a LabelMap.
        extras: plain data to store as well.

    Raises:
        WeightsError: the file cannot be written.
    """
    path = Path(path)
    # From tensors on a GPU, `torch.save` would write a file that `torch.load` reads only where there is one.
    state_dict = copy.copy(state_dict)
    state_dict.update({name: value.cpu() for name, value in state_dict.items()})
    try:
        _write_with_digest({"model": state_dict, "config": config, "label_map": label_map, **extras}, path)
    except OSError as error:
        raise WeightsError(f"{path}: the weights cannot be written: {error.strerror or error}") from None
    return path


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _write_with_digest(content: dict[str, Any], path: Path) -> None:
    """Write a file of `torch.save` atomically, and its SHA-256 to `path`.sha256.

    The digest is computed from the bytes in memory, so that it also reveals errors of the disk. While a file
    replaces another, it has no digest for a moment, but never that of the other file.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """
    digest_path = _digest_path(path)

    def write_digest() -> None:
        write_text(digest_path, f"{digest}  {path.name}\n")

    with atomic_write(path) as temporary:
        digest = save_torch(content, temporary)
        replaces = path.exists()
        if replaces:
            digest_path.unlink(missing_ok=True)
        else:
            write_digest()
    if replaces:
        write_digest()


def verify_digest(path: Path) -> bool:
    """Return whether a file has a SHA-256 next to it, and check it.

    Raises:
        WeightsError: the file does not match the SHA-256, or one of the two cannot be read.
    """
    digest_path = _digest_path(path)
    try:
        text = digest_path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise WeightsError(f"{digest_path}: cannot be read: {error.strerror or error}") from None
    if not re.match(r"[0-9a-f]{64}\b", text):
        raise WeightsError(f"{digest_path}: expected a SHA-256, got '{text[:20].strip()}'")
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from None
    if digest != text[:64]:
        raise WeightsError(
            f"{path}: damaged: its SHA-256 begins with {digest[:8]}, but {digest_path.name} has {text[:8]}"
        )
    return True
