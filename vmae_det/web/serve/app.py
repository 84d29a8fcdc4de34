"""The page and the HTTP interface of `vmae-det serve`."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

import vmae_det
from vmae_det.utils.errors import UserError, one_line
from vmae_det.web.errors import EXCEPTION_HANDLERS, RequestError, read_json
from vmae_det.web.serve.fetch import FetchError, check_url, fetch, url_name
from vmae_det.web.serve.jobs import RECEIVING, Job, JobTable, QueueFullError
from vmae_det.web.serve.metrics import CONTENT_TYPE, metrics
from vmae_det.web.serve.model import DETECT, ServedModel
from vmae_det.web.serve.openapi import describe_interface
from vmae_det.web.serve.options import parse_options
from vmae_det.web.serve.uploads import check_disk, safe_name, save_body
from vmae_det.web.serve.worker import Limits, Worker
from vmae_det.web.static import PageFiles, page_file

logger = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page")
VIDEO_PATHS = ("/api/detect", "/api/classify")  # of requests whose body is a video
_MAX_JSON = 2**16  # bytes
_MAX_NAME = 200  # characters of the name that is shown
_EXPIRY_PERIOD = 30.0  # seconds
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".jsonl": "application/x-ndjson",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}
# The result page has a policy of its own in its head, with the hash of its script. Both apply.
_RESULT_POLICY = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'"


@dataclass(frozen=True)
class ServeSettings:
    """Settings of a server.

    Attributes:
        output: folder of the results.
        queue: jobs that may wait.
        max_bytes: size of a video.
        keep_seconds: time after which results are deleted.
        allow_private: download videos from addresses of the server's network.
        limits: limits of a job.
    """

    output: Path
    queue: int = 16
    max_bytes: int = 2**30
    keep_seconds: float = 24 * 3600.0
    allow_private: bool = False
    limits: Limits = field(default_factory=Limits)

    @property
    def body_limits(self) -> dict[str, int]:
        """Bytes of a request body by path, for `Security`."""
        return dict.fromkeys(VIDEO_PATHS, self.max_bytes)


class VideoService:
    """What the routes use: the jobs, the model and the thread that runs them."""

    def __init__(self, model: ServedModel, settings: ServeSettings) -> None:
        self.model, self.settings = model, settings
        self.table = JobTable(settings.output, settings.queue, settings.keep_seconds)
        self.worker = Worker(self.table, model, settings.limits)

    def check_kind(self, kind: str) -> None:
        """Raise RequestError if the model is for the other kind of job."""
        if kind != self.model.task:
            has = "a detector" if self.model.task == DETECT else "a classifier"
            raise RequestError(
                422, f"this server has {has}, {self.model.name}; send videos to /api/{self.model.task}"
            )

    def open_job(self, kind: str, name: str, options: dict[str, Any]) -> Job:
        """Add a job. RequestError if the queue or the disk is full."""
        check_disk(self.table.folder, 0)
        try:
            return self.table.open(kind, name, options)
        except QueueFullError as error:
            raise RequestError(
                503,
                f"the queue is full with {self.table.capacity} videos; try again later",
                headers={"retry-after": str(error.retry_after)},
            ) from None

    def job(self, job_id: str) -> Job:
        """Return a job. RequestError if there is none with this id."""
        job = self.table.get(job_id)
        if job is None:
            raise RequestError(404, "no such job; finished jobs are deleted after some time")
        return job

    def download(self, job: Job, url: str) -> None:
        """Download the video of a job, and queue it."""

        def report(received: int, expected: int | None) -> None:
            if job.state != RECEIVING:
                raise FetchError("cancelled")
            job.bytes, job.progress = received, received / expected if expected else None

        path = self.table.video_folder(job) / safe_name(job.name)
        try:
            size = fetch(
                url,
                path,
                max_bytes=self.settings.max_bytes,
                timeout=self.settings.limits.timeout,
                allow_private=self.settings.allow_private,
                report=report,
            )
            self.table.submit(job, size)
        except UserError as error:
            self.table.fail(job, one_line(error))
        except Exception:
            logger.exception("download of job %s", job.id)
            self.table.fail(job, "the download failed; the server's terminal shows the reason")


def build_app(service: VideoService) -> Starlette:
    """Return the ASGI application."""
    table, settings = service.table, service.settings

    def index(request: Request) -> Response:
        return page_file(PAGE / "index.html")

    def server(request: Request) -> Response:
        limits = settings.limits
        return JSONResponse(
            {
                "version": vmae_det.__version__,
                "task": service.model.task,
                "weights": service.model.name,
                "actions": list(service.model.actions),
                "max_bytes": settings.max_bytes,
                "max_seconds": limits.max_seconds,
                "timeout": limits.timeout,
                "queue": table.capacity,
                "keep_seconds": settings.keep_seconds,
            }
        )

    async def create(request: Request) -> Response:
        kind = request.url.path.rpartition("/")[2]
        try:
            service.check_kind(kind)
            media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if media_type == "application/json":
                job = await create_from_url(request, kind)
            else:
                job = await create_from_body(request, kind, media_type)
        except ClientDisconnect:
            return Response(status_code=499)
        return JSONResponse(table.describe(job), 202, headers={"location": f"/api/jobs/{job.id}"})

    async def create_from_url(request: Request, kind: str) -> Job:
        content = await read_json(request, _MAX_JSON)
        url = content.pop("url", None)
        name = content.pop("name", None)
        if not isinstance(url, str) or not (name is None or isinstance(name, str)):
            raise RequestError(422, 'expected {"url": "https://..."}')
        check_url(url)
        options = parse_options(kind, content)
        job = service.open_job(kind, _shown_name(name or url_name(url)), options)
        threading.Thread(target=service.download, args=(job, url.strip()), daemon=True).start()
        return job

    async def create_from_body(request: Request, kind: str, media_type: str) -> Job:
        if media_type == "multipart/form-data":
            raise RequestError(
                415, "send the video as the body of the request, not in a form: curl --data-binary @FILE"
            )
        query = dict(request.query_params)
        name = query.pop("name", None) or unquote(request.headers.get("x-file-name", ""))
        options = parse_options(kind, query)
        length = request.headers.get("content-length")
        if length == "0":
            raise RequestError(400, "expected the bytes of a video as the body of the request")
        check_disk(table.folder, int(length or 0))
        job = service.open_job(kind, _shown_name(name), options)
        path = table.video_folder(job) / safe_name(job.name)
        expected = int(length) if length else None

        def report(received: int) -> None:
            if job.state != RECEIVING:
                raise RequestError(409, "the job was cancelled")
            job.bytes, job.progress = received, received / expected if expected else None

        try:
            size = await save_body(request, path, settings.limits.timeout, report)
        except BaseException:
            if job.state == RECEIVING:
                await run_in_threadpool(table.discard, job)
            raise
        if not table.submit(job, size):
            raise RequestError(409, "the job was cancelled")
        return job

    def jobs(request: Request) -> Response:
        return JSONResponse({"jobs": [table.describe(job) for job in table.list()]})

    def job(request: Request) -> Response:
        return JSONResponse(table.describe(service.job(request.path_params["job"])))

    def delete(request: Request) -> Response:
        found = service.job(request.path_params["job"])
        if not table.cancel(found):
            table.delete(found)
        return JSONResponse(table.describe(found))

    def result(request: Request) -> Response:
        found, name = service.job(request.path_params["job"]), request.path_params["name"]
        path = table.results_folder(found) / name
        if name not in found.results or not path.is_file():
            raise RequestError(404, "the job has no such result")
        suffix = path.suffix.lower()
        headers = {"content-security-policy": _RESULT_POLICY, "cache-control": "private, no-cache"}
        shows = suffix in (".html", ".mp4", ".webm")
        return FileResponse(
            path,
            headers=headers,
            media_type=_MEDIA_TYPES.get(suffix, "application/octet-stream"),
            filename=name,
            content_disposition_type="inline" if shows else "attachment",
        )

    def interface(request: Request) -> Response:
        return JSONResponse(describe_interface())

    def metric_text(request: Request) -> Response:
        return PlainTextResponse(metrics(table, service.worker), headers={"content-type": CONTENT_TYPE})

    def health(request: Request) -> Response:
        failure = service.worker.failure
        return JSONResponse(
            {"status": "failed" if failure else "ok", "error": failure}, 503 if failure else 200
        )

    async def expire_regularly() -> None:
        while True:
            await asyncio.sleep(min(_EXPIRY_PERIOD, max(settings.keep_seconds / 10, 0.1)))
            await run_in_threadpool(table.expire)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.worker.start()
        task = asyncio.create_task(expire_regularly())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await run_in_threadpool(service.worker.stop)

    def path(rest: str, endpoint: Callable, method: str = "GET") -> Route:
        return Route(rest, endpoint, methods=[method])

    return Starlette(
        routes=[
            path("/", index),
            path("/api/server", server),
            *(path(address, create, "POST") for address in VIDEO_PATHS),
            path("/api/jobs", jobs),
            path("/api/jobs/{job}", job),
            path("/api/jobs/{job}", delete, "DELETE"),
            path("/api/jobs/{job}/results/{name}", result),
            path("/api/openapi.json", interface),
            path("/metrics", metric_text),
            path("/healthz", health),
            Mount("/static", PageFiles(PAGE)),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=lifespan,
    )


def _shown_name(name: str) -> str:
    """Return the name of a file as it is shown: its last part, without control characters."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in last if c.isprintable()).strip()[:_MAX_NAME] or "video.mp4"
