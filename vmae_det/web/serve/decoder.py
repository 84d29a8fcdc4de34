"""What runs in the process of one video: decoding it, and writing its results, with limits.

The process has no model. It asks the server for scores. It is imported once by the server from which such
processes are forked.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection as connections
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vmae_det.inference.classifier import ActionClassifier
from vmae_det.inference.detections import KeyframeActions
from vmae_det.inference.person_sources import DetectedPersons, PersonSource, WholeFramePerson
from vmae_det.inference.predictor import ActionPredictor
from vmae_det.rendering.class_writers import TIMELINE_WRITERS, class_file, timeline_stem, write_classes
from vmae_det.rendering.detect_video import DetectionSettings, detect_video, write_stream
from vmae_det.rendering.overlay_video import OverlayStyle
from vmae_det.utils.errors import DataError, UserError, one_line
from vmae_det.utils.extensions import import_extensions
from vmae_det.utils.memory import is_out_of_memory
from vmae_det.utils.resource_usage import peak_memory
from vmae_det.video.sources import VideoSource, open_source
from vmae_det.web.serve.messages import Message, receive, send
from vmae_det.web.serve.model import RemoteModel

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_MAX_WARNINGS = 10
_DRAWN = 3  # actions per person in an overlay, as `detect --top-k`


@dataclass(frozen=True)
class VideoTask:
    """What to do with a video.

    Attributes:
        predictor: a predictor or classifier without a scorer.
        finds_persons: whether the model finds the persons.
        whole_frame: whether the whole frame is one person.
        video: the file.
        name: its name, for messages.
        output: folder of the results.
        every: seconds between keyframes; None: classify the video as a whole.
        threshold: lowest score of actions that are drawn.
        smooth: seconds over which scores are averaged.
        formats: what to write.
        max_seconds: length of a video.
        max_memory: bytes that the process may allocate.
        extensions: modules of `--import`.
    """

    predictor: ActionPredictor | ActionClassifier
    finds_persons: bool
    whole_frame: bool
    video: Path
    name: str
    output: Path
    every: float | None
    threshold: float
    smooth: float
    formats: Sequence[str]
    max_seconds: float
    max_memory: int
    extensions: Sequence[str] = ()


class _Server:
    """The server, which any thread of this process can use."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def tell(self, kind: str, content: Any) -> None:
        """Send news, such as the progress."""
        with self._lock:
            send(self._connection, Message(kind, content))

    def ask(self, call: Message) -> Message:
        """Send a call; return the answer."""
        with self._lock:
            send(self._connection, call)
            return receive(self._connection)


class _Progress:
    """Reports the time of each result as a fraction of the video, at most once per percent."""

    def __init__(self, tell: Callable[[str, Any], None], seconds: float) -> None:
        self._tell, self._seconds, self._told = tell, max(seconds, 1e-3), -1

    def write(self, keyframe: KeyframeActions) -> None:
        """Receive the next result (see `ResultListener`)."""
        percent = min(int(100 * keyframe.time / self._seconds), 99)
        if percent > self._told:
            self._told = percent
            self._tell("progress", percent / 100)


class _Warnings(logging.Handler):
    """Collects the warnings about a video."""

    def __init__(self, readable: Callable[[object], str]) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        self._readable = readable

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.texts) < _MAX_WARNINGS:
            self.texts.append(self._readable(record.getMessage()))


def run(connection: Connection, task: VideoTask) -> None:
    """Process a video. The last message is `done` or `failed`."""
    server = _Server(connection)
    _isolate(task.max_memory)
    warnings = _Warnings(lambda text: _readable(text, task))
    logger = logging.getLogger("vmae_det")
    logger.handlers, logger.propagate = [warnings], False
    try:
        import_extensions(task.extensions)
        seconds = _process(task, server)
        content = {"seconds": seconds, "warnings": warnings.texts, "memory": peak_memory()}
        server.tell("done", content)
    except (BrokenPipeError, ConnectionError, EOFError):
        return  # the server has cancelled the job, or ended
    except BaseException as error:
        with suppress(OSError):
            server.tell("failed", {"error": _reason(error, task), "memory": peak_memory()})
        if not (isinstance(error, UserError) or _is_memory(error)):
            sys.excepthook(type(error), error, error.__traceback__)


