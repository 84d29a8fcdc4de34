"""EMA of the weights, and entire runs of the fine-tuning recipe with it."""

import json
from pathlib import Path

import pytest
import torch
from interrupts import StopAfter
from torch import nn

from vmae_det.engine import evaluation
from vmae_det.engine.ema import ModelEMA
from vmae_det.engine.evaluation import run_evaluation
from vmae_det.engine.hooks import Interrupted
from vmae_det.engine.launch import launch
from vmae_det.engine.train import run_training
from vmae_det.engine.trainer import HookBase
from vmae_det.utils.errors import WeightsError

pytestmark = pytest.mark.usefixtures("preloaded_processes")

RECIPE = (
    *("INPUT.RAND_AUGMENT", "rand-m9-mstd0.5-inc1", "INPUT.RANDOM_ERASING", 0.5),
    *("INPUT.MIXUP", 0.8, "INPUT.CUTMIX", 1.0, "INPUT.SAMPLING", "segments"),
    *("DATALOADER.REPEATED_AUG", 2, "SOLVER.EMA_DECAY", 0.9, "SOLVER.EPOCHS", 3),
)


def weights(folder, name="model_final.pt", key="model"):
    return torch.load(Path(folder) / name, weights_only=True)[key]


def newest(folder):
    return sorted(Path(folder).glob("checkpoint_*.pt"))[-1].name


def curve(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


class Recorder(HookBase):
    """Record the weights after each step."""

    def __init__(self):
        self.history = []

    def before_train(self):
        self.keep()

    def after_step(self):
        self.keep()

    def keep(self):
        state = self.trainer.model.state_dict()
        self.history.append({name: value.clone() for name, value in state.items()})


def test_ema_values():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    average = ModelEMA(model, decay=0.75)
    values = []
    for value in (5.0, 5.0, -3.0):
        model.weight.data.fill_(value)
        average.after_step()
        values.append(average.state_dict()["weight"].item())
    assert values == pytest.approx([2.0, 2.75, 1.3125])  # 0.75 * 1 + 0.25 * 5, ...
    assert model.weight.requires_grad
    assert not average.state_dict()["weight"].requires_grad


def test_ema_is_evaluated_and_saved(tiny_cfg, tmp_path, monkeypatch):
    tested = []
    real_run_inference = evaluation.run_inference

    def run_inference(model, *arguments):
        tested.append(model.head.weight.detach().clone())
        return real_run_inference(model, *arguments)

    monkeypatch.setattr(evaluation, "run_inference", run_inference)
    recorder = Recorder()
    cfg = tiny_cfg("finetune", "SOLVER.EMA_DECAY", 0.9, "SOLVER.EPOCHS", 2, "TEST.PERIOD", 1)
    results = run_training(cfg, hooks=[recorder])
    assert len(tested) == 2
    expected = recorder.history[0]
    for number, step in enumerate(recorder.history[1:], 1):
        expected = {name: 0.9 * expected[name] + 0.1 * value for name, value in step.items()}
        if number == 2:  # the last step of the first epoch
            torch.testing.assert_close(tested[0], expected["head.weight"], rtol=1e-4, atol=1e-6)
    assert torch.equal(tested[1], weights(cfg.OUTPUT_DIR)["head.weight"])
    saved = weights(cfg.OUTPUT_DIR)
    for name, value in saved.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    last = newest(cfg.OUTPUT_DIR)
    assert_equal(weights(cfg.OUTPUT_DIR, last, "averaged_model"), saved)
    assert_equal(weights(cfg.OUTPUT_DIR, last), recorder.history[-1])
    assert not torch.equal(saved["head.weight"], recorder.history[-1]["head.weight"])
    cfg.merge_from_list(
        ["MODEL.WEIGHTS", f"{cfg.OUTPUT_DIR}/model_final.pt", "OUTPUT_DIR", str(tmp_path / "test")]
    )
    assert run_evaluation(cfg) == results


def test_ema_does_not_change_the_steps(tiny_cfg, tmp_path):
    for decay in (0.0, 0.9):
        cfg = tiny_cfg("finetune", "OUTPUT_DIR", str(tmp_path / str(decay)), "SOLVER.EMA_DECAY", decay)
        run_training(cfg)
    assert curve(tmp_path / "0.0") == curve(tmp_path / "0.9")
    assert "averaged_model" not in torch.load(tmp_path / "0.0" / newest(tmp_path / "0.0"), weights_only=True)


def test_interrupted_recipe_resumes_bit_identically(tiny_cfg, tmp_path):
    options = (*RECIPE, "TEST.PERIOD", 1)
    run_training(tiny_cfg("finetune", "OUTPUT_DIR", str(tmp_path / "unbroken"), *options))
    cfg = tiny_cfg("finetune", "OUTPUT_DIR", str(tmp_path / "broken"), *options)
    with pytest.raises(Interrupted):
        run_training(cfg, hooks=[StopAfter(3)])
    run_training(cfg, resume=True)
    assert curve(tmp_path / "broken") == curve(tmp_path / "unbroken")
    assert_equal(weights(tmp_path / "broken"), weights(tmp_path / "unbroken"))


def test_ema_can_start_later_and_must_match_the_model(tiny_cfg):
    cfg = tiny_cfg("finetune", "SOLVER.EPOCHS", 2)
    with pytest.raises(Interrupted):
        run_training(cfg, hooks=[StopAfter(2)])
    cfg.SOLVER.EMA_DECAY = 0.5
    run_training(cfg, resume=True)
    assert "the EMA starts at its weights" in (Path(cfg.OUTPUT_DIR) / "log.txt").read_text()
    average = ModelEMA(nn.Linear(2, 2), 0.5)
    with pytest.raises(WeightsError):
        average.load_state_dict({"other": torch.zeros(2, 2)})


def test_two_processes_match_losses_and_ema_of_one(tiny_cfg, tmp_path):
    run_training(tiny_cfg("finetune", *RECIPE, "OUTPUT_DIR", str(tmp_path / "1")))
    cfg = tiny_cfg("finetune", *RECIPE, "OUTPUT_DIR", str(tmp_path / "2"))
    assert launch(run_training, (cfg,), num_processes=2) == 0
    assert curve(tmp_path / "1") == pytest.approx(curve(tmp_path / "2"), rel=1e-4)
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert all(torch.allclose(one[name], two[name], atol=1e-3) for name in one)
