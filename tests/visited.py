"""Visits a server that a command starts, then stops it."""

from vmae_det.web.server import LocalServer


def visit_and_stop(monkeypatch, visit):
    """Make servers call `visit(port)` as soon as they accept requests, and stop after it."""
    original = LocalServer.run

    def run(self, app, **options):
        def announce(address):
            try:
                visit(self.port)
            finally:
                self.stop()

        original(self, app, announce=announce, **options)

    monkeypatch.setattr(LocalServer, "run", run)
