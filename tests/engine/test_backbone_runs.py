"""Detectors with backbones other than VideoViT train, resume and detect. test_export.py exports them."""

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
    *("MODEL.BACKBONE.DROP_PATH", 0.2, "MODEL.ACTIVATION_CHECKPOINTING", True),
    *("SOLVER.EPOCHS", 2, "DATASETS.TEST", ()),
)
BACKBONES = {
    "VJepa2ViT": {},
    "VJepa21ViT": {},
    "Hiera": {"EMBED_DIM": 64, "DEPTH": 5, "NUM_HEADS": 8, "PATCH_SIZE": 32, "STAGES": (1, 1, 2, 1)},
}


class StopAtTheSecondStep(HookBase):
    def before_step(self):
        if self.trainer.step == 1:
            os.kill(os.getpid(), signal.SIGINT)


def weights(folder):
    return torch.load(folder / "model_final.pt", weights_only=True)["model"]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_detector_trains_resumes_and_detects(tiny_cfg, mini_ava, tmp_path, backbone):
    if backbone == "Hiera":
        pytest.importorskip("hiera", reason="needs hiera-transformer (pip install vmae_det[hiera])")
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    keys = {"NAME": backbone, **BACKBONES[backbone]}
    options = [part for key, value in keys.items() for part in (f"MODEL.BACKBONE.{key}", value)]
    run_training(tiny_cfg("detect", "OUTPUT_DIR", str(unbroken), *OPTIONS, *options))
    cfg = tiny_cfg("detect", "OUTPUT_DIR", str(broken), *OPTIONS, *options)
    with pytest.raises(Interrupted):
        run_training(cfg, hooks=[StopAtTheSecondStep()])
    run_training(cfg, resume=True)
    first, second = weights(unbroken), weights(broken)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert backbone != "VJepa21ViT" or first["backbone.video_mod_embed"].any()
    losses = [json.loads(line)["loss"] for line in (broken / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    video = next((mini_ava / "videos").iterdir())
    boxes = "".join(f"{video.stem},{second},0.3,0.2,0.5,0.9,,0.9\n" for second in (1, 2, 3))
    (tmp_path / "boxes.csv").write_text(boxes)
    options = ("--weights", str(broken / "model_final.pt"), "--boxes", str(tmp_path / "boxes.csv"))
    assert main(["detect", str(video), *options, "--output", str(tmp_path / "out"), "--format", "csv"]) == 0
    rows = read_action_csv(tmp_path / "out" / f"{video.stem}.csv", kind="detections")
    assert sorted(set(rows.timestamp)) == [1, 2, 3]
    assert len(rows.action) == 3 * 11
