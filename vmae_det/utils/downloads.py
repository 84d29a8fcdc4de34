"""Download files over http(s) into a cache, with retries, resuming and checksums.

No library is used for this: the downloads of torch.hub, iopath and pooch do not resume. That of
huggingface_hub does, but is private and does not notice if the file changes on the server in the meantime.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from functools import lru_cache
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from filelock import FileLock
from tqdm import tqdm

from vmae_det.utils.errors import UserError
from vmae_det.utils.input_files import sha256_of

logger = logging.getLogger(__name__)

SHA256_DIGITS = 64
_CHUNK_BYTES = 1 << 20
_TIMEOUT = 30.0  # seconds without data
# Seconds to wait before each retry. The list starts again after an attempt that received data.
_RETRY_DELAYS = (1.0, 2.0, 4.0, 8.0)
_RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)
_UNSAFE = re.compile(r"[^\w.+-]")


class DownloadError(UserError):
    """A file cannot be downloaded. The message begins with its URL."""


def cache_folder() -> Path:
    """Return $VMAE_DET_CACHE, or ~/.cache/vmae_det if it is not set."""
    return Path(os.environ.get("VMAE_DET_CACHE") or Path.home() / ".cache" / "vmae_det")


def download(url: str, sha256: str | None = None) -> Path:
    """Return the path of the file at an http(s) URL in the cache. Downloads it if it is not there.

    A download whose connection breaks is resumed with an HTTP range request if the server supports it, also
    in a later run of the program. The file gets its name when it is complete. If several processes download
    the same URL at the same time, one of them downloads it and the others wait.

    Args:
        sha256: expected SHA-256 of the file as 64 hexadecimal digits, or its first digits; None if it is
            unknown.

    Raises:
        DownloadError: the server does not answer, has no such file, or sends a file with another SHA-256.
    """
    target = _cached_path(url)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if target.is_file() and (sha256 is None or _matches(target, sha256)):
                return target
            _download(url, target, sha256)
    except OSError as error:
        reason = error.strerror or error
        raise DownloadError(f"{url}: cannot be written to {target.parent}: {reason}") from None
    return target


def _matches(path: Path, sha256: str) -> bool:
    """Return whether the SHA-256 of a file starts with the given digits."""
    status = path.stat()
    return _cached_sha256(path, status.st_mtime_ns, status.st_size).startswith(sha256.lower())


@lru_cache(maxsize=16)  # one command may read the config, the label map and the weights of a large file
def _cached_sha256(path: Path, modified: int, size: int) -> str:
    return sha256_of(path)


def check_reachable(url: str, timeout: float = 5.0) -> None:
    """Raise a DownloadError if the file at a URL is not in the cache and its server does not answer.

    Makes one request without retries. A server that answers with an error is reachable: `download` reports
    the error.

    Args:
        timeout: in seconds.
    """
    if _cached_path(url).is_file():
        return
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "vmae_det"})
    try:
        with urllib.request.urlopen(request, timeout=timeout):
            pass
    except urllib.error.HTTPError:
        pass
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"{url}: no connection: {reason}") from None


def parse_url(url: str) -> SplitResult:
    """Split a URL into its components. UserError if it is not valid."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError if it is not valid
    except ValueError as error:
        raise UserError(f"{url}: not a valid URL: {error}") from None
    return parts


def _cached_path(url: str) -> Path:
    """Return the path in the cache for a URL: its host and path, with safe characters only."""
    parts = parse_url(url)
    names = [_UNSAFE.sub("_", unquote(part)) for part in parts.path.split("/")]
    names = [name for name in names if name.strip(".")]
    if not parts.hostname or not names:
        raise DownloadError(f"{url}: the URL does not name a file")
    if parts.query:
        names.insert(-1, hashlib.sha256(parts.query.encode()).hexdigest()[:16])
    return cache_folder().joinpath(_UNSAFE.sub("_", parts.netloc.rpartition("@")[2]), *names)


