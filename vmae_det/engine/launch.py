"""Run a function in one process, in several processes on this machine, or on several machines.

`elastic_agent.py` starts the processes. Processes that `torchrun` has started join its process group instead.
"""

from __future__ import annotations

import ctypes
import datetime
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed as dist

from vmae_det.engine.elastic_agent import (
    CONNECTION_LOST,
    MachineConfig,
    WorkerTask,
    print_message,
    run_agent,
)
from vmae_det.engine.hooks import Interrupted
from vmae_det.utils import distributed
from vmae_det.utils.cpu import count_cores
from vmae_det.utils.errors import USER_ERROR_STATUS, ConfigError, UserError, file_error, one_line
from vmae_det.utils.extensions import import_extensions
from vmae_det.utils.memory import is_out_of_memory, out_of_memory_error
from vmae_det.utils.watchdog import TIMEOUT, Watchdog

_LINGER = 10.0  # seconds before a hung process exits, so that those of other machines notice the hang, too
_MAX_PROCESSES_PER_CORE = 4
_PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)


def launch(
    main: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    num_processes: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    max_restarts: int = 0,
    timeout: float = TIMEOUT,
    restart_args: tuple[Any, ...] | None = None,
) -> int:
    """Run `main(*args)` in all processes and return the exit status.

    The status is 0 on success, 1 after an error of the program or a lost process, 2 after a user error, HUNG
    after a hang, and 128 + signal after a signal.

    Args:
        main: importable by name. With several processes, each calls it in an initialized process group.
        num_processes: on this machine; one per GPU, or any number on the CPU.
        dist_url: HOST:PORT of machine 0. "auto" uses a free port on a single machine.
        max_restarts: how often all processes restart after one was lost, hung, or failed.
        timeout: seconds without progress (`utils.watchdog.heartbeat`) after which a process counts as hung.
        restart_args: replaces `args` after a restart.

    Raises:
        ConfigError: an argument is invalid, or the machines cannot connect.
    """
    if timeout <= 0:
        raise ConfigError(f"--timeout: must be above 0 seconds, got {timeout:g}")
    if max_restarts < 0:
        raise ConfigError(f"--max-restarts: must be 0 or more, got {max_restarts}")
    if not 0 <= machine_rank < num_machines:
        raise ConfigError(
            f"--machine-rank: must be in 0..{num_machines - 1} with --num-machines {num_machines}, got "
            f"{machine_rank}"
        )
    task = WorkerTask(main, args, restart_args, timeout, num_machines > 1)
    if "TORCHELASTIC_RUN_ID" in os.environ or {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        task.restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
        with Watchdog(timeout, _print_problem, _LINGER):
            return _run_in_group(task, print_error)
    if num_machines == 1 and num_processes <= 1 and not max_restarts:
        with Watchdog(timeout, _print_problem):
            return run_guarded(main, *args)
    if num_machines > 1 and dist_url == "auto":
        raise ConfigError("--dist-url: with several machines, set HOST:PORT of the machine with rank 0")
    endpoint = "localhost:0" if dist_url == "auto" else dist_url.removeprefix("tcp://")
    if not endpoint.rpartition(":")[2].isdecimal():
        raise ConfigError(f"--dist-url: expected HOST:PORT, got {dist_url}")
    machine = MachineConfig(max(num_processes, 1), num_machines, machine_rank, endpoint)
    return run_agent(_run_worker, task, machine, max_restarts)


def check_processes(number: int, device: str = "auto") -> None:
    """Check --num-gpus against this machine. Without a GPU, print that the processes run on the CPU.

    Args:
        number: of processes on this machine.
        device: MODEL.DEVICE.

    Raises:
        ConfigError: there are too few GPUs, or far too few cores.
    """
    if number <= 1:
        return
    gpus, cores = torch.cuda.device_count(), count_cores()
    if device == "mps":
        raise ConfigError(f"--num-gpus: got {number}, but MODEL.DEVICE mps supports a single process")
    if device != "cpu" and number > gpus > 0:
        raise ConfigError(f"--num-gpus: got {number}, and this machine has {gpus} GPU{'s' * (gpus > 1)}")
    if device == "cpu" or not gpus:
        reason = "MODEL.DEVICE is cpu" if gpus else "this machine has no GPU that torch can use"
        where = f"{reason}, and {cores} CPU core{'s' * (cores > 1)}"
        if number > _MAX_PROCESSES_PER_CORE * cores:
            raise ConfigError(f"--num-gpus: got {number}, and {where}")
        print_message(f"warning: --num-gpus {number}: {where}; {number} processes run on the CPU")


def _run_worker(task: WorkerTask) -> None:
    """Entry point of the processes that the agent starts."""
    # The scheduler may send its warning to all processes; only the agent handles it.
    if hasattr(signal, "SIGUSR2"):
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if task.multi_machine and sys.platform == "linux":
        # By default a process whose agent was killed gets SIGINT, which would make it stop the entire run.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    error_file = task.error_file(int(os.environ["RANK"]))

    def report(error: UserError) -> None:
        error_file.write_text(one_line(error), encoding="utf-8")

    linger = _LINGER if task.multi_machine else 0.0
    with Watchdog(task.timeout, lambda _: None, linger):  # the agent prints the message
        status = _run_in_group(task, report)
    if status:
        sys.stdout.flush()
        os._exit(status)  # sys.exit would make the agent print a traceback


def _run_in_group(task: WorkerTask, report: Callable[[UserError], None]) -> int:
    cuda = torch.cuda.is_available()
    # Let the watchdog fire before collectives time out: its message is clearer.
    collective_timeout = datetime.timedelta(seconds=2 * task.timeout + 60)
    try:
        # Flags and other small objects are exchanged between CPUs, also where gradients use NCCL.
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=collective_timeout)
        # A restarted machine resumes the run of the remaining machines.
        restarted = distributed.any_process(task.restarted) and task.restart_args is not None
        args = task.restart_args if restarted else task.args
        status = run_guarded(_run_with_extensions, task, args, report=report)
    except Exception as error:
        if _is_lost_connection(error):
            if "NCCL" in str(error):  # also if it is not a lost process, but no memory or a wrong set-up
                print_message(
                    f"process {os.environ.get('RANK', 0)}: {_nccl_reason(str(error))}; set NCCL_DEBUG=INFO "
                    "for details"
                )
            return CONNECTION_LOST
        traceback.print_exc()
        return 1
    if status == 0:
        dist.destroy_process_group()
    return status


