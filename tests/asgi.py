"""Drives an ASGI application without a server."""

import asyncio
import json
from dataclasses import dataclass


@dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


def request(app, method="GET", path="/", *, query="", headers=None, body=b"", chunks=None, delay=0.0):
    """Send a request; return the answer. `chunks` sends the body in parts, `delay` seconds apart."""
    return asyncio.run(
        send(app, method, path, query=query, headers=headers, body=body, chunks=chunks, delay=delay)
    )


async def send(app, method="GET", path="/", *, query="", headers=None, body=b"", chunks=None, delay=0.0):
    parts = [body] if chunks is None else list(chunks)
    pairs = {"host": "localhost:80", **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [
            (name.lower().encode(), value.encode()) for name, value in pairs.items() if value is not None
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    sent = []
    done = asyncio.Event()

    async def receive():
        if not parts:
            await done.wait()
            return {"type": "http.disconnect"}
        await asyncio.sleep(delay)
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def collect(message):
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            done.set()

    await app(scope, receive, collect)
    start = sent[0]
    assert start["type"] == "http.response.start"
    content = b"".join(message.get("body", b"") for message in sent[1:])
    names = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], names, content)


def post_json(app, path, content, **options):
    headers = {"content-type": "application/json", **options.pop("headers", {})}
    return request(app, "POST", path, headers=headers, body=json.dumps(content).encode(), **options)
