"""Logging of the package: terminal and file, beside a progress bar."""

from __future__ import annotations

import logging
from pathlib import Path

from tqdm import tqdm

from vmae_det.utils import distributed


class _BarHandler(logging.Handler):
    """Writes lines above a progress bar that may be on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record))


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
        file = logging.FileHandler(Path(folder) / "log.txt", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(file)
