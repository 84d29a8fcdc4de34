"""The HTTP interface of the annotation page."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from vmae_det.utils.errors import DataError, UserError, one_line
from vmae_det.web.annotate.document import (
    Document,
    EditConflictError,
    EditError,
    document_to_json,
    milliseconds,
    seconds,
)
from vmae_det.web.annotate.edits import Rules, patch_of
from vmae_det.web.annotate.findings import find_problems
from vmae_det.web.annotate.proposals import Proposer, VideoProposals
from vmae_det.web.annotate.queues import next_uncertain, next_unseen
from vmae_det.web.annotate.store import Store
from vmae_det.web.errors import EXCEPTION_HANDLERS, RequestError, read_json
from vmae_det.web.events import Events
from vmae_det.web.frames import HEIGHTS, SPAN, FrameServer, VideoFacts
from vmae_det.web.static import PageFiles, page_file

logger = logging.getLogger(__name__)

MAX_BODY = 16 * 2**20  # bytes of an edit: a label held over hours is one patch
PAGE = Path(__file__).with_name("page")
_LIST_SECONDS = 1.0  # for opening videos while they are listed
_PREPARED_BYTES = 4 * 2**30  # of videos whose packets are read before someone opens them


class Annotation:
    """The dataset that a server annotates: its documents, videos and proposals.

    Args:
        every: seconds between keyframes. Those of the annotations are keyframes, too.
    """

    def __init__(self, store: Store, proposer: Proposer, every: float = 1.0) -> None:
        self.store, self.proposer, self.every = store, proposer, every
        self.dataset = store.dataset
        self.files = self.dataset.videos()
        self.frames = FrameServer(self.files)
        label_map = self.dataset.label_map
        self.actions = dict(zip(label_map.ids, label_map.names))
        self._problems: dict[str, str] = {}

    # ------------------------------------------------------------ videos

    def check_video(self, video: str) -> None:
        """Raise RequestError if the dataset has no such video."""
        if video not in self.files:
            raise RequestError(404, f"the dataset has no video '{video[:100]}'")

    def facts(self, video: str) -> VideoFacts | None:
        """Return the facts of a video; None if it cannot be read, or its start is not known."""
        if video in self._problems:
            return None
        try:
            self.dataset.spec.start_of(video)
            return self.frames.facts(video)
        except DataError as error:
            self._problems[video] = one_line(error)
            return None

    def start(self, video: str) -> float:
        """Return the second of the dataset's clock at which a video starts; 0 if it cannot be read."""
        return self.dataset.spec.start_of(video) if self.facts(video) else 0.0

    def keyframes(self, video: str, document: Document | None = None) -> Sequence[int]:
        """Return the times of the keyframes: regular ones, and those of the annotations."""
        document = document or self.store.original(video)
        annotated = {time for time, _ in document.cells} | document.looked
        facts = self.facts(video)
        if facts is None:
            return sorted(annotated)
        return keyframe_times(self.start(video), facts.last, self.every, annotated)

    def rules(self, video: str) -> Rules:
        """Return what edits of a video may contain."""
        original = self.store.original(video)
        return Rules(self.keyframes(video), self.actions, self.dataset.poses, original.cells)

    def summary(self, video: str, may_open: bool) -> dict[str, Any]:
        """Return the row of a video in the list. `keyframes` is None if it is not opened yet."""
        looked, boxes = self.store.counts(video)
        known = may_open or self.frames.known_facts(video) or self.files[video] is None
        facts = self.facts(video) if known else None
        return {
            "id": video,
            "seconds": facts.last + 1 / facts.rate if facts else None,
            "keyframes": len(self.keyframes(video)) if known else None,
            "looked_at": looked,
            "boxes": boxes,
            "error": self._problems.get(video),
        }

    def clip(self, video: str, second: float, height: int, span: float) -> bytes:
        """Return the frames around a time on the dataset's clock (see `FrameServer.clip`).

        Raises:
            RequestError: 422 if the video cannot be read.
        """
        if self.facts(video) is None:
            raise RequestError(422, self._problems[video])
        return self.frames.clip(video, second - self.start(video), height, span)

    # ------------------------------------------------------------ documents

    def describe(self, video: str) -> dict[str, Any]:
        """Return the document of a video as the page expects it."""
        document, revision = self.store.document(video)
        facts = self.facts(video)
        proposals = self.proposer.of(video)
        keyframes = self.keyframes(video)
        times = set(keyframes)  # proposals of an earlier start may be at others
        return {
            "id": video,
            "width": facts.width if facts else None,
            "height": facts.height if facts else None,
            "rate": facts.rate if facts else None,
            "start": self.start(video),
            "keyframes": [seconds(time) for time in keyframes],
            "revision": revision,
            "error": self._problems.get(video),
            **document_to_json(document),
            "proposals": [one.to_json() for one in proposals.proposals if one.time in times],
            **proposals.status(),
            "findings": self.findings(video, document),
        }

    def findings(self, video: str, document: Document) -> list[dict[str, Any]]:
        """Return the problems of a document."""
        facts, start = self.facts(video), self.start(video)
        return find_problems(document, facts, start, self.actions, self.dataset.poses)

    def edit(self, video: str, content: Mapping[str, Any]) -> int:
        """Apply an edit of the page; return the new revision.

        Raises:
            RequestError: 409 for a conflict, 422 for an invalid edit, 503 if it cannot be saved now.
        """
        rules = self.rules(video)
        edit = content.get("edit")
        if not isinstance(edit, dict) or edit.get("name") != "patch":
            raise RequestError(422, "edit: expected an object with the name 'patch'")
        new_people = content.get("new_people") or ()
        try:
            return self.store.apply(
                video, lambda document: patch_of(document, rules, edit.get("patch"), new_people)
            )[0]
        except EditConflictError as error:
            raise RequestError(409, str(error), document=self.describe(video)) from None
        except EditError as error:
            raise RequestError(422, str(error)) from None
        except UserError as error:
            raise RequestError(503, one_line(error)) from None

    def propose(self, video: str) -> VideoProposals:
        """Start the detector on a video.

        Raises:
            RequestError: 422 if the video cannot be read, or there is no detector.
        """
        path = self.files[video]
        facts = self.facts(video)
        if path is None or facts is None:
            raise RequestError(422, self._problems.get(video, "the video file is missing"))
        start = self.start(video)
        end = start + facts.last + 1 / facts.rate
        keyframes = [time for time in self.keyframes(video) if start <= time / 1000 <= end]
        try:
            return self.proposer.start(video, path, start, keyframes)
        except UserError as error:
            raise RequestError(422, one_line(error)) from None

    # ------------------------------------------------------------ queues

    def next(self, kind: str, after: tuple[str, int] | None) -> dict[str, Any] | None:
        """Return the keyframe to annotate next, or None."""
        looked = functools.cache(lambda video: self.store.document(video)[0].looked)
        if kind == "unseen":
            place = next_unseen(list(self.files), self.keyframes, looked, after)
        elif kind == "uncertain":
            place = next_uncertain(self.proposer.uncertainties(), looked, after)
        else:
            raise RequestError(400, f"kind: expected unseen or uncertain, got {kind[:50]!r}")
        return place and {"video": place[0], "second": seconds(place[1])}

    def prepare_videos(self, stop: threading.Event) -> None:
        """Open the videos one after another, and read the packets of the first ones."""
        remaining = _PREPARED_BYTES
        for video, path in self.files.items():
            if stop.is_set():
                return
            facts = self.facts(video)
            remaining -= path.stat().st_size if facts and path.is_file() else 0
            if facts and remaining > 0:
                with suppress(DataError):
                    self.frames.prepare(video)


