"""A local server in a thread."""

import threading
from contextlib import contextmanager

from vmae_det.web.server import LocalServer


@contextmanager
def running(app, *, host="127.0.0.1", with_token=False, seconds=5, **options):
    """Serve an application on a free port; yield the server.

    Args:
        seconds: after which it must have stopped.
        options: of `LocalServer.run`.
    """
    server, ready = LocalServer(host, with_token=with_token), threading.Event()
    options = {"announce": lambda _: ready.set(), **options}
    thread = threading.Thread(target=server.run, args=(app,), kwargs=options)
    thread.start()
    try:
        assert ready.wait(30)
        yield server
    finally:
        server.stop()
        thread.join(seconds)
        server.__exit__()
    assert not thread.is_alive()
