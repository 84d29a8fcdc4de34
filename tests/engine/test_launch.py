"""Processes and machines that are lost, hang or restart, and the messages for the user."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from preloaded import PreloadedCommand

from vmae_det.engine.launch import launch
from vmae_det.utils import distributed
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.watchdog import HUNG, write_stacks_to

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")


class Run:
    """`vmae-det train` in its own process session: one agent with its processes."""

    def __init__(self, cfg, folder, *options):
        config = folder / "config.yaml"
        config.write_text(cfg.dump())
        self.output = Path(cfg.OUTPUT_DIR)
        command = [sys.executable, "-m", "vmae_det.cli.main", "train", "--config-file", str(config)]
        self.log = folder / f"agent_{time.monotonic_ns()}.txt"
        with self.log.open("w") as log:
            self.process = PreloadedCommand(
                [*command, *map(str, options)],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
            )

    def workers(self):
        """Process ids by rank."""
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in session_of(self.process.pid)}
        return sorted(pid for pid, command in commands.items() if b"spawn_main" in command)

    def wait_for_step(self, step):
        wait(lambda: self.process.poll() is not None or steps(self.output) >= step, "steps")
        assert self.process.poll() is None, self.text()

    def starts(self):
        """How often two processes started to train."""
        log = self.output / "log.txt"
        return log.read_text().count("2 process(es)") if log.exists() else 0

    def wait_for_start(self, number):
        wait(lambda: self.starts() >= number, f"start {number}")

    def kill(self):
        """Send SIGKILL to the agent and its processes."""
        for pid in session_of(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def end(self, timeout=300):
        """Wait for the end; return the exit status and the output."""
        try:
            return self.process.wait(timeout), self.text()
        except subprocess.TimeoutExpired:
            pytest.fail(f"the run did not end: {self.text()}")

    def text(self):
        return "".join(line for line in self.log.open() if "] step " not in line)


def session_of(leader):
    """Return the running processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z" and entry.name.isdigit():
                found.append(int(entry.name))
    return sorted(found)


def steps(output):
    metrics = output / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


def wait(condition, what, timeout=300):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path):
    """start(cfg, OPTION, ...): a Run, which is killed at the end of the test."""
    runs = []

    def begin(cfg, *options):
        runs.append(Run(cfg, tmp_path, *options))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill()


@pytest.fixture
def run_cfg(tiny_cfg):
    """run_cfg(EPOCHS): pre-training with two steps per epoch and a checkpoint after each epoch."""
    return lambda epochs: tiny_cfg(
        *("pretrain", "DATALOADER.CLIPS_PER_VIDEO", 4, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.EPOCHS", epochs)
    )


@pytest.fixture
def address():
    """A free HOST:PORT."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_killed_agents_can_be_restarted(run_cfg, start, address):
    """Two agents act as two machines. Machine 0 keeps the list of machines."""
    cfg = run_cfg(60)
    options = ["--num-machines", 2, "--dist-url", address, "--max-restarts", 2, "--timeout", 200]
    agents = [start(cfg, *options, "--machine-rank", rank) for rank in (0, 1)]
    for starts, killed in ((1, 1), (2, 0)):
        agents[0].wait_for_start(starts)
        agents[0].wait_for_step(10 * starts)
        agents[killed].kill()
        agents[killed] = start(cfg, *options, "--machine-rank", killed)
    for agent in agents:
        status, text = agent.end()
        assert status == 0, text
    lines = [json.loads(line) for line in (agents[0].output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, lines[-1]["step"] + 1))
    assert lines[-1]["step"] == 120
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert agents[0].starts() == 3
    assert (agents[0].output / "log.txt").read_text().count("resumed from") == 2


def test_a_lost_process_stops_the_run_with_one_line(run_cfg, start):
    run = start(run_cfg(4000), "--num-gpus", 2)
    run.wait_for_step(5)
    killed = time.monotonic()
    os.kill(run.workers()[1], signal.SIGKILL)
    status, text = run.end()
    assert time.monotonic() - killed < 30
    assert status == 1
    assert text.count("vmae-det: error:") == 1
    assert "vmae-det: error: process 1 was stopped by SIGKILL; continue with --resume" in text
    assert "Traceback" not in text
    wait(lambda: not session_of(run.process.pid), "the end of all processes")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_lost_process_is_restarted_if_restarts_are_allowed(run_cfg, start, processes):
    run = start(run_cfg(30), "--num-gpus", processes, "--max-restarts", 1)
    run.wait_for_step(10)
    os.kill(run.workers()[-1], signal.SIGKILL)
    status, text = run.end()
    assert status == 0, text
    lost = f"vmae-det: process {processes - 1} was stopped by SIGKILL; all processes restart, restart 1 of 1"
    assert lost in text
    assert steps(run.output) == 60
    assert "resumed from" in (run.output / "log.txt").read_text()


def wait_for_a_stopped_process(folder):
    write_stacks_to(folder)
    distributed.barrier()
    if distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    distributed.barrier()


@pytest.mark.usefixtures("preloaded_processes")
def test_a_hung_collective_stops_the_run_and_writes_the_stacks_of_all_processes(tmp_path, capfd):
    assert launch(wait_for_a_stopped_process, (tmp_path,), num_processes=2, timeout=10) == HUNG
    errors = capfd.readouterr().err
    assert errors.count("vmae-det: ") == 1
    assert (
        "vmae-det: error: process 0 made no progress for 10 s (--timeout); "
        "the stacks of all processes are in OUTPUT_DIR/stacks" in errors
    )
    for rank in (0, 1):
        assert "in wait_for_a_stopped_process" in (tmp_path / "stacks" / f"rank_{rank}.txt").read_text()


def test_a_single_process_that_hangs_exits(tmp_path):
    program = (
        "import time; from vmae_det.engine.launch import launch; launch(time.sleep, (60,), timeout=0.5)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == HUNG
    assert "vmae-det: error: process 0 made no progress for 0.5 s; its stacks are above" in done.stderr
    assert "run_guarded" in done.stderr


def refuse_in_second_process():
    if distributed.get_rank() == 1:
        raise ConfigError("DATASETS.ROOT: is not on this machine")
    distributed.barrier()


@pytest.mark.usefixtures("preloaded_processes")
def test_user_error_of_any_process_is_printed_and_not_retried(capfd):
    assert launch(refuse_in_second_process, (), num_processes=2, max_restarts=3) == 2
    errors = capfd.readouterr().err
    assert errors.count("vmae-det: ") == 1
    assert "vmae-det: error: DATASETS.ROOT: is not on this machine" in errors


def fail():
    raise ZeroDivisionError("a bug")


@pytest.mark.usefixtures("preloaded_processes")
def test_a_bug_keeps_its_traceback(capfd):
    assert launch(fail, (), num_processes=2, max_restarts=1) == 1
    errors = capfd.readouterr().err
    assert "ZeroDivisionError: a bug" in errors
    assert "exited with status 1, see above; all processes restart, restart 1 of 1" in errors
    assert errors.count("vmae-det: error: process") == 1


def test_machines_that_do_not_connect(address):
    options = {"num_machines": 2, "dist_url": address, "timeout": 2}
    with pytest.raises(ConfigError, match=r"expected 2 machines, but not all of .* to 127.* within 2 s"):
        launch(fail, (), **options)
    with pytest.raises(ConfigError, match=r"machine 0 at 127\S+ did not answer within 2 s"):
        launch(fail, (), machine_rank=1, **options)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(address.rpartition(":")[2])))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen at"):
            launch(fail, (), **options)
