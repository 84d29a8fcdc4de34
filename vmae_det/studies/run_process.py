"""The process of one run: it holds the lock of the run, trains, and marks the run as finished.

The processes are forked from a server that has imported torch, which takes 4 s of CPU time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path

import torch

from vmae_det.config import CfgNode
from vmae_det.engine.launch import launch
from vmae_det.engine.setup import METRICS
from vmae_det.engine.train import run_training
from vmae_det.engine.trainer import HookBase
from vmae_det.studies.grid import Run
from vmae_det.studies.run_store import CONSOLE, RunStore, write_marker
from vmae_det.utils import distributed
from vmae_det.utils.extensions import import_extensions, imported_extensions
from vmae_det.utils.resource_usage import peak_memory
from vmae_det.visualization.training_hook import picture_hooks

BUSY = 75  # exit status if another process works on the run
_LOCK_PATIENCE = 2.0  # seconds; another study that only looks whether the lock is held frees it at once
_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
_PRELOADED = ["torch._dynamo", "torch.utils.tensorboard", __name__]


@dataclass(frozen=True)
class Resources:
    """What a run may use.

    Args:
        processes: number of training processes.
        threads: CPU threads of the run.
        gpus: value of CUDA_VISIBLE_DEVICES; None keeps it.
    """

    processes: int = 1
    threads: int = 1
    gpus: str | None = None


@dataclass(frozen=True)
class Job:
    """What the process of a run gets."""

    run: Run
    root: Path
    resources: Resources
    folder: Path = field(default_factory=Path.cwd)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    extensions: tuple[str, ...] = field(default_factory=imported_extensions)


def start_run(run: Run, store: RunStore, resources: Resources) -> BaseProcess:
    """Start or resume a run in a process of its own.

    The exit status is that of `launch`, or BUSY. The output is appended to the console file of the run.
    """
    context = multiprocessing.get_context(_METHOD)
    if _METHOD == "forkserver":
        context.set_forkserver_preload(_PRELOADED)
    process = context.Process(target=_main, args=(Job(run, store.root, resources),), name=run.name)
    process.start()
    return process


def _main(job: Job) -> None:
    threading.Thread(target=_stop_with_study, daemon=True).start()
    os.chdir(job.folder)
    resources = job.resources
    os.environ.clear()
    os.environ.update(job.environment, OMP_NUM_THREADS=str(resources.threads))
    if resources.gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = resources.gpus
    store = RunStore(job.root)
    folder = store.folder(job.run)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / CONSOLE).open("ab", buffering=0) as console:
        for stream in (1, 2):
            os.dup2(console.fileno(), stream)
    sys.exit(work_on(job.run, store, resources.processes, job.extensions))


def _stop_with_study() -> None:
    """Wait until the process of the study ends, then save and stop. It only ends first if it was killed."""
    parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)


def work_on(run: Run, store: RunStore, processes: int, extensions: tuple[str, ...] = ()) -> int:
    """Do a run in this process, or in several that it starts; return the exit status, or BUSY.

    It resumes from a checkpoint, and does nothing if the run is finished.
    """
    import_extensions(extensions)
    store.folder(run).mkdir(parents=True, exist_ok=True)
    with store.lock(run, _LOCK_PATIENCE) as is_mine:
        if not is_mine:
            return BUSY
        if store.is_finished(run):
            return 0
        store.prepare(run)
        return launch(train_and_mark, (store.config(run),), num_processes=processes)


class Measurements(HookBase):
    """Stores the size of the model, and whether the run was resumed."""

    def before_train(self) -> None:
        """Store them."""
        self.parameters = sum(parameter.numel() for parameter in self.trainer.model.parameters())
        self.resumed = self.trainer.step > 0


def train_and_mark(cfg: CfgNode, resume: bool = True) -> None:
    """Train in one of the processes of a run. The one with rank 0 marks the run as finished.

    Args:
        resume: as of `run_training`.
    """
    began = time.perf_counter()
    measurements = Measurements()
    run_training(cfg, resume, hooks=[*picture_hooks(cfg), measurements])
    if not distributed.is_main_process():
        return
    folder = Path(cfg.OUTPUT_DIR)
    gpu = cfg.MODEL.DEVICE in ("auto", "cuda") and torch.cuda.is_available()
    memory = torch.cuda.max_memory_allocated() if gpu else peak_memory()
    write_marker(
        folder,
        {
            # The time of a resumed run is not known: that of the part that was killed is missing.
            "seconds": None if measurements.resumed else time.perf_counter() - began,
            "memory": memory / 1e6,
            "parameters": measurements.parameters / 1e6,
            "loss": _last_loss(folder / METRICS),
        },
    )


def _last_loss(path: Path) -> float | None:
    losses = [json.loads(line).get("loss") for line in path.read_text(encoding="utf-8").splitlines()]
    return next((loss for loss in reversed(losses) if loss is not None), None)