def _process(task: VideoTask, server: _Server) -> float:
    """Write the results of a video; return its length in seconds."""
    predictor = task.predictor
    source = open_source(task.video, predictor.cfg.DATALOADER.READER)
    seconds = _length(source)
    if seconds > task.max_seconds:
        raise DataError(
            f"has {seconds:.0f} seconds; at most {task.max_seconds:g} are accepted (--max-seconds)", task.name
        )
    model = RemoteModel(server.ask, task.finds_persons)
    predictor = predictor.with_scorer(model)
    stem = task.output / task.video.stem
    if task.every is None:
        result = predictor(task.video)
        for name in task.formats:
            write_classes(result, task.video.stem, class_file(stem, name))
        return seconds
    progress = _Progress(server.tell, seconds)
    classifies = isinstance(predictor, ActionClassifier)
    style = OverlayStyle(_DRAWN, task.threshold, timeline=classifies, whole_frame=classifies)
    settings = DetectionSettings(task.formats, task.every, smooth=task.smooth, style=style)
    if classifies:
        stream = predictor.stream(source, every=task.every, options=settings.stream_options())
        write_stream(
            stream,
            predictor.label_map,
            timeline_stem(stem),
            settings,
            writers=TIMELINE_WRITERS,
            listener=progress,
        )
    else:
        persons: PersonSource | None = None
        if task.whole_frame:
            persons = WholeFramePerson()
        elif not task.finds_persons:
            persons = DetectedPersons(model)
        detect_video(predictor, source, persons, stem, settings, listener=progress)
    return seconds


def _length(source: VideoSource) -> float:
    if source.times is None or not len(source.times):
        return 0.0
    return float(source.times[-1]) + 1 / float(source.rate)


def _readable(message: object, task: VideoTask) -> str:
    """Return a message with the name of the video in place of paths of the server."""
    text = one_line(message)
    for path, name in ((task.video, task.name), (task.output, "results"), (task.output.parent, "")):
        text = re.sub(re.escape(str(path)), lambda _, name=name: name, text)
    return text


def _reason(error: BaseException, task: VideoTask) -> str:
    if _is_memory(error):
        limit = task.max_memory / 2**30
        return f"{task.name}: needs more than {limit:g} GiB of memory; reduce its size (--max-memory)"
    if isinstance(error, UserError):
        return _readable(error, task)
    return f"{task.name}: failed with {type(error).__name__}; the server's terminal shows the reason"


def _is_memory(error: BaseException | None) -> bool:
    """Return whether an exception means that no memory is left, or was raised while that was handled."""
    if error is None:
        return False
    texts = (
        "Cannot allocate memory",
        "can't start new thread",
        "can't allocate lock",
        "Insufficient memory",
    )
    is_known = isinstance(error, Exception) and is_out_of_memory(error)
    return is_known or any(text in str(error) for text in texts) or _is_memory(error.__context__)


# ---------------------------------------------------------------- limits


def _isolate(max_memory: int) -> None:
    """Limit what this process can do, and end it with the server."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in the terminal of the server is not for this process
    tqdm.set_lock(threading.RLock())  # its default is a semaphore that leaks when the process is killed
    torch.set_num_threads(1)  # the model of the server uses the cores
    if resource is not None:
        _limit(resource.RLIMIT_CORE, 0)
    used = _used_memory()
    if resource is not None and used is not None:
        _limit(resource.RLIMIT_DATA, used + max_memory)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _limit(what: int, limit: int) -> None:
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def limits_memory() -> bool:
    """Return whether the memory of a process of a video can be limited."""
    return resource is not None and _used_memory() is not None


def _used_memory() -> int | None:
    """Return the bytes of private writable memory of this process; None if the system is not Linux."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return None


def _exit_with(sentinel: Any) -> None:
    connections.wait([sentinel])
    os._exit(1)
