"""Start processes from a server that has imported torch and vmae_det already.

A process that is started with "spawn" imports both, which takes 4 s of CPU time. Tests whose subject is what
the processes do, and not how they are started, use the fixture `preloaded_processes`.
"""

import os
from multiprocessing import context, popen_forkserver, set_forkserver_preload
from multiprocessing.reduction import DupFd

import pytest

# torch's optimizers import torch._dynamo.
MODULES = ["torch._dynamo", "vmae_det.engine.launch", "vmae_det.engine.train"]


class _Surroundings:
    """The output streams and the environment of this process. A new process adopts them on unpickling."""

    def __reduce__(self):
        return _adopt, (DupFd(1), DupFd(2), dict(os.environ))


def _adopt(stdout, stderr, environment):
    os.dup2(stdout.detach(), 1)
    os.dup2(stderr.detach(), 2)
    os.environ.clear()
    os.environ.update(environment)


def _start(process):
    process.surroundings = _Surroundings()
    return popen_forkserver.Popen(process)


@pytest.fixture
def preloaded_processes(monkeypatch):
    """Fork the processes that the test would spawn from a process with MODULES."""
    set_forkserver_preload(MODULES)
    monkeypatch.setattr(context.SpawnProcess, "_Popen", staticmethod(_start))
