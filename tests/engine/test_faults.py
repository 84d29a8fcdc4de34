"""Real faults around a run: bad losses, damaged checkpoints, full and read-only disks, kills."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from preloaded import PreloadedCommand

from vmae_det.cli.main import main
from vmae_det.engine.hooks import TrainingError
from vmae_det.engine.launch import launch
from vmae_det.engine.train import run_training
from vmae_det.engine.trainer import HookBase
from vmae_det.utils import distributed
from vmae_det.utils.errors import ConfigError, UserError

pytestmark = pytest.mark.usefixtures("preloaded_processes")


@pytest.fixture
def run_cfg(tiny_cfg):
    """run_cfg(KEY, VALUE, ...): pre-training with one step per epoch and a checkpoint after each."""
    steps = "DATALOADER.CLIPS_PER_VIDEO", 2, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.KEEP_CHECKPOINTS", 9
    return lambda *options: tiny_cfg("pretrain", *steps, *options)


def checkpoints(folder):
    return sorted(path.name for path in Path(folder).glob("checkpoint_*.pt"))


def bad_batches(folder):
    return [json.loads(line) for line in (Path(folder) / "bad_batches.jsonl").read_text().splitlines()]


class ScaleLoss(HookBase):
    """Multiply the loss of one process by `factor` at some steps."""

    def __init__(self, steps, factor, rank=0):
        self.steps = steps
        self.factor = factor
        self.rank = rank

    def before_step(self):
        model = self.trainer.model
        wrapped = getattr(model, "module", model)
        wrapped.__dict__.pop("forward", None)
        if self.trainer.step + 1 in self.steps and distributed.get_rank() == self.rank:
            forward = wrapped.forward
            wrapped.forward = lambda batch: {
                name: loss * self.factor for name, loss in forward(batch).items()
            }


def test_a_bad_loss_stops_the_run_and_earlier_checkpoints_are_kept(run_cfg):
    cfg = run_cfg("SOLVER.EPOCHS", 6)
    with pytest.raises(
        TrainingError, match=r"loss is nan at step 3; .*bad_batches\.jsonl; .*ON_BAD_LOSS skip"
    ):
        run_training(cfg, hooks=[ScaleLoss({3}, float("nan"))])
    assert checkpoints(cfg.OUTPUT_DIR) == ["checkpoint_0000001.pt", "checkpoint_0000002.pt"]
    (line,) = bad_batches(cfg.OUTPUT_DIR)
    assert (line["step"], line["losses"]) == (3, ["nan"])
    assert line["samples"]
    assert all(Path(name).is_file() for name in line["samples"])
    run_training(cfg, resume=True)
    assert checkpoints(cfg.OUTPUT_DIR)[-1] == "checkpoint_0000006.pt"


def test_a_loss_that_explodes_stops_the_run(run_cfg):
    cfg = run_cfg("SOLVER.MAX_LOSS", 50.0, "SOLVER.EPOCHS", 3)
    with pytest.raises(TrainingError, match=r"loss is \d+(\.\d+)?(e\+\d+)? at step 2"):
        run_training(cfg, hooks=[ScaleLoss({2}, 1000.0)])


@pytest.mark.parametrize("factor", [float("nan"), 1e6])
def test_a_bad_step_can_be_skipped(run_cfg, factor):
    """A skipped step does not change the weights: the next step starts from the same weights."""
    cfg = run_cfg("SOLVER.ON_BAD_LOSS", "skip", "SOLVER.EPOCHS", 4)
    run_training(cfg, hooks=[ScaleLoss({3}, factor)])
    states = [
        torch.load(Path(cfg.OUTPUT_DIR) / f"checkpoint_000000{step}.pt", weights_only=True)
        for step in (2, 3, 4)
    ]
    two, three, four = (state["model"] for state in states)
    assert all(torch.equal(two[name], three[name]) for name in two)
    assert any(not torch.equal(three[name], four[name]) for name in two)
    assert states[2]["loss_guard"] == {"skipped": 1, "in_row": 0}
    lines = (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[2])["skipped_steps"] == 1
    assert "loss" not in json.loads(lines[2])
    assert bad_batches(cfg.OUTPUT_DIR)[0]["step"] == 3


def test_too_many_skipped_steps_in_a_row_stop_the_run(run_cfg):
    cfg = run_cfg("SOLVER.ON_BAD_LOSS", "skip", "SOLVER.MAX_SKIPPED", 2)
    cfg.SOLVER.EPOCHS = 8
    with pytest.raises(
        TrainingError, match=r"at step 6; this is bad step 3 in a row, .*MAX_SKIPPED allows 2"
    ):
        run_training(cfg, hooks=[ScaleLoss({2, 4, 5, 6}, float("inf"))])


def bad_loss_in_second_process(cfg):
    run_training(cfg, hooks=[ScaleLoss({2}, float("nan"), rank=1)])


def test_a_bad_loss_in_one_process_stops_all(run_cfg, capfd):
    cfg = run_cfg("SOLVER.EPOCHS", 50)
    assert launch(bad_loss_in_second_process, (cfg,), num_processes=2) == 2
    errors = capfd.readouterr().err
    assert errors.count("vmae-det: error: loss is nan at step 2") == 1
    assert "Traceback" not in errors


def test_a_damaged_checkpoint_is_skipped_and_the_reason_is_logged(run_cfg):
    cfg = run_cfg("SOLVER.EPOCHS", 2)
    run_training(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    first, second = sorted(folder.glob("checkpoint_*.pt"))
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 1  # one bit, in the middle of a tensor
    second.write_bytes(content)
    (folder / ".checkpoint_0000003.77.tmp.pt").write_bytes(b"half")
    run_training(cfg, resume=True)
    log = (folder / "log.txt").read_text()
    assert f"skipped a checkpoint: {second}: damaged: its SHA-256 begins with" in log
    assert f"{first.name} is the newest intact checkpoint of 2 in the folder, its checksum is correct" in log
    assert f"resumed from {first}, after step 1 of 2" in log
    assert not list(folder.glob(".checkpoint*"))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_stops_the_run_with_one_line(run_cfg, tmp_path, small_disk, processes, capfd):
    def command(*options):
        (tmp_path / "config.yaml").write_text(cfg.dump())
        arguments = ["--config-file", str(tmp_path / "config.yaml"), "--num-gpus", str(processes)]
        status = main(["train", *arguments, *options])
        return status, "".join(capfd.readouterr())

    cfg = run_cfg("OUTPUT_DIR", str(small_disk / "run"), "SOLVER.EPOCHS", 50)
    cfg.SOLVER.KEEP_CHECKPOINTS = 50
    status, output = command()
    assert status == 2, output
    (line,) = [line for line in output.splitlines() if line.startswith("vmae-det: error: ")]
    kept = checkpoints(small_disk / "run")
    assert "the checkpoint cannot be written: No space left on device" in line
    assert line.endswith(f"the newest on disk is {kept[-1]}")
    assert "Traceback" not in output
    assert not list((small_disk / "run").glob(".checkpoint*"))

    # When there is space again, it resumes from there.
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    cfg.SOLVER.EPOCHS = len(kept) + 1
    assert "resumed from" in command("--resume")[1]


class ReadOnly(HookBase):
    """Make the folder read-only before step 2."""

    def __init__(self, folder):
        self.folder = folder

    def before_step(self):
        if self.trainer.step == 1:
            # A file system with files open for writing cannot be remounted read-only, but a bind mount can.
            subprocess.run(["mount", "--bind", str(self.folder), str(self.folder)], check=True)
            subprocess.run(["mount", "-o", "remount,ro,bind", str(self.folder)], check=True)


def test_a_folder_that_becomes_read_only_stops_the_run(run_cfg, small_disk):
    folder = small_disk / "run"
    cfg = run_cfg("OUTPUT_DIR", str(folder), "SOLVER.EPOCHS", 9)
    try:
        with pytest.raises(UserError, match=r"cannot be written: Read-only file system"):
            run_training(cfg, hooks=[ReadOnly(folder)])
        with pytest.raises(ConfigError, match=r"OUTPUT_DIR: .* cannot be written to: Read-only"):
            run_training(cfg, resume=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")
def test_killed_runs_end_with_the_weights_of_an_uninterrupted_run(mini_ava, monkeypatch, capsys):
    """A short run of tools/kill_test.py: one process, killed at a random moment and while it writes."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    kill_test = importlib.import_module("kill_test")
    monkeypatch.setattr(kill_test, "make_mini_ava", lambda *args, **options: mini_ava)
    monkeypatch.setattr(kill_test.subprocess, "Popen", PreloadedCommand)
    arguments = ["--runs", "2", "--processes", "1", "--epochs", "16"]
    monkeypatch.setattr(sys, "argv", ["kill_test.py", *arguments])
    status, printed = kill_test.main(), capsys.readouterr().out
    assert status == 0, printed
    assert "2 of 2 killed runs end with the weights of the reference run; 1 of them" in printed