def _run_with_extensions(task: WorkerTask, args: tuple[Any, ...]) -> None:
    import_extensions(task.extensions)
    task.main(*args)


def _is_lost_connection(error: Exception) -> bool:
    """Return whether torch reports a lost process. gloo has no exception class for it."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _nccl_reason(message: str) -> str:
    """Return the last error that NCCL names in a message of torch, or its first line, as one line."""
    before, _, last = message.partition("Last error:")
    return " ".join((last.strip() or before).strip().splitlines()[0].split())[:300]


def run_guarded(
    main: Callable[..., Any], *args: Any, report: Callable[[UserError], None] | None = None
) -> int:
    """Call `main(*args)` and return the exit status.

    A user error, an interrupt, or running out of memory is printed as one line.

    Args:
        report: called with the user error instead of `print_error`.
    """
    report = report or print_error
    try:
        main(*args)
    except UserError as error:
        report(error)
        return USER_ERROR_STATUS
    except OSError as error:
        report(file_error(error))
        return USER_ERROR_STATUS
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        report(out_of_memory_error(error))
        return USER_ERROR_STATUS
    except Interrupted as interrupt:
        if int(os.environ.get("RANK", 0)) == 0:
            print_message(str(interrupt))
        return 128 + interrupt.signal_number
    return 0


def print_error(error: UserError) -> None:
    """Print an error as one line on stderr, from the process with rank 0."""
    if int(os.environ.get("RANK", 0)) == 0:
        _print_problem(one_line(error))


def _print_problem(message: str) -> None:
    print_message(f"error: {message}")
