"""Logging to the terminal, above a progress bar, and to a file."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm


class _BarHandler(logging.Handler):
    """Write lines above the progress bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record))


class _LogFile(logging.FileHandler):
    """A log file. If it cannot be written, print that once and continue."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by `logging` while the error is handled."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.failed:
            self.failed = True
            tqdm.write(f"{self.baseFilename} cannot be written: {error.strerror or error}; the run continues")

    def close(self) -> None:
        """Close the file, even if the rest cannot be written."""
        with suppress(OSError):
            super().close()


def setup_logging(folder: str | Path | None = None) -> None:
    """Log to the terminal and to `folder`/log.txt. Processes other than rank 0 log only warnings."""
    logger = logging.getLogger("vmae_det")
    number = _rank()
    main = number == 0
    logger.setLevel(logging.INFO if main else logging.WARNING)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    terminal = _BarHandler()
    rank = "" if main else f"[process {number}] "
    terminal.setFormatter(logging.Formatter(f"[%(asctime)s] {rank}%(message)s", "%H:%M:%S"))
    logger.addHandler(terminal)
    if folder is not None and main:
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = _LogFile(Path(folder) / "log.txt")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(file)


def _rank() -> int:
    """Return the rank of this process. Does not import torch, which many commands do not need."""
    if "torch" not in sys.modules:
        return 0
    from vmae_det.utils import distributed

    return distributed.get_rank()
