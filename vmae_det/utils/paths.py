"""Paths and addresses as iopath knows them; a handler that is registered here serves the whole program."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

from iopath.common.file_io import HTTPURLHandler, PathManager

from vmae_det.utils.downloads import DownloadError, download
from vmae_det.utils.errors import UserError

_CHECKSUM = "sha256="
_LONGEST_STEM = 120  # bytes; leaves room for endings within the 255 that file systems allow
# Windows keeps these for devices, whatever their suffix.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class Downloads(HTTPURLHandler):
    """http(s) addresses; `#sha256=DIGITS` at the end of one is checked."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["http://", "https://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        url, fragment = urldefrag(path)
        sha256 = fragment.removeprefix(_CHECKSUM) if fragment.startswith(_CHECKSUM) else None
        if sha256 is not None and (len(sha256) != 64 or not set(sha256.lower()) <= set("0123456789abcdef")):
            raise DownloadError(f"{path}: expected #sha256= and 64 hexadecimal digits, got '{sha256}'")
        return str(download(url, sha256))


path_manager = PathManager()
path_manager.register_handler(Downloads())


def is_address(path: str | Path) -> bool:
    """Whether a path is one of another place than this machine's disks, such as https://..."""
    return "://" in str(path)


def local_path(path: str | Path) -> Path:
    """Where the file lies on this machine; what lies elsewhere is fetched first.

    Raises:
        UserError: an address of a kind that no handler is registered for, or that cannot be fetched.
    """
    text = str(path)
    if not is_address(text):
        return Path(text)
    path = path_manager.get_local_path(text)
    if path == text:
        raise UserError(f"{text}: expected a file or an http(s) address; others need a handler of iopath")
    return Path(path)


def safe_stem(video: str | Path) -> str:
    """A name for the files that are made from a video: that of its file or address, without the suffix.

    It is a file name on every usual system, and no option, pattern, or path: letters, digits, spaces and
    `._-+=,@()[]` stay, others become `_`. A name that had to be changed ends in eight hexadecimal digits of
    its own, so that two videos do not share one. An address gives away neither its user nor its query.
    """
    text = str(video)
    path = unquote(urlsplit(text).path) if is_address(text) else text
    name = unicodedata.normalize("NFC", re.split(r"[/\\]", path.rstrip("/\\"))[-1])
    stem = Path(name).stem if name not in ("", ".", "..") else ""
    safe = "".join(c if _is_harmless(c) else "_" for c in stem).lstrip(" .-").rstrip(" .")
    if safe == stem and safe and _cut(safe, _LONGEST_STEM) == safe and not _DEVICES.fullmatch(safe):
        return safe
    digits = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{_cut(safe, _LONGEST_STEM - 9) or 'video'}-{digits}"


def _is_harmless(letter: str) -> bool:
    return letter.isalnum() or letter in " ._-+=,@()[]" or unicodedata.category(letter) in ("Mn", "Mc")


def _cut(text: str, size: int) -> str:
    """As many of its letters as fit into `size` bytes."""
    return text.encode("utf-8")[:size].decode("utf-8", "ignore")
