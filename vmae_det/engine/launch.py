"""One launcher: this process alone, many on this machine, or many on several machines.

It runs on torch's elastic agent; started by `torchrun` itself, it joins the group that torchrun made.
"""

from __future__ import annotations

import datetime
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed as dist

from vmae_det.engine.hooks import Interrupted
from vmae_det.utils.errors import USER_ERROR_STATUS, ConfigError, UserError

logger = logging.getLogger(__name__)

TIMEOUT = datetime.timedelta(minutes=30)


def launch(
    main: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    num_processes: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> int:
    """Run `main(*args)` in all processes and give the exit status: 0, 2 after a user's error, 128 + signal.

    Args:
        main: importable by name; every process calls it with a process group at hand.
        num_processes: on this machine, one per GPU, or as many as wanted on the CPU.
        dist_url: HOST:PORT of machine 0; "auto" finds a free port on a single machine.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        return _run_in_group(main, args)
    if num_machines == 1 and num_processes <= 1:
        return run_guarded(main, *args)
    if num_machines > 1 and dist_url == "auto":
        raise ConfigError("--dist-url: with several machines give HOST:PORT of the machine with rank 0")
    if not 0 <= machine_rank < num_machines:
        raise ConfigError(f"--machine-rank: must lie in 0..{num_machines - 1}, got {machine_rank}")
    return _run_agent(main, args, num_processes, num_machines, machine_rank, dist_url)


def _run_agent(
    main: Callable[..., Any], args: tuple[Any, ...], processes: int, machines: int, rank: int, url: str
) -> int:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Each process gets its share of the cores; numeric libraries read this when they start.
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the processes report their own errors
    config = LaunchConfig(
        min_nodes=machines,
        max_nodes=machines,
        nproc_per_node=processes,
        run_id="vmae_det",
        rdzv_backend="c10d" if machines == 1 else "static",
        rdzv_endpoint="localhost:0" if url == "auto" else url.removeprefix("tcp://"),
        rdzv_configs={} if machines == 1 else {"rank": rank},
        max_restarts=0,
    )
    try:
        elastic_launch(config, _worker)(main, args)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        stops = [
            code for code in codes if code in (USER_ERROR_STATUS, 128 + signal.SIGINT, 128 + signal.SIGTERM)
        ]
        return stops[0] if stops else 1
    except SignalException as error:
        return 128 + error.sigval
    return 0


def _worker(main: Callable[..., Any], args: tuple[Any, ...]) -> None:
    status = _run_in_group(main, args)
    if status:
        sys.stdout.flush()
        os._exit(status)  # a plain exit would have the agent print a traceback of its own


def _run_in_group(main: Callable[..., Any], args: tuple[Any, ...]) -> int:
    cuda = torch.cuda.is_available()
    if cuda:
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        if local_rank >= torch.cuda.device_count():
            return run_guarded(_too_few_gpus, local_rank)
        torch.cuda.set_device(local_rank)
    # Small things, such as "was any process asked to stop", travel between CPUs even where gradients use
    # NCCL.
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
    try:
        return run_guarded(main, *args)
    finally:
        dist.destroy_process_group()


def _too_few_gpus(local_rank: int) -> None:
    raise ConfigError(
        f"--num-gpus: process {local_rank + 1} finds only {torch.cuda.device_count()} GPUs on this machine"
    )


def run_guarded(main: Callable[..., Any], *args: Any) -> int:
    """Call `main(*args)`; a user's error or an interrupt becomes one line on stderr and an exit status."""
    try:
        main(*args)
    except UserError as error:
        print_error(error)
        return USER_ERROR_STATUS
    except Interrupted as interrupt:
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"vmae-det: {interrupt}", file=sys.stderr, flush=True)
        return 128 + interrupt.signal_number
    return 0


def print_error(error: UserError) -> None:
    """One line on stderr, from the first process that is able to say it."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"vmae-det: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
