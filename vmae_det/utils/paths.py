"""Resolve paths and URLs to local files through iopath. A handler registered here works everywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag

from iopath.common.file_io import HTTPURLHandler, PathManager

from vmae_det.utils.downloads import SHA256_DIGITS, DownloadError, download
from vmae_det.utils.errors import UserError

_CHECKSUM_PREFIX = "sha256="
_MIN_DIGITS = 8  # of a checksum, as in the file names of OpenMMLab


class DownloadHandler(HTTPURLHandler):
    """Downloads http(s) URLs. A URL may end in `#sha256=DIGITS`, of which at least 8 are verified."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["http://", "https://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        url, fragment = urldefrag(path)
        sha256 = fragment.removeprefix(_CHECKSUM_PREFIX) if fragment.startswith(_CHECKSUM_PREFIX) else None
        if sha256 is not None and not (
            _MIN_DIGITS <= len(sha256) <= SHA256_DIGITS and set(sha256.lower()) <= set("0123456789abcdef")
        ):
            raise DownloadError(
                f"{path}: expected #sha256= and {_MIN_DIGITS} to {SHA256_DIGITS} hexadecimal digits, got "
                f"'{sha256}'"
            )
        return str(download(url, sha256))


path_manager = PathManager()
path_manager.register_handler(DownloadHandler())


def relative_path(path: str | os.PathLike[str], folder: Path) -> str:
    """Return a path relative to a folder, so that both can be moved together; absolute on another drive."""
    try:
        return Path(os.path.relpath(Path(path).resolve(), folder.resolve())).as_posix()
    except ValueError:
        return str(Path(path).resolve())


def is_url(path: str | Path) -> bool:
    """Return whether a path is a URL, such as https://..., and not a path on a local disk."""
    return "://" in str(path)


def local_path(path: str | Path) -> Path:
    """Return the local path of a file. A URL is downloaded first.

    Raises:
        UserError: no handler is registered for this kind of URL, or the download fails.
    """
    text = str(path)
    if not is_url(text):
        return Path(text)
    path = path_manager.get_local_path(text)
    if path == text:
        raise UserError(f"{text}: expected a file or an http(s) URL; register an iopath handler for others")
    return Path(path)
