"""Writers of metrics on full disks and in resumed runs."""

import logging
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vmae_det.utils.errors import ConfigError
from vmae_det.utils.logging import setup_logging
from vmae_det.utils.tensorboard import TensorBoardWriter
from vmae_det.utils.weights_and_biases import WandbWriter


def fill(folder):
    """Fill a disk."""
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 12))


def scalars(folder, name):
    found = EventAccumulator(str(folder))
    found.Reload()
    return {event.step: event.value for event in found.Scalars(name)}


def test_tensorboard_drops_repeated_steps(tmp_path):
    first = TensorBoardWriter(tmp_path)
    for step in range(1, 6):
        first.write(step, {"loss": float(step)})
    first.close()
    assert scalars(tmp_path, "loss") == {1: 1, 2: 2, 3: 3, 4: 4, 5: 5}
    second = TensorBoardWriter(tmp_path, start=3)
    second.write(4, {"loss": 40.0, "lr": 0.5})
    assert scalars(tmp_path, "loss") == {1: 1, 2: 2, 3: 3, 4: 40}
    assert scalars(tmp_path, "lr") == {4: 0.5}
    second.close()


def test_a_full_disk_ends_tensorboards_curves_with_one_warning(small_disk, tmp_path, capfd):
    setup_logging(tmp_path)
    writer = TensorBoardWriter(small_disk / "tensorboard")
    writer.write(1, {"loss": 1.0})
    fill(small_disk)
    for step in range(2, 200):
        writer.write(step, {f"loss{i}": 1.0 for i in range(50)})
    writer.close()
    written = "".join(capfd.readouterr())
    assert "the TensorBoard file cannot be written; its curves end before step" in written
    assert written.count("No space left on device") == 1
    assert "Traceback" not in written
    assert scalars(small_disk / "tensorboard", "loss") == {1: 1.0}


def test_a_full_disk_stops_only_the_log_file(small_disk, capfd):
    setup_logging(small_disk)
    logger = logging.getLogger("vmae_det.some.part")
    logger.info("there is space")
    fill(small_disk)
    for number in range(200):
        logger.info("line %d %s", number, "x" * 100)
    (small_disk / "filler").unlink()
    logger.info("there is space again")
    setup_logging()
    written = "".join(capfd.readouterr())
    assert written.count(f"{small_disk}/log.txt cannot be written: No space left on device") == 1
    assert "the run continues" in written
    assert "line 199" in written
    assert "Traceback" not in written
    log = (small_disk / "log.txt").read_text()
    assert "there is space\n" in log
    assert log.endswith("there is space again\n")


class StubWandb(SimpleNamespace):
    """The parts of wandb that are used."""

    Error = RuntimeError

    def __init__(self):
        super().__init__(calls=[], logged=[], finished=0)

    def init(self, **arguments):
        self.calls.append(arguments)
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    stub = StubWandb()
    monkeypatch.setitem(sys.modules, "wandb", stub)
    return stub


def test_resumed_run_continues_its_wandb_run(wandb, tmp_path):
    for resumed in (False, True, False):
        writer = WandbWriter(tmp_path, "videos", {"SEED": 1}, resumed)
        writer.write(3, {"loss": 1.0})
        writer.close()
    first, second, third = wandb.calls
    assert first == {"project": "videos", "id": first["id"], "resume": "allow"} | {
        "dir": str(tmp_path),
        "config": {"SEED": 1},
    }
    assert second["id"] == first["id"] != third["id"]
    assert wandb.logged == [(3, {"loss": 1.0})] * 3
    assert wandb.finished == 3


def test_wandb_that_is_not_installed_or_does_not_start(monkeypatch, wandb, tmp_path):
    def refuse(**_):
        raise StubWandb.Error("no login")

    wandb.init = refuse
    with pytest.raises(ConfigError, match=r"WANDB\.PROJECT: 'videos': wandb cannot start a run: no login"):
        WandbWriter(tmp_path, "videos", {}, False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"WANDB\.PROJECT: .*pip install 'vmae_det\[wandb\]'"):
        WandbWriter(tmp_path, "videos", {}, False)
