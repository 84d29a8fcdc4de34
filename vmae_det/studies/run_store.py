"""The folder of all runs: which are finished, what they measured, and who works on them."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vmae_det.config import CfgNode
from vmae_det.config.defaults import KEYS
from vmae_det.engine.setup import FINAL_WEIGHTS
from vmae_det.studies.grid import WEIGHTS_KEY, Run, as_json, compared_values
from vmae_det.utils.output_files import write_json

CONSOLE = "console.txt"  # everything that the processes of a run print
_PLAN = "run.json"  # config and parent of a run that was started
_MARKER = "finished.json"  # exists if the run is finished; contains its measures
_LOCK = ".lock"  # held by the process of a run
_JOB = "job.json"  # job of the cluster that was submitted for the run
_RESULTS = "results.json"


class RunStore:
    """The runs of all studies of an output folder.

    Args:
        folder: contains a folder for each run.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder.absolute()

    def folder(self, run: Run) -> Path:
        """Return the folder of a run."""
        return self.root / run.name

    def config(self, run: Run) -> CfgNode:
        """Return the config of a run with its folder and the weights of its parent."""
        cfg = run.cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = str(self.folder(run))
        if run.parent:
            cfg.merge_from_list([WEIGHTS_KEY, str(self.folder(run.parent) / FINAL_WEIGHTS)])
        cfg.freeze()
        return cfg

    # ------------------------------------------------------------ state

    def is_finished(self, run: Run) -> bool:
        """Return whether a run is finished, with its present config and parent."""
        return bool(self.marker(run))

    def marker(self, run: Run) -> dict[str, Any] | None:
        """Return what a finished run measured; None if it is not finished."""
        folder = self.folder(run)
        marker = _read(folder / _MARKER)
        return marker if marker and self.is_current(run) else None

    def is_current(self, run: Run) -> bool:
        """Return whether the files in a run's folder belong to its present config and parent.

        They do not if the default of a config key has changed since, or if the parent was run again.
        """
        plan = _read(self.folder(run) / _PLAN)
        if not plan or (run.parent and not self.is_finished(run.parent)):
            return False
        if plan.get("parent") != self._parent_id(run):
            return False
        stored = plan.get("config", {})
        return all(
            stored.get(key, as_json(KEYS[key].default)) == value
            for key, value in compared_values(run.cfg).items()
        )

    def was_started(self, run: Run) -> bool:
        """Return whether a run was started before, with its present config and parent."""
        return self.is_current(run) and (self.folder(run) / "log.txt").exists()

    def _parent_id(self, run: Run) -> str | None:
        marker = self.marker(run.parent) if run.parent else None
        return marker and marker["id"]

    def prepare(self, run: Run) -> None:
        """Prepare the folder of a run that is started or resumed; the caller has its lock."""
        folder = self.folder(run)
        if self.is_current(run):
            return
        for path in folder.iterdir():
            if path.name not in (_LOCK, _JOB, CONSOLE):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        plan = {"parent": self._parent_id(run), "config": compared_values(run.cfg)}
        write_json(folder / _PLAN, plan)

    def is_locked(self, run: Run) -> bool:
        """Return whether a process works on a run."""
        if not (self.folder(run) / _LOCK).exists():
            return False
        with self.lock(run) as is_free:
            return not is_free

    @contextmanager
    def lock(self, run: Run, timeout: float = 0.0) -> Iterator[bool]:
        """Hold the lock of a run; yields False if another process has it. It ends with the process."""
        lock = FileLock(self.folder(run) / _LOCK, timeout=timeout)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    # ------------------------------------------------------------ jobs of a cluster

    def job(self, run: Run) -> str | None:
        """Return the id of the last job that was submitted for a run; None if there is none."""
        return (_read(self.folder(run) / _JOB) or {}).get("id")

    def write_job(self, run: Run, job: str) -> None:
        """Store the id of the job that was submitted for a run."""
        self.folder(run).mkdir(parents=True, exist_ok=True)
        write_json(self.folder(run) / _JOB, {"id": job})

    # ------------------------------------------------------------ results

    def results(self, run: Run) -> dict[str, float | None] | None:
        """Return the metrics and measures of a finished run by name; None if it is not finished."""
        marker = self.marker(run)
        if marker is None:
            return None
        return (_read(self.folder(run) / _RESULTS) or {}) | marker["measures"]


def write_marker(folder: Path, measures: dict[str, float | None]) -> None:
    """Mark the run in a folder as finished."""
    write_json(folder / _MARKER, {"id": uuid.uuid4().hex, "measures": measures})


def _read(path: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file; None if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
