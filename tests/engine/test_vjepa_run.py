"""A detector with V-JEPA 2.1 trains, resumes and detects. Its export is in test_export.py."""

import json
import os
import signal

import pytest
import torch

from vmae_det.cli.main import main
from vmae_det.engine.hooks import Interrupted
from vmae_det.engine.train import run_training
from vmae_det.engine.trainer import HookBase
from vmae_det.formats.ava_csv import read_action_csv

OPTIONS = (
    *("MODEL.BACKBONE.NAME", "VJepa21ViT", "MODEL.BACKBONE.DROP_PATH", 0.2, "SOLVER.EPOCHS", 2),
    *("MODEL.ACTIVATION_CHECKPOINTING", True, "DATASETS.TEST", ()),
)


class StopAtTheSecondStep(HookBase):
    def before_step(self):
        if self.trainer.step == 1:
            os.kill(os.getpid(), signal.SIGINT)


def weights(folder):
    return torch.load(folder / "model_final.pt", weights_only=True)["model"]


def test_a_detector_trains_resumes_and_detects(tiny_cfg, mini_ava, tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    run_training(tiny_cfg("detect", "OUTPUT_DIR", str(unbroken), *OPTIONS))
    cfg = tiny_cfg("detect", "OUTPUT_DIR", str(broken), *OPTIONS)
    with pytest.raises(Interrupted):
        run_training(cfg, hooks=[StopAtTheSecondStep()])
    run_training(cfg, resume=True)
    first, second = weights(unbroken), weights(broken)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["backbone.video_mod_embed"].any()
    losses = [json.loads(line)["loss"] for line in (broken / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    video = next((mini_ava / "videos").iterdir())
    options = ("--weights", str(broken / "model_final.pt"), "--whole-frame", "--every", "1")
    assert main(["detect", str(video), *options, "--output", str(tmp_path / "out")]) == 0
    assert len(read_action_csv(next((tmp_path / "out").glob("*.csv")), kind="detections").action)
