"""A disk that is full when a run writes: one clear line, and earlier files are kept."""

import json
import time
from contextlib import suppress
from pathlib import Path

import pytest

from vmae_det.engine import train
from vmae_det.engine.hooks import TrainingError
from vmae_det.engine.launch import launch
from vmae_det.engine.train import run_training
from vmae_det.engine.trainer import HookBase
from vmae_det.utils import distributed
from vmae_det.utils.errors import ConfigError, OutputError, UserError, WeightsError

pytestmark = pytest.mark.usefixtures("preloaded_processes")


def fill(folder):
    """Fill a disk."""
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 12))


class Fill(HookBase):
    """Fill the disk before a step, when earlier checkpoints are written, or after the last step."""

    def __init__(self, folder, step=None):
        self.folder = folder
        self.step = step

    def before_step(self):
        if self.trainer.step + 1 == self.step and distributed.is_main_process():
            deadline = time.monotonic() + 20
            while self.step > 1 and not list(self.folder.glob("run/checkpoint_*.pt")):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            fill(self.folder)

    def after_train(self):
        if self.step is None and distributed.is_main_process():
            fill(self.folder)


@pytest.fixture
def disk_cfg(tiny_cfg, small_disk):
    """disk_cfg(TASK, KEY, VALUE, ...): a run on a small disk; pre-training has one step per epoch."""
    options = ("OUTPUT_DIR", str(small_disk / "run"), "DATALOADER.CLIPS_PER_VIDEO", 2)
    return lambda task, *more: tiny_cfg(task, *options, *more)


def checkpoints(cfg):
    return sorted(path.name for path in Path(cfg.OUTPUT_DIR).glob("checkpoint_*.pt"))


def make_room(small_disk):
    (small_disk / "filler").unlink()


def test_metrics_that_cannot_be_written_stop_the_run(disk_cfg, small_disk, capfd):
    cfg = disk_cfg("pretrain", "SOLVER.EPOCHS", 400, "SOLVER.CHECKPOINT_PERIOD", 2)
    cfg.SOLVER.LOG_PERIOD = 3
    with pytest.raises(UserError, match=r"cannot be written: No space left on device"):
        run_training(cfg, hooks=[Fill(small_disk, step=3)])
    assert checkpoints(cfg) == ["checkpoint_0000002.pt"]
    written = "".join(capfd.readouterr())
    assert "Traceback" not in written
    assert "the last metrics cannot be written" not in written  # the error reports it once
    make_room(small_disk)
    cfg.SOLVER.EPOCHS = 6
    run_training(cfg, resume=True)
    steps = [
        json.loads(line)["step"] for line in (small_disk / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [3, 6]


@pytest.mark.parametrize("processes", [1, 2])
def test_final_weights_that_cannot_be_written_stop_the_run(disk_cfg, small_disk, processes, capfd):
    cfg = disk_cfg("pretrain", "SOLVER.EPOCHS", 2)
    assert launch(run_training, (cfg, False, [Fill(small_disk)]), num_processes=processes) == 2
    written = "".join(capfd.readouterr())
    (line,) = [line for line in written.splitlines() if line.startswith("vmae-det: error: ")]
    assert "model_final.pt: the weights cannot be written: No space left on device" in line
    assert "Traceback" not in written
    assert checkpoints(cfg)[-1] == "checkpoint_0000002.pt"
    assert not list((small_disk / "run").glob("model_*"))
    make_room(small_disk)
    assert launch(run_training, (cfg, True), num_processes=processes) == 0
    assert (small_disk / "run" / "model_final.pt").stat().st_size


def test_results_that_cannot_be_written_stop_the_run(disk_cfg, small_disk, monkeypatch):
    cfg = disk_cfg("finetune", "SOLVER.EPOCHS", 1)
    save = train.save_weights

    def save_and_fill(*arguments, **keywords):
        save(*arguments, **keywords)
        fill(small_disk)

    monkeypatch.setattr(train, "save_weights", save_and_fill)
    with pytest.raises(OutputError, match=r"json: cannot be written: No space left on device"):
        run_training(cfg)
    assert (small_disk / "run" / "model_final.pt").exists()
    assert checkpoints(cfg)


def test_best_weights_that_cannot_be_written_stop_the_run(disk_cfg, small_disk):
    cfg = disk_cfg("finetune", "SOLVER.EPOCHS", 3, "TEST.PERIOD", 1, "SOLVER.CHECKPOINT_PERIOD", 1)
    cfg.SOLVER.LOG_PERIOD = 100
    with pytest.raises((WeightsError, OutputError), match=r"cannot be written: No space left on device"):
        run_training(cfg, hooks=[Fill(small_disk, step=4)])
    assert checkpoints(cfg)


def test_a_run_does_not_start_on_a_full_disk(disk_cfg, small_disk):
    cfg = disk_cfg("pretrain")
    fill(small_disk)
    with pytest.raises(ConfigError, match=r"OUTPUT_DIR: .* cannot be written to: No space left on device"):
        run_training(cfg)


def test_bad_batches_that_cannot_be_written_are_logged(disk_cfg, small_disk, capfd):
    cfg = disk_cfg("pretrain", "SOLVER.EPOCHS", 3, "SOLVER.MAX_LOSS", 1e-9)
    with pytest.raises(TrainingError, match="at step 1"):
        run_training(cfg, hooks=[Fill(small_disk, step=1)])
    assert (
        "bad_batches.jsonl cannot be written: No space left on device; the entry was: {"
        in capfd.readouterr().out
    )
