"""Training runs on the device: mixed precision over 200 steps, checkpoints between devices, kills."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from interrupts import StopAfter

from gpu.steps import final_weights, loss_curve, norm
from vmae_det.checkpoint import read_checkpoint
from vmae_det.engine.hooks import Interrupted
from vmae_det.engine.setup import setup_run
from vmae_det.engine.train import TrainingRun, run_training

ROOT = Path(__file__).parents[2]
LEARNS = (
    "SOLVER.BASE_LR",
    8e-3,
    "SOLVER.WARMUP_EPOCHS",
    1.0,
    "SOLVER.CLIP_GRAD",
    1.0,
    "SOLVER.LOG_PERIOD",
    1,
)
EPOCHS = 34  # of 6 steps
# The last losses as a fraction of the first ones; 0.966 and 0.46 on the CPU.
FALLS_TO = {"pretrain": 0.98, "detect": 0.7}
# Largest relative difference of the mean of the last 20 losses from that in float32; 1e-4 on the CPU.
CLOSE = 0.02


@pytest.fixture(scope="module")
def curves():
    """Losses in float32 by task."""
    return {}


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
@pytest.mark.parametrize("task", FALLS_TO)
def test_200_steps_in_mixed_precision(device_cfg, tmp_path, curves, report, task, amp):
    cfg = device_cfg(
        task, *LEARNS, "SOLVER.EPOCHS", EPOCHS, "SOLVER.AMP", amp, "SOLVER.CHECKPOINT_PERIOD", 99
    )
    run = TrainingRun(cfg, setup_run(cfg))
    run.trainer.register_hooks(run.build_hooks())
    run.train()
    losses = list(loss_curve(tmp_path / "run").values())
    assert len(losses) >= 200
    assert all(map(math.isfinite, losses))
    first, last = sum(losses[:5]) / 5, sum(losses[-20:]) / 20
    if amp == "none":
        curves[task] = last
    assert task in curves, "run this test together with that in float32"
    difference = last / curves[task] - 1
    report("first losses, last losses, difference from fp32", f"{first:.4f}, {last:.4f}, {difference:+.3%}")
    assert last < FALLS_TO[task] * first
    if amp != "none":
        assert abs(difference) < CLOSE
    if amp == "fp16":
        scale = run.trainer.scaler.get_scale()
        report("loss scale after the run", f"{scale:g}")
        assert scale >= 1  # it shrinks by half with each step that overflows


def test_checkpoints_move_between_devices(device_cfg, device, tmp_path):
    """From the device to the CPU, and back: the state is bitwise equal, and training goes on."""
    options = (
        "SOLVER.EPOCHS",
        1,
        "SOLVER.EMA_DECAY",
        0.9,
        "SOLVER.AMP",
        "fp16",
        "MODEL.BACKBONE.DROP_PATH",
        0.1,
    )
    for step, name in ((2, device.type), (3, "cpu"), (4, device.type)):
        cfg = device_cfg("pretrain", *options, "MODEL.DEVICE", name)
        resumed = step > 2
        if resumed:
            path = tmp_path / "run" / f"checkpoint_{step - 1:07d}.pt"
            run = TrainingRun(cfg, setup_run(cfg), resume=True)
            run.trainer.step = run.start_step
            assert run.trainer.device.type == name
            assert_equal(read_checkpoint(path), run.state_dict())
            run.batches.close()
        with pytest.raises(Interrupted, match=f"after step {step}"):
            run_training(cfg, resume=resumed, hooks=[StopAfter(step)])
    assert list(loss_curve(tmp_path / "run")) == [1, 2, 3, 4]


def assert_equal(saved, state):
    """Compare the tensors and numbers of a checkpoint with the state of a run on any device."""
    if torch.is_tensor(saved):
        assert saved.device.type == "cpu"
        assert torch.equal(saved, state.cpu())
    elif isinstance(saved, dict):
        assert saved.keys() == state.keys()
        for key in saved.keys() - {"config", "versions"}:
            assert_equal(saved[key], state[key])
    elif isinstance(saved, (list, tuple)):
        for item, other in zip(saved, state, strict=True):
            assert_equal(item, other)
    else:
        assert saved == state


def start(cfg, *options):
    """Start `vmae-det train` in a process. Its output is in OUTPUT_DIR.txt."""
    folder = Path(cfg.OUTPUT_DIR)
    config = folder.with_suffix(".yaml")
    config.write_text(cfg.dump(), encoding="utf-8")
    command = [sys.executable, "-m", "vmae_det.cli.main", "train", "--config-file", str(config), *options]
    with folder.with_suffix(".txt").open("a", encoding="utf-8") as log:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=environment)


def finish(cfg, *options):
    process = start(cfg, *options)
    status = process.wait(300)
    assert status == 0, Path(cfg.OUTPUT_DIR).with_suffix(".txt").read_text(encoding="utf-8")[-3000:]


@pytest.fixture(scope="module")
def uninterrupted():
    """The curve and the weights of the run that is not stopped."""
    return {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_run_resumes(device_cfg, device, tmp_path, uninterrupted, report, number):
    """A run on the CPU resumes bit-identically. Some GPU kernels add in any order."""
    options = (
        *("SOLVER.EPOCHS", 20, "SOLVER.EMA_DECAY", 0.9, "MODEL.BACKBONE.DROP_PATH", 0.2),
        *("SOLVER.CHECKPOINT_PERIOD", 1, "DATALOADER.NUM_WORKERS", 1),
    )
    if not uninterrupted:
        cfg = device_cfg("pretrain", *options, "OUTPUT_DIR", str(tmp_path / "unbroken"))
        finish(cfg)
        folder = tmp_path / "unbroken"
        uninterrupted.update(curve=loss_curve(folder), weights=final_weights(folder))
    folder = tmp_path / "killed"
    cfg = device_cfg("pretrain", *options, "OUTPUT_DIR", str(folder))
    process, deadline = start(cfg), time.monotonic() + 120
    while not list(folder.glob("checkpoint_*.pt.sha256")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(120) == (128 + number if number == signal.SIGTERM else -number)
    assert not (folder / "model_final.pt").exists()
    finish(cfg, "--resume")
    curve, weights = loss_curve(folder), final_weights(folder)
    expected = uninterrupted["weights"]
    assert curve.keys() == uninterrupted["curve"].keys()
    if device.type == "cpu":
        assert curve == uninterrupted["curve"]
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
        return
    change = norm([weights[name] - expected[name] for name in expected]) / norm(expected.values())
    report("relative difference of the weights after 120 steps", f"{change:.1e}")
    assert curve == pytest.approx(uninterrupted["curve"], rel=1e-2)
    assert change < 1e-2
