"""Entire runs on a tiny MiniAVA: training, resuming, interrupting, several processes."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from preloaded import PreloadedCommand

from vmae_det.cli.train import train_or_evaluate
from vmae_det.engine.evaluation import dataset_labels, run_evaluation
from vmae_det.engine.hooks import Interrupted, TrainingError
from vmae_det.engine.launch import launch
from vmae_det.engine.setup import setup_run
from vmae_det.engine.train import run_training
from vmae_det.engine.trainer import HookBase
from vmae_det.utils.errors import ConfigError, WeightsError

pytestmark = pytest.mark.usefixtures("preloaded_processes")


def curve(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def weights(folder):
    return torch.load(Path(folder) / "model_final.pt", weights_only=True)["model"]


def test_from_pre_training_to_frame_map(tiny_cfg, tmp_path):
    """Run the three tasks in sequence, each starting from the weights of the previous one."""
    cfg = tiny_cfg("pretrain", "SOLVER.EPOCHS", 2, "OUTPUT_DIR", str(tmp_path / "pre"))
    train_or_evaluate(cfg)
    for name in (
        "config.yaml",
        "log.txt",
        "metrics.jsonl",
        "model_final.pt",
        "reconstruction.png",
        "tensorboard",
    ):
        assert (tmp_path / "pre" / name).exists(), name

    start = ("MODEL.BACKBONE.CHECKPOINT", str(tmp_path / "pre" / "model_final.pt"))
    cfg = tiny_cfg("finetune", "OUTPUT_DIR", str(tmp_path / "fine"), *start)
    assert set(train_or_evaluate(cfg)) == {"top1", "top5"}

    start = ("MODEL.BACKBONE.CHECKPOINT", str(tmp_path / "fine" / "model_final.pt"))
    cfg = tiny_cfg(
        "detect", "OUTPUT_DIR", str(tmp_path / "detect"), "TEST.PERIOD", 1, "SOLVER.EPOCHS", 2, *start
    )
    results = train_or_evaluate(cfg)
    assert 0 < results["frame_mAP"] < 1
    assert json.loads((tmp_path / "detect" / "results.json").read_text()) == results
    assert (tmp_path / "detect" / "detections.csv").exists()
    assert "fine/model_final.pt: " in (tmp_path / "detect" / "log.txt").read_text()

    # The saved config and weights reproduce the metric, but not in the folder of the run.
    saved = (tmp_path / "detect" / "config.yaml").read_text()
    cfg.merge_from_file(tmp_path / "detect" / "config.yaml")
    cfg.MODEL.WEIGHTS = str(tmp_path / "detect" / "model_final.pt")
    with pytest.raises(ConfigError, match=r"OUTPUT_DIR: .*detect contains a training run.*detect/test"):
        train_or_evaluate(cfg, eval_only=True)
    assert (tmp_path / "detect" / "config.yaml").read_text() == saved
    cfg.merge_from_list(
        ["OUTPUT_DIR", str(tmp_path / "test"), "MODEL.WEIGHTS", str(tmp_path / "detect" / "model_final.pt")]
    )
    assert train_or_evaluate(cfg, eval_only=True) == pytest.approx(results)

    # The results of two datasets with the same file name are kept separate.
    val = Path(cfg.DATASETS.TEST[0])
    names = [tmp_path / part / "dataset.yaml" for part in "ab"]
    for name in names:
        content = yaml.safe_load(val.read_text())
        paths = {
            key: str(val.parent / text) for key, text in content.items() if (val.parent / str(text)).exists()
        }
        name.parent.mkdir()
        name.write_text(yaml.safe_dump(content | paths))
    cfg.merge_from_list(["DATASETS.TEST", tuple(map(str, names)), "OUTPUT_DIR", str(tmp_path / "two")])
    both = train_or_evaluate(cfg, eval_only=True)
    assert {key: both[key] for key in both if key.endswith("/frame_mAP")} == pytest.approx(
        dict.fromkeys(["a_dataset/frame_mAP", "b_dataset/frame_mAP"], results["frame_mAP"])
    )
    assert (tmp_path / "two/a_dataset/detections.csv").exists()
    assert (tmp_path / "two/b_dataset/detections.csv").exists()


class StopAfter(HookBase):
    """Interrupt after a number of steps."""

    def __init__(self, step, number=signal.SIGINT):
        self.step = step
        self.number = number

    def before_step(self):
        if self.trainer.step == self.step - 1:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["mini_ava_val", "x/other.yaml"], ["mini_ava_val", "other"]),
        (["a/dataset.yaml", "b/dataset.yaml"], ["a_dataset", "b_dataset"]),
        (["/x/a/val/d.yaml", "/x/b/val/d.yaml", "c"], ["a_val_d", "b_val_d", "c"]),
        (["d.yaml", "/d.json", "/e/d.yaml"], None),
        (["a", "a"], None),
    ],
)
def test_each_test_set_has_a_unique_label(names, labels):
    if labels is None:
        with pytest.raises(ConfigError, match=r"DATASETS\.TEST: two datasets have the same label"):
            dataset_labels(names)
    else:
        assert dataset_labels(names) == dict(zip(names, labels))


@pytest.mark.parametrize("task", ["pretrain", "detect"])
def test_interrupted_run_resumes_bit_identically(tiny_cfg, tmp_path, task):
    options = ("SOLVER.EPOCHS", 4, "MODEL.BACKBONE.DROP_PATH", 0.2)
    run_training(tiny_cfg(task, "OUTPUT_DIR", str(tmp_path / "unbroken"), *options))
    cfg = tiny_cfg(task, "OUTPUT_DIR", str(tmp_path / "broken"), *options)
    with pytest.raises(Interrupted, match="after step 3; the state is saved"):
        run_training(cfg, hooks=[StopAfter(3)])
    run_training(cfg, resume=True)
    assert curve(tmp_path / "broken") == curve(tmp_path / "unbroken")
    first, second = weights(tmp_path / "broken"), weights(tmp_path / "unbroken")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_existing_run_is_not_overwritten(tiny_cfg):
    cfg = tiny_cfg("pretrain")
    run_training(cfg)
    with pytest.raises(
        ConfigError, match=r"OUTPUT_DIR: .* contains checkpoints of a run; continue it with --resume"
    ):
        run_training(cfg)


def test_accumulation_does_not_change_the_result(tiny_cfg, tmp_path):
    run_training(tiny_cfg("pretrain", "OUTPUT_DIR", str(tmp_path / "once")))
    run_training(tiny_cfg("pretrain", "OUTPUT_DIR", str(tmp_path / "twice"), "SOLVER.ACCUMULATE", 2))
    once, twice = curve(tmp_path / "once"), curve(tmp_path / "twice")
    assert once == pytest.approx(twice, rel=1e-4)


def test_training_in_mixed_precision(tiny_cfg):
    run_training(tiny_cfg("pretrain", "SOLVER.AMP", "bf16", "SOLVER.CLIP_GRAD", 1.0))


def test_a_loss_that_is_not_finite_stops_the_run(tiny_cfg):
    grows = ("SOLVER.BASE_LR", 1000.0, "SOLVER.WEIGHT_DECAY", 100.0, "SOLVER.MAX_LOSS", float("inf"))
    cfg = tiny_cfg("pretrain", *grows, "SOLVER.EPOCHS", 4)
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at step \d+.*SOLVER\.BASE_LR"):
        run_training(cfg)


def test_testing_requires_complete_weights(tiny_cfg, tmp_path):
    with pytest.raises(ConfigError, match=r"MODEL\.WEIGHTS: empty; testing needs the weights"):
        run_evaluation(tiny_cfg("detect"))
    run_training(tiny_cfg("pretrain", "OUTPUT_DIR", str(tmp_path / "pre")))
    cfg = tiny_cfg("detect", "MODEL.WEIGHTS", str(tmp_path / "pre" / "model_final.pt"))
    with pytest.raises(WeightsError, match=r"without roi_head\.classifier"):
        run_evaluation(cfg)
    with pytest.raises(ConfigError, match=r"DATASETS\.TEST"):
        run_evaluation(tiny_cfg("detect", "DATASETS.TEST", ()))


@pytest.mark.parametrize("task", ["pretrain", "detect"])
def test_two_processes_have_the_losses_of_one(tiny_cfg, tmp_path, task):
    options = ("SOLVER.EPOCHS", 4)  # 20 steps or more
    status = {}
    for processes in (1, 2):
        cfg = tiny_cfg(task, "OUTPUT_DIR", str(tmp_path / str(processes)), *options)
        status[processes] = launch(run_training, (cfg,), num_processes=processes)
    assert status == {1: 0, 2: 0}
    one, two = curve(tmp_path / "1"), curve(tmp_path / "2")
    assert len(one) >= 20
    assert one == pytest.approx(two, rel=1e-4)
    if task == "detect":
        results = [json.loads((tmp_path / n / "results.json").read_text()) for n in "12"]
        assert results[0] == pytest.approx(results[1], abs=0.02)


def test_an_error_in_several_processes_is_one_line(tiny_cfg, capfd):
    cfg = tiny_cfg("pretrain", "SOLVER.BATCH_SIZE", 3)
    assert launch(run_training, (cfg,), num_processes=2) == 2
    errors = capfd.readouterr().err
    assert errors.count("vmae-det: error: SOLVER.BATCH_SIZE: 3 is not divisible by 2 processes") == 1
    assert "Traceback" not in errors


def test_ctrl_c_on_several_processes_saves_and_the_run_resumes(tiny_cfg, tmp_path):
    folder = tmp_path / "run"
    cfg = tiny_cfg("pretrain", "SOLVER.EPOCHS", 4000)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    command = [sys.executable, "-m", "vmae_det.cli.main", "train", "--num-gpus", "2"]
    command += ["--config-file", str(tmp_path / "config.yaml")]
    with (tmp_path / "output.txt").open("w") as log:
        process = PreloadedCommand(command, stdout=log, stderr=log, start_new_session=True)
    metrics, deadline = folder / "metrics.jsonl", time.monotonic() + 300
    while not metrics.exists() or metrics.read_text().count("\n") < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.wait(timeout=300)
    output = (tmp_path / "output.txt").read_text()
    assert process.returncode == 130, output
    assert "interrupted after step" in output
    assert "Traceback" not in output
    assert list(folder.glob("checkpoint_*.pt"))


def test_missing_gpus(tiny_cfg):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE: cuda, but torch finds no GPU"):
        run_training(tiny_cfg("pretrain", "MODEL.DEVICE", "cuda"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_machines": 2}, "--dist-url"),
        ({"machine_rank": 1}, r"--machine-rank: must be in 0\.\.0 with --num-machines 1, got 1"),
        ({"num_machines": 2, "dist_url": "a:1", "machine_rank": 2}, "--machine-rank"),
    ],
)
def test_invalid_launches(options, expected):
    with pytest.raises(ConfigError, match=expected):
        launch(print, (), **options)


@pytest.mark.parametrize("reader", ["decord", "torchcodec", "nvdec"])
def test_a_missing_reader_is_refused_before_the_run(tiny_cfg, monkeypatch, reader):
    for name in ("decord", "torchcodec.decoders"):
        monkeypatch.setitem(sys.modules, name, None)
    cfg = tiny_cfg("pretrain", "DATALOADER.READER", reader)
    with pytest.raises(ConfigError, match=f"DATALOADER.READER: {reader}"):
        setup_run(cfg)
    assert not Path(cfg.OUTPUT_DIR).exists()
