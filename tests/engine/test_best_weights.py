"""The weights of the best evaluation are kept when later ones are worse, and across a resume."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from vmae_det.checkpoint import load_weights
from vmae_det.engine.best_checkpoint import BestCheckpoint, Metric, choose_metric
from vmae_det.engine.evaluation import run_evaluation
from vmae_det.engine.launch import launch
from vmae_det.engine.train import run_training
from vmae_det.engine.trainer import HookBase
from vmae_det.evaluation.evaluators import EVALUATOR_REGISTRY
from vmae_det.modeling import build_model
from vmae_det.utils.errors import ConfigError, WeightsError

pytestmark = pytest.mark.usefixtures("preloaded_processes")

TOP1, LOSS = Metric("top1", lower_is_better=False), Metric("loss", lower_is_better=True)


@pytest.fixture
def saved():
    return []


@pytest.fixture
def save(saved):
    def write(path, **extras):
        saved.append(extras)
        path.parent.mkdir(exist_ok=True)
        torch.save(extras, path)

    return write


@pytest.mark.parametrize(
    ("metric", "values", "kept"),
    [
        (TOP1, [1.0, 3.0, 3.0, 2.0, 4.0], [1, 2, 5]),
        (LOSS, [3.0, 4.0, 2.0, float("nan"), 2.0], [1, 3]),
        (TOP1, [float("nan"), 1.0, float("nan"), 2.0], [2, 4]),
    ],
)
def test_only_better_weights_are_saved(tmp_path, metric, values, kept, saved, save):
    best = BestCheckpoint(tmp_path, metric)
    for step, value in enumerate(values, 1):
        best.update({metric.name: value, "other": 0.0}, step, save)
    assert [entry["step"] for entry in saved] == kept


def test_resumed_run_keeps_the_best_value(tmp_path, saved, save):
    BestCheckpoint(tmp_path, TOP1).update({"top1": 5.0}, 1, save)
    resumed = BestCheckpoint(tmp_path, TOP1, resumed=True)
    for step, value in ((2, 4.0), (3, 6.0)):
        resumed.update({"top1": value}, step, save)
    assert [entry["step"] for entry in saved] == [1, 3]
    other = BestCheckpoint(tmp_path, LOSS, resumed=True)  # another metric starts over
    other.update({"loss": 9.0}, 4, save)
    (tmp_path / "model_best.pt").write_bytes(b"damaged")
    BestCheckpoint(tmp_path, LOSS, resumed=True).update({"loss": 10.0}, 5, save)
    assert [entry["step"] for entry in saved] == [1, 3, 4, 5]


def test_the_metric_is_the_default_of_the_task_or_set_by_the_config(tiny_cfg):
    metrics = [TOP1, Metric("top5", False)]
    assert choose_metric("", metrics) == TOP1
    assert choose_metric("top5", metrics).name == "top5"
    assert choose_metric("", []) is None
    with pytest.raises(ConfigError, match=r"TEST\.BEST_METRIC: .* no metric 'top3'; did you mean 'top"):
        run_training(tiny_cfg("finetune", "TEST.PERIOD", 1, "TEST.BEST_METRIC", "top3"))


class Worsen(HookBase):
    """Make the weights worse from a step on."""

    def __init__(self, step):
        self.step = step

    def after_step(self):
        if self.trainer.step >= self.step:
            for parameter in self.trainer.model.parameters():
                parameter.data.mul_(5)


def test_a_run_keeps_its_best_weights(tiny_cfg, tmp_path):
    """Keep the weights of the first of two evaluations."""
    cfg = tiny_cfg("pretrain", "SOLVER.EPOCHS", 2, "TEST.PERIOD", 1, "DATALOADER.CLIPS_PER_VIDEO", 2)
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.KEEP_CHECKPOINTS = 1, 2
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN
    results = run_training(cfg, hooks=[Worsen(2)])
    folder = Path(cfg.OUTPUT_DIR)
    best = torch.load(folder / "model_best.pt", weights_only=True)
    (first, *_) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert best["metric"] == "reconstruction_loss"
    assert best["step"] == 1
    assert best["value"] == first["reconstruction_loss"] < results["reconstruction_loss"]
    assert subprocess.run(["sha256sum", "-c", "model_best.pt.sha256"], cwd=folder).returncode == 0
    at_one = torch.load(folder / "checkpoint_0000001.pt", weights_only=True)["model"]
    assert all(torch.equal(value, at_one[name]) for name, value in best["model"].items())
    assert not load_weights(build_model(cfg), folder / "model_best.pt").missing

    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = str(folder / "model_best.pt"), str(tmp_path / "test")
    assert run_evaluation(cfg) == {"reconstruction_loss": pytest.approx(best["value"], rel=1e-6)}


def test_the_last_evaluation_can_be_the_best_in_two_processes(tiny_cfg):
    cfg = tiny_cfg("finetune", "TEST.PERIOD", 1, "SOLVER.EMA_DECAY", 0.5, "TEST.BEST_METRIC", "top5")
    assert launch(run_training, (cfg,), num_processes=2) == 0
    folder = Path(cfg.OUTPUT_DIR)
    best = torch.load(folder / "model_best.pt", weights_only=True)
    final = torch.load(folder / "model_final.pt", weights_only=True)["model"]
    assert (best["metric"], best["step"]) == ("top5", 2)
    assert best["value"] == json.loads((folder / "results.json").read_text())["top5"]
    assert best["label_map"]
    assert all(torch.equal(value, final[name]) for name, value in best["model"].items())


def test_weights_that_cannot_be_written_stop_the_run(tmp_path):
    def fail(path, **_):
        raise WeightsError(f"{path}: full")

    with pytest.raises(WeightsError, match=r"model_best\.pt: full"):
        BestCheckpoint(tmp_path, TOP1).update({"top1": 1.0}, 1, fail)


@pytest.mark.parametrize("task", ["finetune", "detect", "pretrain"])
def test_evaluators_return_the_metrics_that_they_declare(tiny_cfg, tmp_path, task):
    cfg = tiny_cfg(task)
    cfg.DATASETS.TEST = cfg.DATASETS.TEST or cfg.DATASETS.TRAIN
    name = {"finetune": "classification", "detect": "detection", "pretrain": "pretraining"}[task]
    assert set(run_training(cfg)) == set(EVALUATOR_REGISTRY.get(name).metrics)
    assert not (Path(cfg.OUTPUT_DIR) / "model_best.pt").exists()  # there is no evaluation to choose from
