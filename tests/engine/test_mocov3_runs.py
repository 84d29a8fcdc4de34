"""Runs of MoCo v3: any number of processes, resuming bit for bit, and the weights in other models."""

import json
import signal

import pytest
import torch
from interrupts import StopAfter

from vmae_det.cli.main import main
from vmae_det.engine.evaluation import run_evaluation
from vmae_det.engine.hooks import Interrupted
from vmae_det.engine.launch import launch
from vmae_det.engine.train import run_training
from vmae_det.engine.weights import build_model_with_weights
from vmae_det.utils.errors import ConfigError

AVERAGE = ("SOLVER.EMA_DECAY", 0.9, "SOLVER.CLIP_GRAD", 1.0)
# Six steps of eight pairs.
STEPS = ("SOLVER.BATCH_SIZE", 8, "SOLVER.EPOCHS", 2, "DATALOADER.CLIPS_PER_VIDEO", 12)


def curve(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def weights(folder):
    return torch.load(folder / "model_final.pt", weights_only=True)["model"]


def results(folder):
    return json.loads((folder / "results.json").read_text())


def interrupted(cfg):
    run_training(cfg, hooks=[StopAfter(2)])


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Single-process runs by options; each runs once."""
    made = {}

    def run(tiny_cfg, *options):
        if options not in made:
            folder = tmp_path_factory.mktemp("one")
            run_training(tiny_cfg("mocov3", *options, "OUTPUT_DIR", str(folder)))
            made[options] = folder
        return made[options]

    return run


@pytest.mark.parametrize(("parallel", "accumulate"), [("ddp", 2), ("fsdp", 1)])
def test_losses_and_results_do_not_depend_on_the_number_of_processes(
    tiny_cfg, tmp_path, reference, preloaded_processes, parallel, accumulate
):
    options = (*STEPS, *AVERAGE, *(("SOLVER.ACCUMULATE", accumulate) if accumulate > 1 else ()))
    one, many = reference(tiny_cfg, *options), tmp_path / "many"
    cfg = tiny_cfg("mocov3", *options, "SOLVER.PARALLEL", parallel, "OUTPUT_DIR", str(many))
    assert launch(run_training, (cfg,), num_processes=2) == 0
    assert len(curve(one)) > 4
    assert curve(many) == pytest.approx(curve(one), rel=1e-3)
    for name, expected in weights(one).items():
        torch.testing.assert_close(weights(many)[name], expected, atol=1e-3, rtol=1e-3, msg=name)
    assert results(many).keys() == results(one).keys() == {"knn_top1", "knn_top5"}


def test_a_run_resumes_bit_for_bit(tiny_cfg, tmp_path, reference):
    one, folder = reference(tiny_cfg, *STEPS, *AVERAGE), tmp_path / "broken"
    cfg = tiny_cfg("mocov3", *STEPS, *AVERAGE, "OUTPUT_DIR", str(folder))
    with pytest.raises(Interrupted):
        interrupted(cfg)
    state = torch.load(folder / "checkpoint_0000002.pt", weights_only=True)["model"]
    assert "projector.1.running_var" in state
    name = "momentum_encoder.projector.0.weight"
    assert not torch.equal(state[name], state["projector.0.weight"])
    run_training(cfg, resume=True)
    first, second = weights(one), weights(folder)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert curve(folder) == curve(one)
    assert results(folder) == results(one)


def test_a_sharded_checkpoint_resumes_with_its_momentum_encoder(
    tiny_cfg, tmp_path, reference, preloaded_processes
):
    one, folder = reference(tiny_cfg, *STEPS, *AVERAGE), tmp_path / "two"
    cfg = tiny_cfg("mocov3", *STEPS, *AVERAGE, "SOLVER.PARALLEL", "fsdp", "OUTPUT_DIR", str(folder))
    assert launch(interrupted, (cfg,), num_processes=2) == 128 + signal.SIGINT
    run_training(cfg, resume=True)
    assert curve(folder) == pytest.approx(curve(one), rel=1e-3)


def test_momentum_encoder_moves_once_for_each_optimizer_step(tiny_cfg, tmp_path, monkeypatch):
    from vmae_det.modeling import MoCoV3

    calls, before_step = [], MoCoV3.before_step
    monkeypatch.setattr(MoCoV3, "before_step", lambda model, p: calls.append(p) or before_step(model, p))
    run_training(tiny_cfg("mocov3", *STEPS, "SOLVER.ACCUMULATE", 2, "DATASETS.TEST", ()))
    steps = len(curve(tmp_path / "run"))
    assert calls == pytest.approx([step / steps for step in range(steps)])


@pytest.mark.parametrize("task", ["finetune", "detect", "pretrain"])
def test_other_models_load_the_base_encoder(tiny_cfg, reference, task, caplog):
    saved = weights(reference(tiny_cfg, *STEPS, *AVERAGE))
    path = str(reference(tiny_cfg, *STEPS, *AVERAGE) / "model_final.pt")
    with caplog.at_level("INFO"):
        loaded = build_model_with_weights(tiny_cfg(task, "MODEL.BACKBONE.CHECKPOINT", path)).state_dict()
    names = [name for name in saved if name.startswith("backbone.") and name in loaded]
    assert len(names) > 20
    assert all(torch.equal(loaded[name], saved[name]) for name in names)
    assert any(not torch.equal(saved[name], saved[f"momentum_encoder.{name}"]) for name in names)
    assert "only the backbone is used, not projector, predictor, momentum_encoder" in caplog.text


def test_a_file_of_other_pre_training_starts_both_encoders(tiny_cfg, tmp_path):
    run_training(tiny_cfg("pretrain", "OUTPUT_DIR", str(tmp_path / "mae")))
    path = str(tmp_path / "mae" / "model_final.pt")
    options = ("DATASETS.TEST", (), "SOLVER.BASE_LR", 0.0, "SOLVER.MIN_LR", 0.0)
    run_training(tiny_cfg("mocov3", *options, "MODEL.BACKBONE.CHECKPOINT", path))
    expected, found = weights(tmp_path / "mae"), weights(tmp_path / "run")
    for name in (name for name in expected if name.startswith("backbone.")):
        assert torch.equal(found[name], expected[name])
        assert torch.equal(found[f"momentum_encoder.{name}"], expected[name])


def test_commands_use_the_base_encoder(tiny_cfg, mini_ava, tmp_path, reference, capsys):
    path = reference(tiny_cfg, *STEPS, *AVERAGE) / "model_final.pt"
    video = next((mini_ava / "clips").rglob("*.mp4"))
    out = ["--output", str(tmp_path / "features")]
    assert main(["features", str(video), "--weights", str(path), *out]) == 0
    config = ["--config-file", str(path.parent / "config.yaml")]
    assert main(["inspect", *config]) == 0
    printed = capsys.readouterr().out
    assert "MoCoV3" in printed
    assert "momentum_encoder" not in printed  # it has no learning rate
    pictures = ["--output", str(tmp_path / "pictures")]
    assert main(["visualize", "batch", *config, *pictures]) == 0
    assert main(["visualize", "embedding", "--weights", str(path), *pictures]) == 0
    test = ["MODEL.WEIGHTS", str(path), "OUTPUT_DIR", str(tmp_path / "test")]
    assert main(["test", *config, *test]) == 0
    assert results(tmp_path / "test") == results(path.parent)


@pytest.mark.parametrize("command", ["export", "classify", "detect"])
def test_commands_for_heads_refuse_it(tiny_cfg, tmp_path, reference, capsys, command):
    path = reference(tiny_cfg, *STEPS, *AVERAGE) / "model_final.pt"
    arguments = [] if command == "export" else ["video.mp4"]
    out = ["--output", str(tmp_path / "out.onnx" if command == "export" else tmp_path / "out")]
    assert main([command, *arguments, "--weights", str(path), *out]) == 2
    assert "MoCoV3" in capsys.readouterr().err


def test_features_of_other_models_are_evaluated(tiny_cfg, tmp_path):
    run_training(tiny_cfg("pretrain", "OUTPUT_DIR", str(tmp_path / "mae")))
    path = str(tmp_path / "mae" / "model_final.pt")
    metrics = run_evaluation(tiny_cfg("mocov3", "MODEL.WEIGHTS", path))
    assert 0 <= metrics["knn_top1"] <= metrics["knn_top5"] <= 100


def test_passes_of_one_clip_are_refused(tiny_cfg):
    cfg = tiny_cfg("mocov3", "SOLVER.BATCH_SIZE", 2, "SOLVER.ACCUMULATE", 2)
    with pytest.raises(ConfigError, match=r"SOLVER.BATCH_SIZE: 2 with SOLVER.ACCUMULATE 2 makes passes of"):
        run_training(cfg)
