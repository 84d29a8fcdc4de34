"""The agent uses only torch's documented extension points. These tests fail if torch changes them."""

import ast
import inspect
import os
import signal
import time

import pytest
from torch.distributed.elastic.agent.server import SimpleElasticAgent
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

from vmae_det.engine import elastic_agent
from vmae_det.engine.elastic_agent import MachineConfig, RestartBudget, WorkerTask, run_agent
from vmae_det.utils.errors import USER_ERROR_STATUS

pytestmark = pytest.mark.usefixtures("preloaded_processes")

EXTENSION_POINTS = {"_start_workers", "_restart_workers", "_monitor_workers"}


def test_no_other_private_attribute_of_torch_is_used():
    tree = ast.parse(inspect.getsource(elastic_agent))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    private = {name for name in used if name.startswith("_") and not name.startswith("__")}
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)} - set(
        dir(LocalElasticAgent)
    )
    assert private - own == EXTENSION_POINTS


@pytest.mark.parametrize("name", sorted(EXTENSION_POINTS))
def test_extension_points_exist(name):
    assert list(inspect.signature(getattr(SimpleElasticAgent, name)).parameters) == ["self", "worker_group"]


def end_in_different_ways(task):
    """Both processes record their start and wait for each other; then rank 1 is killed."""
    rank, (folder,) = int(os.environ["RANK"]), task.args
    starts = [folder / "starts_0", folder / "starts_1"]
    with starts[rank].open("a") as file:
        file.write("x")
    while not all(path.exists() and path.stat().st_size == starts[rank].stat().st_size for path in starts):
        time.sleep(0.01)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    os._exit(elastic_agent.CONNECTION_LOST)


def run(entry, folder, max_restarts):
    task = WorkerTask(end_in_different_ways, (folder,), None, timeout=60.0)
    return run_agent(entry, task, MachineConfig(2, 1, 0, "localhost:0"), max_restarts)


def test_the_cause_among_all_processes_is_named_and_restarts_are_counted(tmp_path, capfd):
    assert run(end_in_different_ways, tmp_path, max_restarts=1) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("vmae-det: ")]
    assert lines == [
        "vmae-det: process 1 was stopped by SIGKILL; all processes restart, restart 1 of 1",
        "vmae-det: error: process 1 was stopped by SIGKILL; continue with --resume",
    ]
    assert [len((tmp_path / f"starts_{rank}").read_text()) for rank in (0, 1)] == [2, 2]


def fail_by_user_error(task):
    task.error_file(int(os.environ["RANK"])).write_text("a config key is wrong")
    os._exit(USER_ERROR_STATUS)


def test_a_user_error_is_printed_and_not_retried(tmp_path, capfd):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert run(fail_by_user_error, tmp_path, max_restarts=3) == USER_ERROR_STATUS
    assert capfd.readouterr().err.count("vmae-det: error: a config key is wrong\n") == 1
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def ignore_the_first_process(task):
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
    if os.environ["RANK"] == "0":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (task.args[0] / os.environ["RANK"]).touch()
    time.sleep(60)


def test_processes_are_killed_if_they_do_not_stop(tmp_path, monkeypatch):
    codes = {}
    monitor = elastic_agent.RestartingAgent._monitor_workers

    def stop_once_started(agent, group):
        if {path.name for path in tmp_path.iterdir()} == {"0", "1"} and not codes:
            started = time.monotonic()
            elastic_agent.stop_processes(patience=1.0)
            assert 1.0 <= time.monotonic() - started < 20
            codes.update({rank: process.exitcode for rank, process in agent.processes.items()})
        return monitor(agent, group)

    monkeypatch.setattr(elastic_agent.RestartingAgent, "_monitor_workers", stop_once_started)
    assert run(ignore_the_first_process, tmp_path, max_restarts=0) == 1
    assert codes == {0: -signal.SIGKILL, 1: 7}


def test_a_failure_that_is_reported_twice_is_counted_once():
    budget = RestartBudget(limit=1)
    assert budget.take()
    assert budget.take()  # the lost connection after the lost process
    budget.counted = False  # the processes have started
    assert not budget.take()


def test_lost_connections_to_machine_0_are_retried_max_restarts_times(tmp_path, monkeypatch, capfd):
    starts = []

    def lose_connection(agent):
        starts.append(agent)
        assert len(starts) < 10, "retried without a limit"
        raise elastic_agent.RendezvousConnectionError

    monkeypatch.setattr(elastic_agent.RestartingAgent, "run", lose_connection)
    assert run(end_in_different_ways, tmp_path, max_restarts=2) == 1
    assert len(starts) == 3
    assert "error: lost the connection to machine 0" in capfd.readouterr().err
