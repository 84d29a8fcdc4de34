"""The description of the HTTP interface in OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0)."""

from __future__ import annotations

from typing import Any

import vmae_det
from vmae_det.rendering.result_writers import WRITERS
from vmae_det.web.serve.jobs import STATES
from vmae_det.web.serve.model import CLASSIFY, DETECT
from vmae_det.web.serve.options import DEFAULTS, RANGES

_OPTION_TEXTS = {
    "every": "seconds between keyframes; without it, a classifier scores the video as a whole",
    "threshold": "lowest score of actions that are drawn, in the overlay and on the page",
    "smooth": "seconds over which scores are averaged",
}
_ERRORS = {
    400: "the request is malformed",
    401: "the token is missing or wrong",
    403: "the request is from a page of another site",
    404: "there is no such job or result",
    408: "the body arrived too slowly",
    409: "the job was cancelled while its video was received",
    413: "the body is larger than the server accepts",
    415: "the body has a type that the server does not accept",
    421: "the Host header is no name of the server",
    422: "an option or the address is invalid, or the model is for the other task",
    500: "the server made an error",
    503: "the queue is full; Retry-After has the seconds to wait",
    507: "the disk of the server is full",
}
_COMMON = (401, 421, 500)


def describe_interface() -> dict[str, Any]:
    """Return the description as JSON."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vmae-det serve",
            "version": vmae_det.__version__,
            "description": "Detection and classification of actions in videos. POST a video, GET its job "
            "until it has finished, and GET its results.",
        },
        "security": [{}, {"token": []}],
        "paths": {
            "/api/server": {"get": _operation("What the server does, and its limits", _json("Server"))},
            "/api/detect": {"post": _create(DETECT, "Detect the actions of the people in a video")},
            "/api/classify": {"post": _create(CLASSIFY, "Classify a video, as a whole or over time")},
            "/api/jobs": {"get": _operation("All jobs, the newest first", _json("Jobs"))},
            "/api/jobs/{job}": {
                "parameters": [_path_parameter("job", "id of a job")],
                "get": _operation("A job", _json("Job"), errors=(404,)),
                "delete": _operation(
                    "Cancel a job that has not finished, or delete a finished one with its results",
                    _json("Job"),
                    errors=(403, 404),
                ),
            },
            "/api/jobs/{job}/results/{name}": {
                "parameters": [
                    _path_parameter("job", "id of a job"),
                    _path_parameter("name", "name of a result of the job"),
                ],
                "get": _operation(
                    "A result file. Ranges of bytes are supported",
                    {
                        media_type: {}
                        for media_type in (
                            *("text/html", "text/csv", "application/x-ndjson", "video/mp4", "video/webm"),
                        )
                    },
                    errors=(404,),
                ),
            },
            "/api/openapi.json": {
                "get": _operation("This description", {"application/json": {"schema": {"type": "object"}}})
            },
            "/metrics": {
                "get": _operation("Metrics for Prometheus", {"text/plain": {"schema": {"type": "string"}}})
            },
            "/healthz": {"get": _health()},
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
        },
    }


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _operation(
    summary: str, content: dict[str, Any], status: int = 200, errors: tuple[int, ...] = ()
) -> dict[str, Any]:
    responses = {str(status): {"description": summary, "content": content}}
    for code in sorted((*_COMMON, *errors)):
        responses[str(code)] = {"description": _ERRORS[code], "content": _json("Error")}
    return {"summary": summary, "responses": responses}


def _create(kind: str, summary: str) -> dict[str, Any]:
    operation = _operation(summary, _json("Job"), 202, (400, 403, 408, 409, 413, 415, 422, 503, 507))
    operation["responses"]["202"]["headers"] = {
        "Location": {"description": "path of the job", "schema": {"type": "string"}}
    }
    operation["responses"]["503"]["headers"] = {
        "Retry-After": {"description": "seconds", "schema": {"type": "integer"}}
    }
    options = _options(kind)
    names = {"type": "string", "description": "formats, separated by commas"}
    operation["parameters"] = [
        _query_parameter("name", {"type": "string", "description": "name of the video file"}),
        *(_query_parameter(name, schema) for name, schema in options.items() if name != "format"),
        _query_parameter("format", names),
        {
            "name": "X-File-Name",
            "in": "header",
            "description": "name of the video file in percent-encoded UTF-8, if the query has none",
            "schema": {"type": "string"},
        },
    ]
    address = {
        "type": "object",
        "required": ["url"],
        "additionalProperties": False,
        "properties": {
            "url": {"type": "string", "format": "uri", "description": "http(s) address of a video file"},
            "name": {"type": "string", "description": "name of the video file"},
            **options,
        },
    }
    operation["requestBody"] = {
        "required": True,
        "description": "the bytes of a video file, or its address as JSON",
        "content": {"application/octet-stream": {}, "application/json": {"schema": address}},
    }
    return operation


def _health() -> dict[str, Any]:
    operation = _operation("Videos can be processed", _json("Health"))
    operation["responses"]["503"] = {
        "description": "the model or its device fails, or no jobs are run",
        "content": _json("Health"),
    }
    return operation


def _options(kind: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, text in _OPTION_TEXTS.items():
        low, high = (float(value) for value in RANGES[name].strip("[]").split(","))
        options[name] = {"type": "number", "minimum": low, "maximum": high, "description": text}
        if DEFAULTS[kind][name] is not None:
            options[name]["default"] = DEFAULTS[kind][name]
    formats = {"type": "array", "items": {"enum": list(WRITERS)}, "description": "files to write"}
    return options | {"format": formats}


def _query_parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema}


def _path_parameter(name: str, text: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": text,
        "schema": {"type": "string"},
    }


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object that has all of these properties and no others."""
    return {
        "type": "object",
        "required": list(properties),
        "additionalProperties": False,
        "properties": properties,
    }


def _nullable(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": [kind, "null"], **more}


def _schemas() -> dict[str, Any]:
    text, number, integer = {"type": "string"}, {"type": "number"}, {"type": "integer"}
    time = "Unix time in seconds"
    options = _object(
        every=_nullable("number"),
        threshold=number,
        smooth=number,
        format={"type": "array", "items": {"enum": list(WRITERS)}},
    )
    job = _object(
        id=text,
        kind={"enum": [DETECT, CLASSIFY]},
        name=text,
        options=options,
        state={"enum": list(STATES)},
        position=_nullable("integer", description="place in the queue, from 0; null if it is not queued"),
        progress=_nullable("number", minimum=0, maximum=1, description="of the state; null if not known"),
        error=_nullable("string", description="why it failed, in one sentence"),
        warnings={"type": "array", "items": text},
        created={**number, "description": time},
        started=_nullable("number", description=time),
        finished=_nullable("number", description=time),
        expires=_nullable("number", description=f"when the job is deleted, {time}"),
        bytes={**integer, "description": "size of the video"},
        video_seconds=_nullable("number", description="length of the video"),
        results={"type": "array", "items": _object(name=text, bytes=integer, path=text)},
    )
    server = _object(
        version=text,
        task={"enum": [DETECT, CLASSIFY]},
        weights=text,
        actions={"type": "array", "items": text},
        max_bytes=integer,
        max_seconds=number,
        timeout=number,
        queue=integer,
        keep_seconds=number,
    )
    return {
        "Job": job,
        "Jobs": _object(jobs={"type": "array", "items": {"$ref": "#/components/schemas/Job"}}),
        "Server": server,
        "Health": _object(
            status={"enum": ["ok", "failed"]}, error=_nullable("string", description="one sentence")
        ),
        "Error": _object(error={**text, "description": "one sentence"}),
    }
