"""Files from the web: kept in a cache, checked, and gone on with where a broken download stopped."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from filelock import FileLock
from tqdm import tqdm

from vmae_det.utils.errors import UserError

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
# Pauses, in seconds, before the attempts that follow one without progress.
_PAUSES = (1.0, 2.0, 4.0, 8.0)
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_PLAIN = re.compile(r"[^\w.+-]")


class DownloadError(UserError):
    """A file could not be had from the web; the message begins with its address."""


def cache_folder() -> Path:
    """$VMAE_DET_CACHE, else ~/.cache/vmae_det."""
    return Path(os.environ.get("VMAE_DET_CACHE") or Path.home() / ".cache" / "vmae_det")


def download(url: str, sha256: str | None = None) -> Path:
    """The file at an http(s) address, from the cache where it is there already.

    A connection that breaks is opened again, and the download goes on where it stopped if the server can do
    that (HTTP ranges), also after the program was ended. The file gets its name when it is whole. Several
    processes may ask for it at once: one fetches it.

    Args:
        sha256: of the file, as 64 hexadecimal digits; None where it is not known.

    Raises:
        DownloadError: the address does not answer, has no such file, or the file is not the one expected.
    """
    target = _cached_path(url)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if target.is_file() and (sha256 is None or _sha256(target) == sha256.lower()):
                return target
            _fetch(url, target, sha256)
    except OSError as error:
        raise DownloadError(f"{url}: cannot be kept in {target.parent}: {error.strerror or error}") from None
    return target


def split_address(address: str) -> SplitResult:
    """The parts of an address; UserError where it is none."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # which looks at it
    except ValueError as error:
        raise UserError(f"{address}: not a valid address: {error}") from None
    return parts


def _cached_path(url: str) -> Path:
    """Where the file of an address lies: by host and path, made of harmless characters."""
    parts = split_address(url)
    names = [_PLAIN.sub("_", unquote(part)) for part in parts.path.split("/")]
    names = [name for name in names if name.strip(".")]
    if not parts.hostname or not names:
        raise DownloadError(f"{url}: names no file")
    if parts.query:
        names.insert(-1, hashlib.sha256(parts.query.encode()).hexdigest()[:16])
    return cache_folder().joinpath(_PLAIN.sub("_", parts.netloc.rpartition("@")[2]), *names)


def _fetch(url: str, target: Path, sha256: str | None) -> None:
    partial = target.with_name(target.name + ".part")
    logger.info("%s: downloading to %s", url, target)
    waiting = list(_PAUSES)
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        problem = _receive(url, partial, checked=sha256 is not None)
        if problem is None:
            break
        if partial.exists() and partial.stat().st_size > before:
            waiting = list(_PAUSES)
        if not waiting:
            raise DownloadError(f"{url}: {problem}; {len(_PAUSES) + 1} attempts in a row brought nothing")
        logger.warning("%s: %s; again in %g s", url, problem, waiting[0])
        time.sleep(waiting.pop(0))
    found = _sha256(partial)
    _validator_path(partial).unlink(missing_ok=True)
    if sha256 is not None and found != sha256.lower():
        partial.unlink()
        raise DownloadError(f"{url}: expected a file with SHA-256 {sha256}, got {found}; nothing was kept")
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, target)


def _receive(url: str, partial: Path, checked: bool) -> str | None:
    """One attempt: what the server sends goes to the end of `partial`. None when the file is whole, else
    what went wrong.

    A part is only gone on with if a change of the file would show: to the server, by the mark that it gave
    before, or by the checksum.
    """
    validator = _validator_path(partial)
    have = partial.stat().st_size if partial.exists() and (checked or validator.exists()) else 0
    request = urllib.request.Request(url, headers={"User-Agent": "vmae_det", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if validator.exists():  # should the file have changed, the server sends all of it
            request.add_header("If-Range", validator.read_text(encoding="utf-8"))
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            goes_on = response.status == 206
            if goes_on and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise http.client.HTTPException("the server sent another range than was asked for")
            if not goes_on:
                partial.unlink(missing_ok=True)
            _remember(validator, response.headers)
            return _write(response, partial, have if goes_on else 0)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # more is here than there
            partial.unlink(missing_ok=True)
        elif error.code not in _TRY_AGAIN:
            raise DownloadError(f"{url}: the server answers {error.code} {error.reason}") from None
        return f"the server answers {error.code} {error.reason}"
    except (http.client.InvalidURL, ValueError) as error:
        raise DownloadError(f"{url}: {error}") from None
    except urllib.error.URLError as error:
        return f"no connection: {error.reason}"
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        return f"the connection broke: {error or type(error).__name__}"


def _write(response: http.client.HTTPResponse, partial: Path, have: int) -> str | None:
    length = response.headers.get("Content-Length")
    total = have + int(length) if length and length.isdigit() else None
    with (
        partial.open("ab" if have else "wb") as file,
        tqdm(
            total=total, initial=have, unit="B", unit_scale=True, desc=partial.stem, disable=None, leave=False
        ) as bar,
    ):
        while chunk := response.read1(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
        received = file.tell()
    if total is not None and received < total:
        return f"the connection broke after {received} of {total} bytes"
    return None


def _validator_path(partial: Path) -> Path:
    """Where the mark lies by which the server knows the version that a partial file is of."""
    return partial.with_name(partial.name + ".etag")


def _remember(validator: Path, headers: http.client.HTTPMessage) -> None:
    mark = headers.get("ETag") or headers.get("Last-Modified")
    if mark and not mark.startswith("W/"):
        validator.write_text(mark, encoding="utf-8")
    else:
        validator.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
