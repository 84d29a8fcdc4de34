"""Paths and addresses as iopath knows them; a handler that is registered here serves the whole program."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urldefrag

from iopath.common.file_io import HTTPURLHandler, PathManager

from vmae_det.utils.downloads import DownloadError, download
from vmae_det.utils.errors import UserError

_CHECKSUM = "sha256="


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
