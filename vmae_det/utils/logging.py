"""Logging of the package: terminal and file, beside a progress bar."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from vmae_det.utils import distributed


class _BarHandler(logging.Handler):
    """Writes lines above a progress bar that may be on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record))


class _LogFile(logging.FileHandler):
    """A log file; where it cannot be written, the terminal says so once, and the run goes on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Called in place of raising, while the error is handled."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.failed:
            self.failed = True
            tqdm.write(f"{self.baseFilename} cannot be written: {error.strerror or error}; the run goes on")

    def close(self) -> None:
        """Close the file, whatever is left to write."""
        with suppress(OSError):
            super().close()


def setup_logging(folder: str | Path | None = None) -> None:
    """Send the package's log to the terminal, and to `folder`/log.txt; other processes only warn."""
    logger = logging.getLogger("vmae_det")
    main = distributed.is_main_process()
    logger.setLevel(logging.INFO if main else logging.WARNING)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    terminal = _BarHandler()
    rank = "" if main else f"[process {distributed.get_rank()}] "
    terminal.setFormatter(logging.Formatter(f"[%(asctime)s] {rank}%(message)s", "%H:%M:%S"))
    logger.addHandler(terminal)
    if folder is not None and main:
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = _LogFile(Path(folder) / "log.txt")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(file)
