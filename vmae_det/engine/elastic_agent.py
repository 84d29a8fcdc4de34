"""torch's elastic agent, one per machine: starts the processes, and starts them again when one is lost.

What it adds: ends that no restart can mend are not retried, and each end is one line that names the process.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
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

from vmae_det.utils.errors import USER_ERROR_STATUS, ConfigError
from vmae_det.utils.extensions import imported_extensions
from vmae_det.utils.watchdog import HUNG, STACK_SIGNAL

LOST = 75  # exit status of a process that lost its connection to another
INTERRUPTS = (128 + signal.SIGINT, 128 + signal.SIGTERM)
_FINAL = (USER_ERROR_STATUS, *INTERRUPTS)  # another try would end the same, or is not wanted
_GRACE = 5.0  # seconds for hung processes to write their stacks

_running: _Agent | None = None


@dataclass
class Job:
    """What every process runs.

    Args:
        main: importable by name.
        args: its arguments.
        restart_args: its arguments when an earlier group of processes was lost; None: the same.
        timeout: seconds without progress after which a process counts as hung.
        several_machines: whether the processes live on more than one.
        notes: a folder for `note_of`; made by `run_agent`.
        restarted: whether this machine has seen an earlier group.
        extensions: modules that each process imports first.
    """

    main: Callable[..., Any]
    args: tuple[Any, ...]
    restart_args: tuple[Any, ...] | None
    timeout: float
    several_machines: bool = False
    notes: Path = field(default_factory=Path)
    restarted: bool = False
    extensions: tuple[str, ...] = field(default_factory=imported_extensions)

    def note_of(self, rank: int) -> Path:
        """Where a process leaves the line that says why it ends, for the agent to print it."""
        return self.notes / f"{rank}.txt"


@dataclass(frozen=True)
class Place:
    """This machine among the others.

    Args:
        processes: on this machine.
        machines: how many take part.
        rank: this one's number, from 0; machine 0 keeps the list of those that are there.
        address: HOST:PORT of machine 0.
    """

    processes: int
    machines: int
    rank: int
    address: str


def run_agent(entry: Callable[[Job], None], job: Job, place: Place, max_restarts: int) -> int:
    """Run `entry(job)` in all processes of this machine until they end for good; gives the exit status.

    Raises:
        ConfigError: machine 0 cannot be reached, or not all machines came.
    """
    # Each process gets its share of the cores; numeric libraries read this when they start.
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // place.processes, 1)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost connection is told below, in one line
    # A store that the agents share with the processes is announced in the first round only: a machine that
    # joins later would wait for its address for ever.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    for name in ("torch.distributed.elastic", "torch.distributed.run", "torch.multiprocessing.spawn"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # this module and the processes say what happens
    with TemporaryDirectory(prefix="vmae_det_") as notes:
        job.notes = Path(notes)
        agent = _Agent(entry, job, place, max_restarts)
        while (status := _run_to_end(agent, place)) is None:
            # Machine 0, when it comes back, knows of nobody: this one joins as a new one.
            agent = _Agent(entry, job, place, agent.restarts_left)
    return status


def _run_to_end(agent: _Agent, place: Place) -> int | None:
    """The exit status; None where machine 0 is gone and may be waited for."""
    global _running
    _running = agent
    try:
        agent.run()
        return agent.status
    except SignalException as stop:
        return 128 + stop.sigval
    except RendezvousTimeoutError:
        raise ConfigError(
            f"--num-machines: {place.machines} machines did not come together at {place.address} "
            f"within {agent.job.timeout:g} s (--timeout)"
        ) from None
    except RendezvousClosedError:
        say("error: the run has ended on another machine, where its reason stands")
        return 1
    except (RendezvousConnectionError, DistError):
        if not agent.may_restart():
            say(f"error: lost the connection to machine 0 at {place.address}; go on with --resume")
            return 1
        say(f"machine 0 at {place.address} is gone; waiting for it to come back")
        return None
    finally:
        _running = None
        agent.leave()


class _Agent(LocalElasticAgent):
    """See above.

    Attributes:
        status: exit status of the run, once it has ended.
    """

    def __init__(self, entry: Callable[[Job], None], job: Job, place: Place, max_restarts: int) -> None:
        self.job = job
        self.max_restarts = max_restarts
        self.status = 0
        self._counted = False  # whether the restart to come was taken off those left
        spec = WorkerSpec(
            role="vmae_det",
            local_world_size=place.processes,
            entrypoint=entry,
            args=(job,),
            rdzv_handler=_rendezvous(place, job.timeout),
            max_restarts=max_restarts,
            local_addr=_own_address(place),
        )
        super().__init__(spec, DefaultLogsSpecs(), start_method="spawn")

    @property
    def restarts_left(self) -> int:
        """How many more there may be."""
        return self._remaining_restarts

    def may_restart(self) -> bool:
        """Count a restart unless that is done already; False where none is left."""
        if not self._counted and self._remaining_restarts <= 0:
            return False
        self._remaining_restarts -= not self._counted
        self._counted = True
        return True

    def leave(self) -> None:
        """Tell the others that this machine takes part no longer."""
        self._worker_group.spec.rdzv_handler.shutdown()

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._counted, self.status = False, 0
        started = super()._start_workers(worker_group)
        self.job.restarted = True  # the next ones are
        return started

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        if worker_group.state == WorkerState.HEALTHY:
            say("another machine has come: all processes start again")
        else:
            self._counted = True
        super()._restart_workers(worker_group)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        ended = self._bad_ends(worker_group)
        if HUNG in ended.values():
            self._collect_stacks()
        result = super()._monitor_workers(worker_group)
        if result.state == WorkerState.FAILED:
            self._judge(ended or {rank: failure.exitcode for rank, failure in result.failures.items()})
        return result

    def _bad_ends(self, worker_group: WorkerGroup) -> dict[int, int]:
        """Exit statuses other than 0 by rank; negative: the signal. torch itself tells of one only."""
        if self._pcontext is None or self._pcontext._pc is None:
            return {}
        codes = [process.exitcode for process in self._pcontext._pc.processes]
        return {worker.global_rank: code for worker, code in zip(worker_group.workers, codes) if code}

    def _collect_stacks(self) -> None:
        """Have all processes that still live write their stacks, stopped ones too; then end them."""
        living = [process for process in self._pcontext._pc.processes if process.is_alive()]
        for process in living:
            os.kill(process.pid, STACK_SIGNAL)
            os.kill(process.pid, signal.SIGCONT)
        time.sleep(min(_GRACE, self.job.timeout))
        for process in living:
            process.kill()

    def _judge(self, ended: dict[int, int]) -> None:
        """Print why the processes ended; allow no restart where it would not help."""
        rank, code = min(ended.items(), key=lambda item: (_weight(item[1]), item[0]))
        self.status = code if code in (*_FINAL, HUNG) else 1
        if code in _FINAL:
            self._remaining_restarts = 0
            note = self.job.note_of(rank)
            if note.exists():
                say(f"error: {note.read_text(encoding='utf-8')}")
            return
        reason = f"process {rank} {self._reason(code)}"
        if self._remaining_restarts > 0:
            number = self.max_restarts - self._remaining_restarts + 1
            say(f"{reason}; all processes start again, restart {number} of {self.max_restarts}")
        else:
            say(f"error: {reason}; go on with --resume")

    def _reason(self, code: int) -> str:
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        if code == HUNG:
            return (
                f"made no progress for {self.job.timeout:g} s (--timeout); "
                "where each process stood is in OUTPUT_DIR/stacks"
            )
        if code == LOST:
            return "lost its connection to another process"
        return f"ended with status {code}, see above"


def _weight(code: int) -> int:
    """The cause of several ends is the one with the least: a lost process takes others with it."""
    order = [code < 0 and code != -signal.SIGABRT, code == HUNG, code == USER_ERROR_STATUS]
    order += [code not in (LOST, *INTERRUPTS, -signal.SIGABRT), code in INTERRUPTS, code != LOST]
    return order.index(True) if True in order else len(order)


def _rendezvous(place: Place, timeout: float) -> RendezvousHandler:
    parameters = RendezvousParameters(
        backend="c10d",
        endpoint=place.address,
        run_id="vmae_det",
        min_nodes=place.machines,
        max_nodes=place.machines,
        local_addr=_own_address(place),
        is_host=place.rank == 0,
        join_timeout=max(round(timeout), 1),
        read_timeout=max(round(timeout), 1),
    )
    try:
        return get_rendezvous_handler(parameters)
    except RendezvousConnectionError:
        if place.rank == 0:
            problem = f"machine 0 cannot listen at {place.address}: is the port in use?"
        else:
            problem = f"machine 0 at {place.address} did not answer within {timeout:g} s (--timeout)"
        raise ConfigError(f"--dist-url: {problem}") from None


def _own_address(place: Place) -> str:
    """The address under which the other machines reach this one."""
    if place.machines == 1:
        return "localhost"
    host, _, port = place.address.rpartition(":")
    try:
        kind, _, _, _, target = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect(target)  # sends nothing: finds the way
            return probe.getsockname()[0]
    except OSError as error:
        raise ConfigError(f"--dist-url: {host} cannot be found: {error.strerror or error}") from None


def stop_processes(patience: float) -> None:
    """Have this machine's processes save and end; called by a signal handler while `run_agent` runs.

    Args:
        patience: seconds after which they are killed.
    """
    if _running is not None and _running._pcontext is not None:
        _running._pcontext.close(signal.SIGTERM, round(patience))


def say(text: str) -> None:
    """A line on stderr."""
    print(f"vmae-det: {text}", file=sys.stderr, flush=True)
