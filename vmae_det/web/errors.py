"""Errors of an HTTP interface: `{"error": one sentence}` with a status."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vmae_det.utils.errors import UserError, one_line

logger = logging.getLogger(__name__)


class RequestError(Exception):
    """A request cannot be served.

    Args:
        status: HTTP status, 400 to 599.
        reason: one sentence for the user.
        headers: headers of the answer.
        content: further keys of the answer.
    """

    def __init__(
        self, status: int, reason: str, *, headers: Mapping[str, str] | None = None, **content: Any
    ) -> None:
        super().__init__(reason)
        self.status, self.headers = status, headers
        self.content = {"error": one_line(reason), **content}


def error_response(request: Request, error: Exception) -> Response:
    """Answer an error: a UserError with 422, and a bug with 500 and its traceback in the log."""
    if isinstance(error, RequestError):
        return JSONResponse(error.content, error.status, headers=error.headers)
    if isinstance(error, HTTPException):
        reason = f"no such address: {request.url.path[:200]}" if error.status_code == 404 else error.detail
        return JSONResponse({"error": reason}, error.status_code, headers=error.headers)
    if isinstance(error, UserError):
        return JSONResponse({"error": one_line(error)}, 422)
    logger.error("%s %s", request.method, request.url.path, exc_info=error)
    return JSONResponse({"error": "the server made an error; its terminal shows it"}, 500)


# For Starlette(exception_handlers=...).
EXCEPTION_HANDLERS: dict[Any, Callable[[Request, Exception], Response]] = dict.fromkeys(
    (RequestError, HTTPException, UserError, Exception), error_response
)


async def read_json(request: Request, max_bytes: int | None = None) -> dict[str, Any]:
    """Return the JSON object in the body of a request.

    Args:
        max_bytes: size of the body, if the path allows larger ones for other types.

    Raises:
        RequestError: the body is something else.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, "expected Content-Type: application/json")
    body = bytearray()
    async for part in request.stream():
        body += part
        if max_bytes is not None and len(body) > max_bytes:
            raise RequestError(413, f"the JSON object is too large; at most {max_bytes} bytes are accepted")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"expected JSON: {error}") from None
    if not isinstance(content, dict):
        raise RequestError(400, "expected a JSON object")
    return content