def _download(url: str, target: Path, sha256: str | None) -> None:
    partial = target.with_name(target.name + ".part")
    logger.info("%s: downloading to %s", url, target)
    delays = list(_RETRY_DELAYS)
    while True:
        size_before = partial.stat().st_size if partial.exists() else 0
        problem = _attempt(url, partial, has_checksum=sha256 is not None)
        if problem is None:
            break
        if partial.exists() and partial.stat().st_size > size_before:
            delays = list(_RETRY_DELAYS)
        if not delays:
            attempts = len(_RETRY_DELAYS) + 1
            raise DownloadError(f"{url}: {problem}; gave up after {attempts} attempts without progress")
        logger.warning("%s: %s; retrying in %g s", url, problem, delays[0])
        time.sleep(delays.pop(0))
    _validator_path(partial).unlink(missing_ok=True)
    if sha256 is not None and not _matches(partial, sha256):
        digest = sha256_of(partial)
        partial.unlink()
        expected = sha256 if len(sha256) == SHA256_DIGITS else f"{sha256}..."
        raise DownloadError(f"{url}: expected a file with SHA-256 {expected}, got {digest}; removed the file")
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, target)


def _attempt(url: str, partial: Path, has_checksum: bool) -> str | None:
    """Make one request and append what the server sends to `partial`.

    A partial file is only resumed if a change of the file would be noticed: by the server, which compares the
    ETag that it sent before, or by the checksum.

    Returns:
        None if the file is complete, or else a problem that may be temporary.

    Raises:
        DownloadError: a problem that a retry cannot solve.
    """
    validator = _validator_path(partial)
    resumable = partial.exists() and (has_checksum or validator.exists())
    start = partial.stat().st_size if resumable else 0
    request = urllib.request.Request(url, headers={"User-Agent": "vmae_det", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        if validator.exists():  # if the file has changed, the server sends it from the start
            request.add_header("If-Range", validator.read_text(encoding="utf-8"))
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            resumes = response.status == 206
            if resumes and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise http.client.HTTPException("the server sent another range than requested")
            if not resumes:
                partial.unlink(missing_ok=True)
            _save_validator(validator, response.headers)
            return _write(response, partial, start if resumes else 0)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the partial file is larger than the file
            partial.unlink(missing_ok=True)
        elif error.code not in _RETRY_STATUS:
            raise DownloadError(f"{url}: the server answered {error.code} {error.reason}") from None
        return f"the server answered {error.code} {error.reason}"
    except (http.client.InvalidURL, ValueError) as error:
        raise DownloadError(f"{url}: {error}") from None
    except urllib.error.URLError as error:
        return f"no connection: {error.reason}"
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        return f"the connection broke: {error or type(error).__name__}"


def _write(response: http.client.HTTPResponse, partial: Path, start: int) -> str | None:
    """Append a response to `partial`, which has `start` bytes. Return the problem if it is incomplete."""
    length = response.headers.get("Content-Length")
    total = start + int(length) if length and length.isdigit() else None
    bar = tqdm(
        desc=partial.stem,
        total=total,
        initial=start,
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None,  # disabled unless the output is a terminal
    )
    with bar, partial.open("ab" if start else "wb") as file:
        while chunk := response.read1(_CHUNK_BYTES):
            file.write(chunk)
            bar.update(len(chunk))
        received = file.tell()
    if total is not None and received < total:
        return f"the connection broke after {received} of {total} bytes"
    return None


def _validator_path(partial: Path) -> Path:
    """Return the path of the ETag or date by which the server identifies the version of a partial file."""
    return partial.with_name(partial.name + ".etag")


def _save_validator(path: Path, headers: http.client.HTTPMessage) -> None:
    validator = headers.get("ETag") or headers.get("Last-Modified")
    if validator and not validator.startswith("W/"):
        path.write_text(validator, encoding="utf-8")
    else:
        path.unlink(missing_ok=True)
