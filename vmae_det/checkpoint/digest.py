"""A file and its SHA-256 beside it, in the form of `sha256sum`."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, BinaryIO

import torch

from vmae_det.utils.errors import WeightsError
from vmae_det.utils.output_files import atomic_write, write_text

DIGEST_SUFFIX = ".sha256"


class _Hashing:
    """Passes bytes on to a file, and keeps their digest and the first error of the file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`."""
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self.file.flush()


def write_with_digest(content: dict[str, Any], path: Path) -> None:
    """Write a file of PyTorch's whole or not at all, and `path`.sha256 beside it.

    The digest is that of the bytes that were meant to be written, so it finds a fault of the disk too. A file
    that replaces another is for a moment without one, and never with that of the other.

    Raises:
        OSError: the disk is full, the folder read-only, and the like.
    """
    beside = path.with_name(path.name + DIGEST_SUFFIX)
    with atomic_write(path) as temporary:
        digest = save_torch(content, temporary)
        replaces = path.exists()
        if replaces:
            beside.unlink(missing_ok=True)
        else:
            _note(digest, path, beside)
    if replaces:
        _note(digest, path, beside)


def save_torch(content: dict[str, Any], path: Path) -> str:
    """`torch.save`, with the file's own error where it cannot be written; gives the SHA-256 of the file."""
    with path.open("wb") as file:
        hashing = _Hashing(file)
        try:
            torch.save(content, hashing)
        except RuntimeError:  # torch's own, in place of the file's
            if hashing.error is None:
                raise
            raise hashing.error from None
    return hashing.digest.hexdigest()


def _note(digest: str, path: Path, beside: Path) -> None:
    write_text(beside, f"{digest}  {path.name}\n")


def check_digest(path: Path) -> bool:
    """Whether there is a digest beside a file.

    Raises:
        WeightsError: the file has another one, or is gone.
    """
    beside = path.with_name(path.name + DIGEST_SUFFIX)
    try:
        text = beside.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise WeightsError(f"{beside}: cannot be read: {error.strerror or error}") from None
    if not re.match(r"[0-9a-f]{64}\b", text):
        raise WeightsError(f"{beside}: expected a SHA-256, got '{text[:20].strip()}'")
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            for part in iter(lambda: file.read(1 << 20), b""):
                digest.update(part)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from None
    found = digest.hexdigest()
    if found != text[:64]:
        raise WeightsError(
            f"{path}: damaged: its SHA-256 begins with {found[:8]}, {beside.name} says {text[:8]}"
        )
    return True
