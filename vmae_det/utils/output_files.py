"""Output files: checked before long work, and written atomically."""

from __future__ import annotations

import errno
import glob
import itertools
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import simplejson

from vmae_det.utils.errors import OutputError

_DESCRIPTORS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR_FOLDER = re.compile(r"(?:/dev/fd|/proc/self/fd)/([0-9]{1,6})")
_MAX_LINKS = 40  # as in Linux
_MAX_NEW_FOLDERS = 200  # per output
_MAX_NAME_BYTES = 255  # if the file system does not report it
_PIPE_TIMEOUT = 30.0  # seconds to wait for a reader of a pipe
# Errors that the system can report without a file name.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO}
_counter = itertools.count()


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file atomically. Yields a temporary path, which is renamed to `path` when the block ends.

    If the block fails, the temporary file is removed and `path` is unchanged. The content and the new name
    are synced to disk. Parent folders are created. A symbolic link is followed, and its target replaced. For
    a pipe or a character device, such as /dev/stdout, the content is copied into it when the block ends; the
    device itself is never replaced.

    Raises:
        OutputError: `path` cannot be written.
    """
    check_output_file(path)
    target, descriptor = _resolve(Path(path))
    if descriptor is not None or _is_stream(target):
        with TemporaryDirectory() as folder:
            temporary = Path(folder) / f"output{target.suffix}"
            yield temporary
            with _as_output_error(path):
                _copy_into(temporary, target, descriptor)
        return
    with _as_output_error(path):
        target.parent.mkdir(parents=True, exist_ok=True)
    start, suffix = _temporary_name(target)
    temporary = target.with_name(f"{start}{os.getpid()}-{next(_counter)}{suffix}")
    try:
        try:
            yield temporary
        except OSError as error:
            if error.filename == str(temporary) or (error.filename is None and error.errno in _DISK_ERRORS):
                raise _output_error(path, error) from error
            raise
        with _as_output_error(path):
            with temporary.open(
                "rb" if os.name == "posix" else "r+b"
            ) as file:  # Windows syncs files to write
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
            sync_folder(target.parent)
    finally:
        with suppress(OSError):  # if the file system became read-only, which the first error reports
            temporary.unlink(missing_ok=True)


def _temporary_name(target: Path) -> tuple[str, str]:
    """Return start and end of the names of the temporary files of `atomic_write`."""
    # Keep the suffix, because video and image writers choose the format by it.
    suffix = target.suffix if len(target.suffix) <= 20 else ""
    return f".{target.stem[:40]}.", f".tmp{suffix}"


def remove_leftovers(path: Path, older_than: float) -> None:
    """Remove temporary files of `path` that killed processes left, if nothing was written to them for a time.

    Args:
        older_than: seconds.
    """
    start, end = _temporary_name(path)
    for file in path.parent.glob(f"{glob.escape(start)}*-*{glob.escape(end)}"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > older_than:
                file.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically, without converting line breaks. See `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file atomically. NaN and infinity, which JSON does not support, are written as null."""
    write_text(path, simplejson.dumps(content, indent=1, ignore_nan=True) + "\n")


def make_output_folder(folder: str | Path) -> Path:
    """Create a folder for outputs if it does not exist. Raise OutputError if that is not possible."""
    check_output_folder(folder)
    with _as_output_error(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def check_output_file(path: str | Path) -> None:
    """Raise OutputError for a path that `atomic_write` cannot write. Call this before long work.

    It creates nothing, so it does not detect a full disk.
    """
    if not str(path):
        raise OutputError(errno.ENOENT, "the path is empty", "''")
    with _as_output_error(path):
        target, descriptor = _resolve(Path(path))
        if descriptor is not None:
            os.fstat(descriptor)
            return
        with suppress(FileNotFoundError, NotADirectoryError):
            mode = os.stat(target).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, "expected a file, got a folder")
            if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
                _check_access(target, os.W_OK)
                return
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "expected a file, got a block device or a socket")
        _check_folder(target.parent, target.name)


