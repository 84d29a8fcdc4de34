"""Files from outside: text and packed data, opened in one way by all readers of annotations and lists.

A pipe or a device has no end that one could rely on, and cannot be read twice: only regular files are read.
What a small gzip file unfolds into is bounded.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vmae_det.utils.errors import DataError

# A gzip file may expand to this many bytes whatever its own size, and beyond to so many times its size.
# Annotation files compress 3 to 20 times; gzip's limit, which a file of equal bytes reaches, is 1030 times.
FREE_EXPANSION = 64 << 20
MAX_EXPANSION = 200

GZIP = b"\x1f\x8b"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@contextmanager
def open_input(path: str | Path) -> Iterator[BinaryIO]:
    """The bytes of a regular file, unpacked where it is gzipped.

    Raises:
        DataError: there is no such file; it is a folder, a pipe or a device; it cannot be read; it is a
            broken gzip file, or one that expands too far. Errors of the system in the block become one, too.
    """
    path = Path(path)
    try:
        check_regular_file(path)
        with path.open("rb") as file:
            packed = file.read(2) == GZIP
            file.seek(0)
            yield io.BufferedReader(_Expanding(path, file)) if packed else file
    except (OSError, EOFError, zlib.error) as error:
        raise read_error(path, error) from None


def read_text(path: str | Path, what: str) -> str:
    """The text of a file in UTF-8, without the byte order mark that editors of Windows put before it.

    Args:
        what: the kind of file that is expected, for the error.

    Raises:
        DataError: as of `open_input`; or the file is not UTF-8.
    """
    with open_input(path) as file:
        content = file.read()
    return decode(content, path, what)


def decode(content: bytes, path: str | Path, what: str, line: int = 1) -> str:
    """The text that bytes of a file are in UTF-8, without a byte order mark.

    Args:
        line: number of the line that `content` begins with.
    """
    try:
        return content.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        got = "UTF-16" if line == 1 and content.startswith(_UTF16) else error.reason
        line += content.count(b"\n", 0, error.start)
        raise DataError(f"expected {what} in UTF-8, got {got}", path, line) from None


def check_regular_file(path: Path) -> None:
    """DataError where a path is no regular file; OSError where it is nothing. Nothing is opened: to open a
    pipe would wait for a writer."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return
    kinds = ((stat.S_ISFIFO, "pipe"), (stat.S_ISDIR, "folder"), (stat.S_ISSOCK, "socket"))
    kind = next((name for test, name in kinds if test(mode)), "device")
    advice = "" if kind == "folder" else "; write its content to a file first"
    raise DataError(f"cannot be read: expected a file, got a {kind}{advice}", path)


def read_error(path: str | Path, error: Exception) -> DataError:
    """The error for a file that the system or its packing keeps from being read."""
    if isinstance(error, FileNotFoundError):
        return DataError("no such file", path)
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return DataError(f"cannot be read: {reason}", path)


class _Expanding(io.RawIOBase):
    """A gzip file's content, up to the bound."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._content = gzip.GzipFile(fileobj=file)
        self._size = path.stat().st_size
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        count = self._content.readinto(buffer)
        self._given += count
        if self._given > max(FREE_EXPANSION, MAX_EXPANSION * self._size):
            problem = f"its {self._size} bytes of gzip expand to more than {self._given - count} bytes"
            advice = "annotation files do not compress that far; unpack it if it is meant so"
            raise DataError(f"{problem}: {advice}", self._path)
        return count


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
