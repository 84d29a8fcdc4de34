"""Output files: checked before the work, written whole or not at all."""

from __future__ import annotations

import errno
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
_MAX_FOLDERS = 200  # to be made for one output
_LONGEST_NAME = 255  # bytes, where the file system does not say
_PIPE_PATIENCE = 30.0  # seconds that a pipe may be without a reader
# Errors of a file that the system reports without its name.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO}
_numbers = itertools.count()


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to. It gets the name `path` when the block ends, and is removed if the block
    fails.

    The content is on disk before it gets its name, and the name is on disk when this returns. Folders are
    made as needed. A link is followed, and its target replaced. What is written goes into a pipe or a
    character device, such as /dev/stdout, when the block ends; nothing ever takes their place.

    Raises:
        OutputError: `path` cannot be written.
    """
    check_output_file(path)
    target, descriptor = _resolve(Path(path))
    if descriptor is not None or _is_stream(target):
        with TemporaryDirectory() as folder:
            temporary = Path(folder) / f"output{target.suffix}"
            yield temporary
            with _blaming(path):
                _copy_into(temporary, target, descriptor)
        return
    with _blaming(path):
        target.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers of videos and pictures choose their format by it.
    suffix = target.suffix if len(target.suffix) <= 20 else ""
    temporary = target.with_name(f".{target.stem[:40]}.{os.getpid()}-{next(_numbers)}.tmp{suffix}")
    try:
        try:
            yield temporary
        except OSError as error:
            if error.filename == str(temporary) or (error.filename is None and error.errno in _DISK):
                raise _output_error(path, error) from error
            raise
        with _blaming(path):
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
            sync_folder(target.parent)
    finally:
        with suppress(OSError):  # on a file system that has become read-only; the first error says so
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, with line breaks as they are; see `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file; numbers that are not finite, which JSON has none of, become null."""
    write_text(path, simplejson.dumps(content, indent=1, ignore_nan=True) + "\n")


def make_output_folder(folder: str | Path) -> Path:
    """Make a folder for outputs, if it is not there yet; OutputError where that is impossible."""
    check_output_folder(folder)
    with _blaming(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def check_output_file(path: str | Path) -> None:
    """Raise OutputError for a path that `atomic_write` could not write; to be called before long work.

    It makes nothing, so that it cannot see a full disk.
    """
    if not str(path):
        raise OutputError(errno.ENOENT, "the path is empty", "''")
    with _blaming(path):
        target, descriptor = _resolve(Path(path))
        if descriptor is not None:
            os.fstat(descriptor)
            return
        with suppress(FileNotFoundError, NotADirectoryError):
            mode = os.stat(target).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, "it is a folder, expected a file")
            if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
                _check_access(target, os.W_OK)
                return
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "it is a block device or a socket, expected a file")
        _check_folder(target.parent, target.name)


def check_output_folder(folder: str | Path) -> None:
    """Raise OutputError for a folder that cannot be made or written into; it makes nothing."""
    if not str(folder):
        raise OutputError(errno.ENOENT, "the path is empty", "''")
    with _blaming(folder):
        _check_folder(Path(folder).absolute())


def _check_folder(folder: Path, name: str = "") -> None:
    """OSError unless `folder` is writable, or can be made, and takes a file of this name."""
    there, missing = folder, [name]
    while not os.path.lexists(there):  # false as well below a file, and for names that are too long
        missing.append(there.name)
        there = there.parent
    if not there.is_dir():
        what = (
            "a link to a folder that is not there"
            if there.is_symlink() and not there.exists()
            else "no folder"
        )
        raise NotADirectoryError(errno.ENOTDIR, f"{there} is {what}")
    if len(missing) > _MAX_FOLDERS:
        raise OSError(errno.ENAMETOOLONG, f"more than {_MAX_FOLDERS} folders would have to be made")
    longest = _longest_name(there)
    if any(len(os.fsencode(name)) > longest for name in missing):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    _check_access(there, os.W_OK | os.X_OK)


def _check_access(path: Path, mode: int) -> None:
    if not os.access(path, mode):
        read_only = hasattr(os, "statvfs") and os.statvfs(path).f_flag & os.ST_RDONLY
        reason = errno.EROFS if read_only else errno.EACCES
        raise OSError(reason, os.strerror(reason))


def _longest_name(folder: Path) -> int:
    return os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else _LONGEST_NAME


def _resolve(path: Path) -> tuple[Path, int | None]:
    """The place that a path leads to through links, and its number if that is an open descriptor.

    A descriptor is not followed: a rename would leave the process with a file that has no name.
    """
    path = path.absolute()
    for _ in range(_MAX_LINKS):
        text = os.path.normpath(path)
        numbered = _DESCRIPTOR_FOLDER.fullmatch(text)
        if numbered or text in _DESCRIPTORS:
            return path, int(numbered[1]) if numbered else _DESCRIPTORS[text]
        if not path.is_symlink():
            return path, None
        path = path.parent / os.readlink(path)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _is_stream(path: Path) -> bool:
    return path.is_fifo() or path.is_char_device()


def _copy_into(source: Path, target: Path, descriptor: int | None) -> None:
    """Write the content of a file to a pipe, a character device or an open descriptor."""
    if descriptor is not None:
        for printed in (sys.stdout, sys.stderr):
            printed.flush()
        opened = os.dup(descriptor)
    else:
        opened = _open_stream(target)
    with os.fdopen(opened, "wb") as stream, source.open("rb") as file:
        shutil.copyfileobj(file, stream)


def _open_stream(path: Path) -> int:
    deadline = time.monotonic() + _PIPE_PATIENCE
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
def _blaming(path: str | Path) -> Iterator[None]:
    """Turn every OSError of a block into an OutputError about `path`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise _output_error(path, error) from error
    except ValueError as error:  # a null byte in the name
        raise OutputError(errno.EINVAL, str(error), str(path)) from error


def _output_error(path: str | Path, error: OSError) -> OutputError:
    return OutputError(error.errno or errno.EIO, error.strerror or str(error), str(path))


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk, where the system can do that."""
    with suppress(OSError):  # not every system opens folders, not every file system syncs them
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