def check_output_folder(folder: str | Path) -> None:
    """Raise OutputError for a folder that cannot be created or written to. Creates nothing."""
    if not str(folder):
        raise OutputError(errno.ENOENT, "the path is empty", "''")
    with _as_output_error(folder):
        _check_folder(Path(folder).absolute())


def _check_folder(folder: Path, name: str = "") -> None:
    """Raise OSError unless `folder` exists or can be created, is writable, and accepts this file name."""
    existing, missing = folder, [name]
    while not os.path.lexists(existing):  # also false below a file, and for names that are too long
        missing.append(existing.name)
        existing = existing.parent
    if not existing.is_dir():
        is_broken_link = existing.is_symlink() and not existing.exists()
        what = "a link to a folder that does not exist" if is_broken_link else "not a folder"
        raise NotADirectoryError(errno.ENOTDIR, f"{existing} is {what}")
    if len(missing) > _MAX_NEW_FOLDERS:
        raise OSError(errno.ENAMETOOLONG, f"more than {_MAX_NEW_FOLDERS} folders would have to be created")
    max_bytes = _max_name_bytes(existing)
    if any(len(os.fsencode(name)) > max_bytes for name in missing):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    _check_access(existing, os.W_OK | os.X_OK)


def _check_access(path: Path, mode: int) -> None:
    if not os.access(path, mode):
        read_only = hasattr(os, "statvfs") and os.statvfs(path).f_flag & os.ST_RDONLY
        reason = errno.EROFS if read_only else errno.EACCES
        raise OSError(reason, os.strerror(reason))


def _max_name_bytes(folder: Path) -> int:
    return os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else _MAX_NAME_BYTES


def _resolve(path: Path) -> tuple[Path, int | None]:
    """Follow symbolic links; return the final path, and its number if it is an open file descriptor.

    Descriptors are not followed, because a rename would leave the process with an unlinked file.
    """
    path = path.absolute()
    for _ in range(_MAX_LINKS):
        text = os.path.normpath(path)
        match = _DESCRIPTOR_FOLDER.fullmatch(text)
        if match or text in _DESCRIPTORS:
            return path, int(match[1]) if match else _DESCRIPTORS[text]
        if not path.is_symlink():
            return path, None
        path = path.parent / os.readlink(path)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _is_stream(path: Path) -> bool:
    return path.is_fifo() or path.is_char_device()


def _copy_into(source: Path, target: Path, descriptor: int | None) -> None:
    """Copy a file into a pipe, a character device or an open descriptor."""
    if descriptor is not None:
        for output in (sys.stdout, sys.stderr):
            output.flush()
        opened = os.dup(descriptor)
    else:
        opened = _open_stream(target)
    with os.fdopen(opened, "wb") as stream, source.open("rb") as file:
        shutil.copyfileobj(file, stream)


def _open_stream(path: Path) -> int:
    deadline = time.monotonic() + _PIPE_TIMEOUT
    while True:
        try:
            opened = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO or not path.is_fifo():
                raise
            if time.monotonic() > deadline:
                raise OSError(errno.ENXIO, "no process reads from this pipe") from None
            time.sleep(0.05)
        else:
            os.set_blocking(opened, True)
            return opened


@contextmanager
def _as_output_error(path: str | Path) -> Iterator[None]:
    """Convert an OSError in the block to an OutputError about `path`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise _output_error(path, error) from error
    except ValueError as error:  # a null byte in the path
        raise OutputError(errno.EINVAL, str(error), str(path)) from error


def _output_error(path: str | Path, error: OSError) -> OutputError:
    return OutputError(error.errno or errno.EIO, error.strerror or str(error), str(path))


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder to disk, if the system supports it."""
    with suppress(OSError):  # some systems cannot open folders, some file systems cannot sync them
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
