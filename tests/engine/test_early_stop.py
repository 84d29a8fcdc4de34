"""TEST.PATIENCE ends a run that no longer improves; model_final.pt then has the best weights."""

import json
from pathlib import Path

import pytest
import torch

from vmae_det.config import check_config
from vmae_det.engine.evaluation import TestSets
from vmae_det.engine.train import run_training
from vmae_det.engine.trainer import HookBase
from vmae_det.utils.errors import ConfigError


@pytest.fixture
def run(tiny_cfg, monkeypatch):
    """run(VALUES, PATIENCE, resume): train with these values of top1; return the steps done and metrics."""
    evaluate = TestSets.evaluate

    def start(values, patience=2, epochs=6, resume=False, hooks=()):
        queue = iter(values)
        monkeypatch.setattr(TestSets, "evaluate", lambda *a: evaluate(*a) | {"top1": next(queue)})
        cfg = tiny_cfg("finetune", "TEST.NUM_CLIPS", 1, "TEST.NUM_CROPS", 1, "SOLVER.BATCH_SIZE", 8)
        cfg.SOLVER.CHECKPOINT_PERIOD = 1
        cfg.SOLVER.EPOCHS, cfg.TEST.PERIOD, cfg.TEST.PATIENCE = epochs, 1, patience
        metrics = run_training(cfg, resume, hooks)
        assert next(queue, None) is None  # each value was used
        folder = Path(cfg.OUTPUT_DIR)
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["step"], metrics, folder

    return start


def weights(folder, name):
    return torch.load(folder / name, weights_only=True)


def test_a_run_stops_when_the_best_evaluation_is_old(run):
    # Evaluations after steps 1, 2, 3, 4; then of the best weights.
    step, metrics, folder = run([1.0, 3.0, 2.0, 3.0, 3.0])
    assert step == 4
    assert metrics["top1"] == 3.0
    best, final = weights(folder, "model_best.pt"), weights(folder, "model_final.pt")
    assert best["step"] == 2
    assert all(torch.equal(value, best["model"][name]) for name, value in final["model"].items())
    assert (folder / "checkpoint_0000004.pt").exists()


def test_a_run_that_improves_is_not_stopped(run):
    step, _, folder = run([1.0, 2.0, 3.0, 4.0], epochs=4)
    assert step == 4
    assert weights(folder, "model_best.pt")["step"] == 4


class StopAt(HookBase):
    """End the process's run after a step, as a crash would."""

    def __init__(self, step):
        self.step = step

    def after_step(self):
        if self.trainer.step == self.step:
            raise KeyboardInterrupt


def test_a_resumed_run_continues_to_count(run):
    with pytest.raises(KeyboardInterrupt):
        run([3.0, 2.0], hooks=[StopAt(2)])
    step, metrics, folder = run([2.5, 3.0], resume=True)
    assert (step, metrics["top1"]) == (3, 3.0)
    # A run that has stopped does not train further.
    step, _, folder = run([3.0], resume=True)
    assert step == 3
    assert weights(folder, "model_best.pt")["step"] == 1


def test_patience_needs_evaluations(tiny_cfg):
    with pytest.raises(ConfigError, match=r"TEST\.PATIENCE: 2, but TEST\.PERIOD 0"):
        check_config(tiny_cfg("finetune", "TEST.PATIENCE", 2))
