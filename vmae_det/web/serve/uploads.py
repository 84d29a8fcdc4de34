"""Receives the body of a request as a file. It is never in memory as a whole."""

from __future__ import annotations

import errno
import re
import shutil
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from vmae_det.web.errors import RequestError

FREE_BYTES = 2**30  # of the disk that videos must leave for results
_BUFFER = 2**20  # bytes that are written at once
_MAX_NAME = 80  # characters
_FULL = "the disk of the server is full"


def check_disk(folder: Path, size: int) -> None:
    """Raise RequestError if a file of this size would fill the disk."""
    if shutil.disk_usage(folder).free < size + FREE_BYTES:
        raise RequestError(507, _FULL)


def safe_name(name: str) -> str:
    """Return a file name without characters that a path, a pattern of frames or a URL gives a meaning."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    stem, _, suffix = re.sub(r"[^\w.-]+", "_", last).strip("._- ").rpartition(".")
    if not stem:
        stem, suffix = suffix, ""
    # A name has at most 255 bytes, of which results need some.
    stem = stem[:_MAX_NAME].encode()[:180].decode(errors="ignore").strip("._") or "video"
    suffix = re.sub(r"[^A-Za-z0-9]", "", suffix)[:8]
    return f"{stem}.{suffix or 'mp4'}"


async def save_body(request: Request, path: Path, timeout: float, report: Callable[[int], None]) -> int:
    """Write the body of a request to a file; return its size.

    Args:
        report: called with the bytes received. An exception that it raises ends the upload.

    Raises:
        ClientDisconnect: the client has gone.
        RequestError: the body is empty or takes too long, or the disk is full.
    """
    end = time.monotonic() + timeout
    size, buffer = 0, bytearray()
    try:
        with path.open("xb") as file:
            async for part in request.stream():
                report(size)
                if time.monotonic() > end:
                    raise RequestError(408, f"the video did not arrive within {timeout:g} s")
                size += len(part)
                buffer += part
                if len(buffer) >= _BUFFER:
                    await run_in_threadpool(_write, file, buffer, path.parent)
            await run_in_threadpool(_write, file, buffer, path.parent)
    except OSError as error:
        report(size)  # if the job was cancelled, its folder is gone
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RequestError(507, _FULL) from None
        raise
    if not size:
        raise RequestError(400, "expected the bytes of a video as the body of the request")
    return size


def _write(file: BinaryIO, buffer: bytearray, folder: Path) -> None:
    check_disk(folder, len(buffer))
    file.write(buffer)
    buffer.clear()
