"""One launcher: this process alone, many on this machine, or many on several machines.

It runs on torch's elastic agent; started by `torchrun` itself, it joins the group that torchrun made.
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

from vmae_det.engine.elastic_agent import LOST, Job, Place, run_agent, say
from vmae_det.engine.hooks import Interrupted
from vmae_det.utils import distributed
from vmae_det.utils.cpu import count_cores
from vmae_det.utils.errors import USER_ERROR_STATUS, ConfigError, UserError, file_error, one_line
from vmae_det.utils.extensions import import_extensions
from vmae_det.utils.memory import is_out_of_memory
from vmae_det.utils.watchdog import TIMEOUT, Watchdog

_LINGER = 10.0  # seconds that a hung process waits for those of other machines to notice, too
_PER_CORE = 4  # processes that may share a core
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
    """Run `main(*args)` in all processes and give the exit status.

    0; 1 after an error of the program or a lost process; 2 after a user's error; HUNG where no progress was
    made; 128 + signal.

    Args:
        main: importable by name; every process calls it with a process group at hand.
        num_processes: on this machine, one per GPU, or as many as wanted on the CPU.
        dist_url: HOST:PORT of machine 0; "auto" finds a free port on a single machine.
        max_restarts: how often all processes start again after one was lost or hung, or the program failed.
        timeout: seconds without progress (`utils.watchdog.heartbeat`) after which a process counts as hung.
        restart_args: in place of `args` when processes start again.
    """
    if timeout <= 0:
        raise ConfigError(f"--timeout: must be above 0 seconds, got {timeout:g}")
    if max_restarts < 0:
        raise ConfigError(f"--max-restarts: must be 0 or more, got {max_restarts}")
    if not 0 <= machine_rank < num_machines:
        raise ConfigError(
            f"--machine-rank: must lie in 0..{num_machines - 1} with --num-machines {num_machines}, got "
            f"{machine_rank}"
        )
    job = Job(main, args, restart_args, timeout, num_machines > 1)
    if "TORCHELASTIC_RUN_ID" in os.environ or {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        job.restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
        with Watchdog(timeout, _say_error, _LINGER):
            return _run_in_group(job, print_error)
    if num_machines == 1 and num_processes <= 1 and not max_restarts:
        with Watchdog(timeout, _say_error):
            return run_guarded(main, *args)
    if num_machines > 1 and dist_url == "auto":
        raise ConfigError("--dist-url: with several machines give HOST:PORT of the machine with rank 0")
    address = "localhost:0" if dist_url == "auto" else dist_url.removeprefix("tcp://")
    if not address.rpartition(":")[2].isdecimal():
        raise ConfigError(f"--dist-url: expected HOST:PORT, got {dist_url}")
    place = Place(max(num_processes, 1), num_machines, machine_rank, address)
    return run_agent(_worker, job, place, max_restarts)


def check_processes(number: int) -> None:
    """Refuse a --num-gpus of more than this machine has; where it has none, say that the CPU is used.

    Raises:
        ConfigError: there are too few GPUs, or far too few cores.
    """
    if number <= 1:
        return
    gpus, cores = torch.cuda.device_count(), count_cores()
    if gpus and number > gpus:
        raise ConfigError(f"--num-gpus: got {number}, and this machine has {gpus} GPU{'s' * (gpus > 1)}")
    if not gpus:
        where = f"this machine has no GPU that torch can use, and {cores} CPU core{'s' * (cores > 1)}"
        if number > _PER_CORE * cores:
            raise ConfigError(f"--num-gpus: got {number}, and {where}")
        say(f"warning: --num-gpus {number}: {where}; {number} processes run on the CPU")


def _worker(job: Job) -> None:
    """What the agent starts."""
    # The scheduler's warning, which may go to all processes, is for the agent.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if job.several_machines and sys.platform == "linux":
        # By default a process whose agent was killed gets SIGINT, with which it would end the whole run.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    note = job.note_of(int(os.environ["RANK"]))

    def report(error: UserError) -> None:
        note.write_text(one_line(error), encoding="utf-8")

    linger = _LINGER if job.several_machines else 0.0
    with Watchdog(job.timeout, lambda _: None, linger):  # the agent says it
        status = _run_in_group(job, report)
    if status:
        sys.stdout.flush()
        os._exit(status)  # a plain exit would have the agent print a traceback of its own


def _run_in_group(job: Job, report: Callable[[UserError], None]) -> int:
    cuda = torch.cuda.is_available()
    if cuda:
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        if local_rank >= torch.cuda.device_count():
            return run_guarded(_too_few_gpus, local_rank, report=report)
        torch.cuda.set_device(local_rank)
    # Collectives give up after the watchdog, which says more.
    patience = datetime.timedelta(seconds=2 * job.timeout + 60)
    try:
        # Small things, such as "was any process asked to stop", travel between CPUs even where gradients
        # use NCCL.
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=patience)
        # A machine that came back belongs to the same run as those that stayed.
        again = distributed.any_process(job.restarted) and job.restart_args is not None
        args = job.restart_args if again else job.args
        status = run_guarded(_run_extended, job, args, report=report)
    except Exception as error:
        if _is_lost_connection(error):
            return LOST
        traceback.print_exc()
        return 1
    if status == 0:
        dist.destroy_process_group()
    return status


def _run_extended(job: Job, args: tuple[Any, ...]) -> None:
    import_extensions(job.extensions)
    job.main(*args)


def _is_lost_connection(error: Exception) -> bool:
    """Whether this is how torch tells of a process that has gone; gloo has no class of errors."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _too_few_gpus(local_rank: int) -> None:
    raise ConfigError(
        f"--num-gpus: process {local_rank + 1} finds only {torch.cuda.device_count()} GPUs on this machine"
    )


def run_guarded(
    main: Callable[..., Any], *args: Any, report: Callable[[UserError], None] | None = None
) -> int:
    """Call `main(*args)`; a user's error, an interrupt or a lack of memory becomes one line on stderr and an
    exit status.

    Args:
        report: gets the user's error in place of `print_error`.
    """
    try:
        main(*args)
    except UserError as error:
        (report or print_error)(error)
        return USER_ERROR_STATUS
    except OSError as error:
        (report or print_error)(file_error(error))
        return USER_ERROR_STATUS
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        problem = str(error).partition("\n")[0][:300] or "no more memory"
        hint = "a smaller SOLVER.BATCH_SIZE or TEST.BATCH_SIZE, or a larger SOLVER.ACCUMULATE, needs less"
        (report or print_error)(UserError(f"out of memory ({problem}); {hint}"))
        return USER_ERROR_STATUS
    except Interrupted as interrupt:
        if int(os.environ.get("RANK", 0)) == 0:
            say(str(interrupt))
        return 128 + interrupt.signal_number
    return 0


def print_error(error: UserError) -> None:
    """One line on stderr, from the first process that is able to say it."""
    if int(os.environ.get("RANK", 0)) == 0:
        _say_error(one_line(error))


def _say_error(message: str) -> None:
    say(f"error: {message}")
