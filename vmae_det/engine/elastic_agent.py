"""Start the processes of this machine with torch's elastic agent, and restart them when one is lost.

torch's agent retries every failure and reports one failed process. This one does not retry errors that a
retry cannot fix, and prints one line that names the process that caused the end. It overrides only the
extension points that torch documents (`SimpleElasticAgent`), and finds the processes through
`multiprocessing`.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.distributed import DistError
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousHandler,
    RendezvousParameters,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from vmae_det.utils.cpu import count_cores
from vmae_det.utils.errors import USER_ERROR_STATUS, ConfigError
from vmae_det.utils.extensions import imported_extensions
from vmae_det.utils.watchdog import HUNG, STACK_SIGNAL

CONNECTION_LOST = 75  # exit status of a process that lost its connection to another
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")  # that torch's agent handles
INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
_NOT_RETRIED = (USER_ERROR_STATUS, *INTERRUPTED)  # exit statuses after which a restart would not help
_STACKS_SECONDS = 5.0  # for hung processes to write their stacks

_running_agent: RestartingAgent | None = None


@dataclass
class WorkerTask:
    """The task that every process runs.

    Args:
        main: importable by name.
        args: its arguments.
        restart_args: its arguments after a restart; None uses `args`.
        timeout: seconds without progress after which a process counts as hung.
        multi_machine: whether the processes run on several machines.
        errors: folder of `error_file`, set by `run_agent`.
        restarted: whether this machine has started processes before.
        extensions: modules that each process imports first.
    """

    main: Callable[..., Any]
    args: tuple[Any, ...]
    restart_args: tuple[Any, ...] | None
    timeout: float
    multi_machine: bool = False
    errors: Path = field(default_factory=Path)
    restarted: bool = False
    extensions: tuple[str, ...] = field(default_factory=imported_extensions)

    def error_file(self, rank: int) -> Path:
        """Return the file in which a process leaves the message of its error for the agent to print."""
        return self.errors / f"{rank}.txt"


@dataclass(frozen=True)
class MachineConfig:
    """This machine and the number of machines.

    Args:
        num_processes: on this machine.
        num_machines: that take part.
        rank: of this machine, from 0. Machine 0 keeps the list of machines.
        endpoint: HOST:PORT of machine 0.
    """

    num_processes: int
    num_machines: int
    rank: int
    endpoint: str


@dataclass
class RestartBudget:
    """Counts restarts against a limit.

    Args:
        limit: most restarts.
        used: restarts so far.
        counted: whether the restart in progress is counted already. A failure can appear twice: as a lost
            process and as a lost connection to machine 0.
    """

    limit: int
    used: int = 0
    counted: bool = False

    def take(self) -> bool:
        """Count a restart, unless the one in progress is counted already. Return False if none is left."""
        if not self.counted and self.used >= self.limit:
            return False
        self.used += not self.counted
        self.counted = True
        return True


def run_agent(
    entry: Callable[[WorkerTask], None], task: WorkerTask, machine: MachineConfig, max_restarts: int
) -> int:
    """Run `entry(task)` in all processes of this machine until the run ends. Return the exit status.

    Raises:
        ConfigError: machine 0 cannot be reached, or a machine is missing.
    """
    # Divide the cores among the processes. Numeric libraries read this when they are loaded.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(count_cores() // machine.num_processes, 1)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost connection is reported below, in one line
    # A store shared between agents and processes is announced only in the first round: a machine that joins
    # later would wait for its address forever.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    for name in ("torch.distributed.elastic", "torch.distributed.run", "torch.multiprocessing.spawn"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # this module and the processes report errors
    restarts = RestartBudget(max_restarts)
    with TemporaryDirectory(prefix="vmae_det_") as errors, _restore_signal_handlers():
        task.errors = Path(errors)
        while (status := _run_until_end(RestartingAgent(entry, task, machine, restarts))) is None:
            pass  # Machine 0 restarts with an empty list of machines: this machine joins as a new one.
    return status


@contextmanager
def _restore_signal_handlers() -> Iterator[None]:
    """Restore the signal handlers that torch's agent replaces, so that Ctrl-C is KeyboardInterrupt again."""
    is_main = threading.current_thread() is threading.main_thread()  # only there, Python sets handlers
    numbers = [getattr(signal, name) for name in _SIGNALS if is_main and hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # None: not set by Python
                signal.signal(number, handler)


def _run_until_end(agent: RestartingAgent) -> int | None:
    """Return the exit status, or None if the connection to machine 0 is lost and may be retried."""
    global _running_agent
    _running_agent = agent
    machine = agent.machine
    try:
        agent.run()
        return agent.status
    except SignalException as stop:
        return 128 + stop.sigval
    except RendezvousTimeoutError:
        raise ConfigError(
            f"--num-machines: expected {machine.num_machines} machines, but not all of them connected to "
            f"{machine.endpoint} within {agent.task.timeout:g} s (--timeout)"
        ) from None
    except RendezvousClosedError:
        print_message("error: the run has ended on another machine; see the error there")
        return 1
    except (RendezvousConnectionError, DistError):
        if not agent.restarts.take():
            print_message(
                f"error: lost the connection to machine 0 at {machine.endpoint}; continue with --resume"
            )
            return 1
        print_message(f"lost the connection to machine 0 at {machine.endpoint}; waiting for it to come back")
        return None
    finally:
        _running_agent = None
        agent.rendezvous.shutdown()  # tell the other machines that this one has left


class RestartingAgent(LocalElasticAgent):
    """torch's agent, which decides on restarts by the exit statuses of all processes.

    torch sees no restart (its own limit is 0): `_monitor_workers` restarts the processes and reports them as
    healthy. torch restarts them only when machines join.

    Attributes:
        status: exit status of the run, once it has ended.
    """

    def __init__(
        self,
        entry: Callable[[WorkerTask], None],
        task: WorkerTask,
        machine: MachineConfig,
        restarts: RestartBudget,
    ) -> None:
        self.task = task
        self.machine = machine
        self.restarts = restarts
        self.restarts.counted = False
        self.status = 0
        self.rendezvous = _build_rendezvous(machine, task.timeout)
        self.processes: dict[int, BaseProcess] = {}  # by global rank
        spec = WorkerSpec(
            role="vmae_det",
            local_world_size=machine.num_processes,
            entrypoint=entry,
            args=(task,),
            rdzv_handler=self.rendezvous,
            max_restarts=0,
            local_addr=_local_address(machine),
        )
        super().__init__(spec, DefaultLogsSpecs(), start_method="spawn")

    def stop_processes(self, patience: float) -> None:
        """Send SIGTERM to the processes, and kill those that still run after `patience` seconds."""
        deadline = time.monotonic() + patience
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.join(max(deadline - time.monotonic(), 0))
        for process in self.processes.values():
            process.kill()
            process.join()

    # ------------------------------------------------------------ extension points of SimpleElasticAgent

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self.status, self.restarts.counted = 0, False
        pids = super()._start_workers(worker_group)  # by local rank
        self.task.restarted = True  # the next processes are
        children = {process.pid: process for process in multiprocessing.active_children()}
        self.processes = {
            worker_group.workers[local_rank].global_rank: children[pid]
            for local_rank, pid in pids.items()
            if pid in children
        }
        return pids

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        print_message("another machine has joined: all processes restart")
        super()._restart_workers(worker_group)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        failed = self._failed_processes()
        if HUNG in failed.values():
            self._collect_stacks()
        result = super()._monitor_workers(worker_group)  # ends all processes if one has failed
        if result.state != WorkerState.FAILED:
            return result
        failed = {rank: failure.exitcode for rank, failure in result.failures.items()} | failed
        if not self._report_and_decide(failed):
            return result
        super()._restart_workers(worker_group)
        return RunResult(state=WorkerState.HEALTHY)

    # ------------------------------------------------------------ failures

    def _failed_processes(self) -> dict[int, int]:
        """Exit statuses other than 0 by rank; negative for a signal."""
        sentinels = {process.sentinel: process for process in self.processes.values()}
        for sentinel in wait(list(sentinels), timeout=0):
            sentinels[sentinel].join()  # a process that is ending has no exit status yet
        return {rank: process.exitcode for rank, process in self.processes.items() if process.exitcode}

    def _collect_stacks(self) -> None:
        """Make all running processes, including stopped ones, write their stacks, then kill them."""
        running = [process for process in self.processes.values() if process.is_alive()]
        for process in running:
            if STACK_SIGNAL is not None:
                # Continue a stopped process first. Otherwise any of its threads may handle the signal, and
                # the stacks of the others are incomplete, because they run again.
                os.kill(process.pid, signal.SIGCONT)
                os.kill(process.pid, STACK_SIGNAL)
        time.sleep(min(_STACKS_SECONDS, self.task.timeout))
        for process in running:
            process.kill()

    def _report_and_decide(self, failed: dict[int, int]) -> bool:
        """Print the cause of a failure, and return whether to restart.

        Args:
            failed: exit statuses by rank.
        """
        rank, code = min(failed.items(), key=lambda item: (_cause_order(item[1]), item[0]))
        self.status = code if code in (*_NOT_RETRIED, HUNG) else 1
        if code in _NOT_RETRIED:
            error = self.task.error_file(rank)
            if error.exists():
                print_message(f"error: {error.read_text(encoding='utf-8')}")
            return False
        reason = f"process {rank} {self._describe(code)}"
        if not self.restarts.take():
            print_message(f"error: {reason}; continue with --resume")
            return False
        print_message(
            f"{reason}; all processes restart, restart {self.restarts.used} of {self.restarts.limit}"
        )
        return True

    def _describe(self, code: int) -> str:
        if code < 0:
            return f"was stopped by {signal.Signals(-code).name}"
        if code == HUNG:
            return (
                f"made no progress for {self.task.timeout:g} s (--timeout); "
                "the stacks of all processes are in OUTPUT_DIR/stacks"
            )
        if code == CONNECTION_LOST:
            return "lost its connection to another process"
        return f"exited with status {code}, see above"


def _cause_order(code: int) -> int:
    """Rank exit statuses: the lowest is the cause, because a lost process makes others fail, too."""
    order = [
        code < 0 and code != -signal.SIGABRT,
        code == HUNG,
        code == USER_ERROR_STATUS,
        code not in (CONNECTION_LOST, *INTERRUPTED, -signal.SIGABRT),
        code in INTERRUPTED,
        code != CONNECTION_LOST,
    ]
    return order.index(True) if True in order else len(order)


def _build_rendezvous(machine: MachineConfig, timeout: float) -> RendezvousHandler:
    parameters = RendezvousParameters(
        backend="c10d",
        endpoint=machine.endpoint,
        run_id="vmae_det",
        min_nodes=machine.num_machines,
        max_nodes=machine.num_machines,
        local_addr=_local_address(machine),
        is_host=machine.rank == 0,
        join_timeout=max(round(timeout), 1),
        read_timeout=max(round(timeout), 1),
    )
    try:
        return get_rendezvous_handler(parameters)
    except RendezvousConnectionError:
        if machine.rank == 0:
            problem = f"machine 0 cannot listen at {machine.endpoint}: is the port in use?"
        else:
            problem = f"machine 0 at {machine.endpoint} did not answer within {timeout:g} s (--timeout)"
        raise ConfigError(f"--dist-url: {problem}") from None


def _local_address(machine: MachineConfig) -> str:
    """Return the address at which the other machines reach this one."""
    if machine.num_machines == 1:
        return "localhost"
    host, _, port = machine.endpoint.rpartition(":")
    try:
        family, _, _, _, target = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)  # sends nothing: selects the network interface
            return probe.getsockname()[0]
    except OSError as error:
        raise ConfigError(f"--dist-url: cannot resolve {host}: {error.strerror or error}") from None


def stop_processes(patience: float) -> None:
    """Let the processes of this machine save and stop. A signal handler calls this while `run_agent` runs.

    Args:
        patience: seconds after which they are killed.
    """
    if _running_agent is not None:
        _running_agent.stop_processes(patience)


def print_message(text: str) -> None:
    """Print a line to stderr."""
    print(f"vmae-det: {text}", file=sys.stderr, flush=True)
