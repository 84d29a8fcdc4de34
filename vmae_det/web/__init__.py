"""Local web pages: their server, its security, and the applications behind the pages.

It may import every package except `cli`, which alone imports it. Starlette and uvicorn, of the extra `web`,
are imported nowhere else. Call `require_web` before an import of a module that needs them.
"""

from vmae_det.utils.errors import UserError


def require_web(command: str) -> None:
    """Raise UserError if a package of the extra `web` is not installed."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{command}: needs {error.name}, which is not installed; pip install 'vmae_det[web]'"
        ) from None
