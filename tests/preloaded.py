"""Start processes from a server that has imported torch and vmae_det already.

A new interpreter imports both, which takes 4 s of CPU time. Tests whose subject is what processes do, and not
how they are started, fork them from this server instead.
"""

import gc
import os
import subprocess
import sys
from multiprocessing import context, popen_forkserver, set_forkserver_preload
from multiprocessing.reduction import DupFd

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from vmae_det.cli.main import main

# torch's optimizers import torch._dynamo.
MODULES = [
    "torch._dynamo",
    "vmae_det.engine.launch",
    "vmae_det.engine.train",
    "vmae_det.cli.train",
    "torch.utils.tensorboard",
    "torchvision.ops",
]
# Seconds between checks for lost loader workers, here and in the processes. PyTorch's default is 5.
_MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.2,)


class _Surroundings:
    """Output streams and environment of a new process, which adopts them on unpickling."""

    def __init__(self, stdout=1, stderr=2, env=None):
        self.streams = stdout, stderr
        self.env = dict(os.environ if env is None else env)

    def __reduce__(self):
        return _adopt, (*map(DupFd, self.streams), self.env)


def _adopt(stdout, stderr, env):
    gc.freeze()  # the imported modules
    os.dup2(stdout.detach(), 1)
    os.dup2(stderr.detach(), 2)
    os.environ.clear()
    os.environ.update(env)
    torch.set_num_threads(int(env["OMP_NUM_THREADS"]))


def _start(process):
    set_forkserver_preload(MODULES)
    process.__dict__.setdefault("surroundings", _Surroundings())
    return popen_forkserver.Popen(process)


@pytest.fixture
def preloaded_processes(monkeypatch):
    """Fork the processes that the test would spawn from a process with MODULES."""
    monkeypatch.setattr(context.SpawnProcess, "_Popen", staticmethod(_start))


class _Process(context.SpawnProcess):
    _Popen = staticmethod(_start)


class PreloadedCommand:
    """Run `python -m vmae_det.cli.main ...` like `subprocess.Popen`, forked from a process with MODULES.

    Processes that the command starts itself are not preloaded.

    Args:
        stdout, stderr: files.
    """

    def __init__(self, command, *, stdout, stderr, start_new_session=False, env=None):
        assert command[:3] == [sys.executable, "-m", "vmae_det.cli.main"]
        self._process = _Process(target=_run, args=(command[3:], start_new_session))
        self._process.surroundings = _Surroundings(stdout.fileno(), stderr.fileno(), env)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("vmae-det", timeout)
        return self.returncode

    def kill(self):
        self._process.kill()


def _run(arguments, start_new_session):
    if start_new_session:
        os.setsid()
    sys.exit(main(arguments))
