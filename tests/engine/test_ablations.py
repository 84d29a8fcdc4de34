"""Everything that the paper ablates trains: 50 steps on a tiny MiniAVA, after which the loss is lower."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vmae_det.cli.train import train_or_evaluate
from vmae_det.engine.setup import build_model_with_weights, run_training

STEPS = 50

# 8 frames at stride 2 of 32 x 32 pixels, in 4 time slices of 4 x 4 tokens; tube masks of 0.75, decoder of depth 1,
# 2 clips of a decode, the mean squared error of normalised targets.
PRETRAIN = (
    *("INPUT.NUM_FRAMES", 8, "INPUT.SAMPLING_RATE", 2, "INPUT.CROP_SIZE", 32, "INPUT.TRAIN_SHORT_SIDE", 32),
    *("INPUT.TEST_SHORT_SIDE", 32, "MODEL.BACKBONE.PATCH_SIZE", 8),
    *("MODEL.MASK.TYPE", "tube", "MODEL.MASK.RATIO", 0.75, "DATALOADER.REPEATED_AUG", 2),
    *("DATALOADER.CLIPS_PER_VIDEO", 50, "SOLVER.BATCH_SIZE", 2),  # 2 videos: 50 steps
    *("SOLVER.BASE_LR", 0.6, "SOLVER.WEIGHT_DECAY", 0.05),
)
# 11 videos: 10 epochs of 5 steps.
FINETUNE = ("SOLVER.BATCH_SIZE", 2, "SOLVER.EPOCHS", 10, "DATASETS.TEST", ())

MASK, TARGET = "MODEL.MASK.", "MODEL.RECONSTRUCTION."
ABLATIONS = {
    "none": (),
    **{f"depth {depth}": ("MODEL.DECODER.DEPTH", depth) for depth in (2, 4, 8)},
    **{
        f"{kind} {ratio}": (MASK + "TYPE", kind, MASK + "RATIO", ratio)
        for kind, ratios in {"tube": (0.5, 0.9), "random": (0.5, 0.9), "frame": (0.25, 0.5, 0.75)}.items()
        for ratio in ratios
    },
    "centre frame": (TARGET + "NUM_FRAMES", 1),
    "8 x 1 frames": (TARGET + "SAMPLING_RATE", 1),
    "16 x 1 frames": (TARGET + "NUM_FRAMES", 16, TARGET + "SAMPLING_RATE", 1),
    "raw": (TARGET + "NORMALIZE", False),
    "l1": (TARGET + "LOSS", "l1"),
    "smooth l1": (TARGET + "LOSS", "smooth_l1"),
    "1 clip of a decode": ("DATALOADER.REPEATED_AUG", 1),
    "4 clips of a decode": ("DATALOADER.REPEATED_AUG", 4),
    "running cell": ("MODEL.DECODER.MASK", "running_cell"),
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Networks this small are no faster on several threads, and much slower where cores are shared."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    yield
    torch.set_num_threads(threads)


def train(cfg):
    """Mean loss of the first ten steps and of the last ten."""
    run_training(cfg)
    lines = (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == STEPS
    return np.mean(losses[:10]), np.mean(losses[-10:])


@pytest.mark.parametrize("keys", ABLATIONS.values(), ids=ABLATIONS)
def test_pre_training_learns(tiny_cfg, keys):
    first, last = train(tiny_cfg("pretrain", *PRETRAIN, *keys))
    assert last < 0.98 * first
