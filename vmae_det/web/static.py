"""Files of a page that are part of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles

# Stated here, because the table of the system may be incomplete, and browsers run no script of another type.
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
}


class PageFiles(StaticFiles):
    """ASGI application that serves a folder. Browsers check the ETag on each use, so that an update shows.

    Files with other suffixes than those of pages are not served.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder)

    def lookup_path(self, path: str) -> tuple[str, Any]:
        """Return the full path and status of a file; "" and None if there is none."""
        return super().lookup_path(path) if Path(path).suffix in _TYPES else ("", None)

    def file_response(self, full_path: Any, *args: Any, **kwargs: Any) -> Response:
        """Return the file, or status 304 if the browser has it."""
        response = super().file_response(full_path, *args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        if response.status_code != 304:
            response.headers["content-type"] = _TYPES[Path(full_path).suffix]
        return response


def page_file(path: Path) -> Response:
    """Return one file of the package, such as the HTML of a page."""
    return Response(
        path.read_bytes(), headers={"content-type": _TYPES[path.suffix], "cache-control": "no-cache"}
    )
