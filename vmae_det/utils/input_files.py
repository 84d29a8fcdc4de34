"""Input files: how annotations and lists are opened, decompressed and decoded.

Only regular files are read, because pipes and devices may never end and cannot be read twice. The size of
decompressed gzip files is limited.
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

# A gzip file may decompress to FREE_EXPANSION bytes, or to MAX_EXPANSION times its size if that is more.
# Annotation files have compression ratios of 3 to 20. The maximum of gzip, for a file of equal bytes, is
# 1030.
FREE_EXPANSION = 64 << 20
MAX_EXPANSION = 200

GZIP = b"\x1f\x8b"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@contextmanager
def open_input(path: str | Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading bytes, and decompress it if it is gzipped.

    Raises:
        DataError: the file does not exist; it is a folder, a pipe or a device; it cannot be read; it is a
            corrupt gzip file, or decompresses to too many bytes. An OSError in the `with` block is converted
            to it as well.
    """
    path = Path(path)
    try:
        check_regular_file(path)
        with path.open("rb") as file:
            is_gzipped = file.read(2) == GZIP
            file.seek(0)
            yield io.BufferedReader(_LimitedGzip(path, file)) if is_gzipped else file
    except (OSError, EOFError, zlib.error) as error:
        raise read_error(path, error) from None


def read_text(path: str | Path, what: str) -> str:
    """Read a UTF-8 text file, without the byte order mark that Windows editors write.

    Args:
        what: the expected kind of file, for error messages.

    Raises:
        DataError: see `open_input`; or the file is not UTF-8.
    """
    with open_input(path) as file:
        content = file.read()
    return decode(content, path, what)


def decode(content: bytes, path: str | Path, what: str, line: int = 1) -> str:
    """Decode UTF-8 bytes of a file, without a byte order mark.

    Args:
        what: see `read_text`.
        line: line number of the start of `content`.

    Raises:
        DataError: the bytes are not UTF-8.
    """
    try:
        return content.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        got = "UTF-16" if line == 1 and content.startswith(_UTF16) else error.reason
        line += content.count(b"\n", 0, error.start)
        raise DataError(f"expected {what} in UTF-8, got {got}", path, line) from None


def check_regular_file(path: Path) -> None:
    """Raise DataError if a path is not a regular file, and OSError if it does not exist.

    The path is not opened, because opening a pipe waits for a writer.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return
    kinds = ((stat.S_ISFIFO, "pipe"), (stat.S_ISDIR, "folder"), (stat.S_ISSOCK, "socket"))
    kind = next((name for test, name in kinds if test(mode)), "device")
    advice = "" if kind == "folder" else "; save its content to a file first"
    raise DataError(f"cannot be read: expected a file, got a {kind}{advice}", path)


def read_error(path: str | Path, error: Exception) -> DataError:
    """Convert an OSError or a decompression error of a file to a DataError."""
    if isinstance(error, FileNotFoundError):
        return DataError("no such file", path)
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return DataError(f"cannot be read: {reason}", path)


class _LimitedGzip(io.RawIOBase):
    """Decompresses a gzip file, up to the limit of its size."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._content = gzip.GzipFile(fileobj=file)
        self._size = path.stat().st_size
        self._num_read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        count = self._content.readinto(buffer)
        self._num_read += count
        if self._num_read > max(FREE_EXPANSION, MAX_EXPANSION * self._size):
            problem = f"{self._size} bytes of gzip decompress to more than {self._num_read - count} bytes"
            advice = "annotation files do not compress that well; decompress the file if this is intended"
            raise DataError(f"{problem}; {advice}", self._path)
        return count


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
