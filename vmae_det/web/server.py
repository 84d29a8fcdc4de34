"""Runs an ASGI application on a local address until Ctrl-C."""

from __future__ import annotations

import atexit
import errno
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn
from filelock import FileLock, Timeout

from vmae_det.utils.errors import OutputError, UserError
from vmae_det.web.protocol import Protocol
from vmae_det.web.security import MAX_BODY, App, Security, is_loopback

LOOPBACK = "127.0.0.1"
STOP_SECONDS = 0.5  # for open connections, such as event streams, when the server stops
MAX_CONNECTIONS = 256  # more get status 503


class LocalServer:
    """A server on its own socket, so that port 0 works and a taken port is an error before any work.

    Example:
        with LocalServer(host, port) as server:
            server.run(app)

    Args:
        host: address to bind to. Any other than a loopback address needs a token, which is generated.
        port: 0 for a free one.
        with_token: require a token on a loopback address, too: other users of this machine can open it.

    Attributes:
        port: the port that it is bound to.
        token: None if there is none.

    Raises:
        UserError: the address is invalid, or the port is taken or reserved.
    """

    def __init__(self, host: str = LOOPBACK, port: int = 0, with_token: bool = False) -> None:
        self.host = host
        self._socket = _bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.token = secrets.token_urlsafe(24) if with_token or not is_loopback(host) else None
        self._server: uvicorn.Server | None = None

    def __enter__(self) -> LocalServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    @property
    def address(self) -> str:
        """The address to open in a browser, with the token if there is one."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::", "") else self.host
        name = f"[{host}]" if ":" in host else host
        return f"http://{name}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def run(
        self,
        app: App,
        *,
        open_browser: bool = False,
        max_body: int = MAX_BODY,
        body_limits: Mapping[str, int] | None = None,
        announce: Callable[[str], None] | None = None,
    ) -> None:
        """Serve `app` behind `Security` until SIGINT, SIGTERM or `stop`.

        Args:
            open_browser: open the address in a browser, if this machine has a graphical one.
            max_body, body_limits: see `Security`.
            announce: called with the address when the server accepts requests (default: print it).
        """
        secured = Security(
            app, names=[self.host], token=self.token, max_body=max_body, body_limits=body_limits
        )
        config = uvicorn.Config(
            secured,
            http=Protocol,
            log_config=None,
            access_log=False,  # the first address contains the token
            lifespan="on",
            ws="none",
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=64 * 1024,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=STOP_SECONDS,  # type: ignore[arg-type]  # a float works
        )
        for name in ("uvicorn.error", "uvicorn"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # cancelled event streams are no error
        self._server = uvicorn.Server(config)
        # Without this, Python searches all objects of torch for cycles when it exits, which takes 1 to 10 s.
        atexit.register(gc.freeze)
        threading.Thread(
            target=self._when_started, args=(announce or _print_address, open_browser), daemon=True
        ).start()
        with _signals_restored(), suppress(KeyboardInterrupt):
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Stop `run`, from any thread."""
        if self._server is not None:
            self._server.should_exit = True

    def _when_started(self, announce: Callable[[str], None], open_browser: bool) -> None:
        while not self._server.started and not self._server.should_exit:
            time.sleep(0.01)
        if self._server.started:
            announce(self.address)
            if open_browser and _has_browser():
                webbrowser.open(self.address)


def _bind(host: str, port: int) -> socket.socket:
    where = f"{host}:{port}"
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host: {host!r} is no address of this machine: {error}") from None
    try:
        if os.name == "posix":  # on Windows it would share the port with another server
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            reason = "is used by another program; choose another --port, or 0 for a free one"
        elif error.errno == errno.EACCES:
            reason = "needs more rights than you have; choose a --port of 1024 or more"
        elif error.errno == errno.EADDRNOTAVAIL:
            reason = f"cannot be used: {host} is no address of this machine"
        else:
            reason = f"cannot be used: {error.strerror}"
        raise UserError(f"{where} {reason}") from None
    return bound


def _print_address(address: str) -> None:
    print(f"open {address}\nstop with Ctrl-C", flush=True)


def _has_browser() -> bool:
    """Return whether a graphical browser can be opened. A text browser would take over the terminal."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    return "SSH_CONNECTION" not in os.environ


@contextmanager
def _signals_restored() -> Iterator[None]:
    """Let SIGTERM, which uvicorn raises again after it has stopped, return from `run` as SIGINT does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def lock_file(path: Path, what: str) -> Iterator[None]:
    """Hold a lock on a file while a server uses what it stands for. The system drops it if the process dies.

    Raises:
        UserError: another process holds it.
        OutputError: the file cannot be written.
    """
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{what} is open in another vmae-det process; stop that one first") from None
    except OSError as error:
        raise OutputError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    try:
        yield
    finally:
        lock.release()