def keyframe_times(start: float, last: float, every: float, annotated: set[int]) -> list[int]:
    """Return the keyframes of a video in milliseconds: every `every` seconds, and those of the annotations.

    Regular keyframes less than a quarter of `every` from an annotated one are not needed.

    Args:
        start: second on the dataset's clock at which the video starts.
        last: second at which its last frame starts, from the first one on.
        annotated: keyframes of the annotations.
    """
    regular = np.rint((start + every * np.arange(int(last / every + 1e-9) + 1)) * 1000).astype(np.int64)
    regular = regular[regular >= 0]
    if annotated:
        known = np.array(sorted(annotated), dtype=np.int64)
        right = np.searchsorted(known, regular)
        before = np.abs(regular - known[np.maximum(right - 1, 0)])
        after = np.abs(regular - known[np.minimum(right, len(known) - 1)])
        regular = regular[np.minimum(before, after) >= 250 * every]
    return sorted({*regular.tolist(), *annotated})


# ---------------------------------------------------------------- routes


def build_app(annotation: Annotation) -> Starlette:
    """Return the ASGI application of the page."""
    events = Events()
    clip_locks: dict[str, asyncio.Lock] = {}

    def announce_proposals(video: str) -> None:
        own = annotation.proposer.of(video)
        status = {"state": own.state, "progress": own.progress, "message": own.message}
        events.publish({"type": "proposals", "video": video, **status})

    annotation.proposer.notify = announce_proposals

    def named_video(request: Request) -> str:
        video = request.path_params["video"]
        annotation.check_video(video)
        return video

    def index(request: Request) -> Response:
        return page_file(PAGE / "index.html")

    def dataset(request: Request) -> Response:
        label_map = annotation.dataset.label_map
        actions = [
            {"id": number, "name": name, "kind": kind or None}
            for number, name, kind in zip(label_map.ids, label_map.names, label_map.kinds)
        ]
        end = time.monotonic() + _LIST_SECONDS
        videos = [annotation.summary(video, time.monotonic() < end) for video in annotation.files]
        return JSONResponse(
            {
                "name": annotation.dataset.spec.name,
                "every": annotation.every,
                "actions": actions,
                "detector": annotation.proposer.name or None,
                "problem": annotation.store.problem or annotation.store.failure or None,
                "videos": videos,
            }
        )

    async def document(request: Request) -> Response:
        video = named_video(request)
        described = await run_in_threadpool(annotation.describe, video)
        return JSONResponse(
            {**described, "clients": events.others(video, request.query_params.get("client"))}
        )

    async def clip(request: Request) -> Response:
        video = named_video(request)
        second, span = _number(request, "second"), _number(request, "span", SPAN)
        height = _number(request, "height", HEIGHTS[2])
        if height not in HEIGHTS or not 0 <= span <= SPAN:
            raise RequestError(400, f"expected height as one of {HEIGHTS}, and span from 0 to {SPAN:g}")
        async with clip_locks.setdefault(video, asyncio.Lock()):
            if await request.is_disconnected():  # the annotator has moved on
                return Response(status_code=499)
            content = await run_in_threadpool(annotation.clip, video, second, int(height), span)
        return Response(content, media_type="application/octet-stream")

    async def edit(request: Request) -> Response:
        video = named_video(request)
        content = await read_json(request)
        try:
            revision = await run_in_threadpool(annotation.edit, video, content)
        except RequestError as error:
            if "document" in error.content:
                error.content["document"]["clients"] = events.others(video, content.get("client"))
            raise
        client = content.get("client")
        news = {"type": "edit", "video": video, "revision": revision, "client": client}
        events.publish(news)
        current, _ = annotation.store.document(video)
        findings = await run_in_threadpool(annotation.findings, video, current)
        return JSONResponse({"revision": revision, "findings": findings})

    async def propose(request: Request) -> Response:
        video = named_video(request)
        own = await run_in_threadpool(annotation.propose, video)
        return JSONResponse(own.status(), 202)

    async def queue(request: Request) -> Response:
        kind = request.query_params.get("kind", "unseen")
        after = _place(request.query_params.get("after", ""))
        return JSONResponse(await run_in_threadpool(annotation.next, kind, after))

    async def event_stream(request: Request) -> Response:
        client, video = request.query_params.get("client", ""), request.query_params.get("video", "")
        lines = events.listen(client[:100], video)
        return StreamingResponse(lines, media_type="text/event-stream")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        stop = threading.Event()
        events.start(asyncio.get_running_loop())
        threading.Thread(target=annotation.prepare_videos, args=(stop,), daemon=True).start()
        yield
        stop.set()

    def path(rest: str, endpoint: Callable, method: str = "GET") -> Route:
        return Route(rest, endpoint, methods=[method])

    return Starlette(
        routes=[
            path("/", index),
            path("/api/dataset", dataset),
            path("/api/queue", queue),
            path("/api/events", event_stream),
            path("/api/videos/{video:path}/clip", clip),
            path("/api/videos/{video:path}/edits", edit, "POST"),
            path("/api/videos/{video:path}/propose", propose, "POST"),
            path("/api/videos/{video:path}", document),
            Mount("/static", PageFiles(PAGE)),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=lifespan,
    )


def _number(request: Request, name: str, default: float | None = None) -> float:
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    try:
        value = float(text)
        if not abs(value) <= 1e9:
            raise ValueError
    except (TypeError, ValueError):
        raise RequestError(400, f"{name}: expected a number, got {text!r:.50}") from None
    return value


def _place(text: str) -> tuple[str, int] | None:
    """Parse VIDEO,SECOND; None for anything else."""
    video, _, second = text.rpartition(",")
    try:
        return (video, milliseconds(float(second))) if video and abs(float(second)) <= 1e9 else None
    except ValueError:
        return None
