"""Write metrics to event files for TensorBoard."""

from __future__ import annotations

import logging
import os
import socket
import time
from pathlib import Path

from vmae_det.utils.events import Writer

logger = logging.getLogger(__name__)


class TensorBoardWriter(Writer):
    """Write an event file, in the calling thread: errors in the thread of torch's writer cannot be caught.

    A full disk stops the curves with a warning, but not the run: metrics.jsonl has the same numbers.

    Args:
        start: steps done before a resumed run. TensorBoard discards later steps in older files, because they
            are repeated.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, start: int = 0) -> None:
        # These imports take half a second.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if start:
            session = SessionLog(status=SessionLog.START)
            self._add(Event(wall_time=time.time(), step=start + 1, session_log=session))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add scalars."""
        if self._file.closed:
            return
        scalars = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        event = self._event(wall_time=time.time(), step=step, summary=self._summary(value=scalars))
        try:
            self._add(event)
        except OSError as error:
            logger.warning(
                "the TensorBoard file cannot be written; its curves end before step %d: %s",
                step,
                error.strerror or error,
            )
            self.close()

    def _add(self, event: object) -> None:
        self._records.write(event.SerializeToString())
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:  # reported by `write` before
            logger.debug("%s", error)
