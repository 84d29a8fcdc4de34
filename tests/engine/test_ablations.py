"""Every kind of ablation of the paper trains: the loss decreases over 50 steps on a tiny MiniAVA."""

import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vmae_det.cli.train import train_or_evaluate
from vmae_det.data import datasets
from vmae_det.engine.train import run_training
from vmae_det.engine.weights import build_model_with_weights
from vmae_det.video.readers import open_video
from vmae_det.visualization import reconstruction_grid, training_hook
from vmae_det.visualization.reconstruction import MASK_GRAY

STEPS = 50

# 8 frames at stride 2 of 32 x 32 pixels, in 4 time slices of 4 x 4 tokens; tube masks of 0.75, a decoder of
# depth 1, 2 clips per decoded video, mean squared error of normalized targets.
PRETRAIN = (
    *("INPUT.NUM_FRAMES", 8, "INPUT.SAMPLING_RATE", 2, "INPUT.CROP_SIZE", 32, "INPUT.TRAIN_SHORT_SIDE", 32),
    *("INPUT.TEST_SHORT_SIDE", 32, "MODEL.BACKBONE.PATCH_SIZE", 8),
    *("MODEL.MASK.TYPE", "tube", "MODEL.MASK.RATIO", 0.75, "DATALOADER.REPEATED_AUG", 2),
    *("DATALOADER.CLIPS_PER_VIDEO", 50, "SOLVER.BATCH_SIZE", 2),  # 2 videos: 50 steps
    *("SOLVER.BASE_LR", 0.6, "SOLVER.WEIGHT_DECAY", 0.05),
)
FINETUNE = (
    *("INPUT.CROP_SIZE", 32, "INPUT.TRAIN_SHORT_SIDE", 32, "MODEL.BACKBONE.PATCH_SIZE", 8),
    *("SOLVER.BATCH_SIZE", 4, "SOLVER.EPOCHS", 50, "SOLVER.CHECKPOINT_PERIOD", 50),
    *("SOLVER.HEAD_LR_FACTOR", 1.0),
)

MASK, TARGET = "MODEL.MASK.", "MODEL.RECONSTRUCTION."
ABLATIONS = {
    "none": (),
    "depth 4": ("MODEL.DECODER.DEPTH", 4),
    **{
        f"{kind} {ratio}": (MASK + "TYPE", kind, MASK + "RATIO", ratio)
        for kind, ratio in (("tube", 0.9), ("random", 0.9), ("frame", 0.5))
    },
    "center frame": (TARGET + "NUM_FRAMES", 1),
    "8 x 1 frames": (TARGET + "SAMPLING_RATE", 1),
    "16 x 1 frames": (TARGET + "NUM_FRAMES", 16, TARGET + "SAMPLING_RATE", 1),
    "raw": (TARGET + "NORMALIZE", False),
    "l1": (TARGET + "LOSS", "l1"),
    "smooth l1": (TARGET + "LOSS", "smooth_l1"),
    "1 clip of a decode": ("DATALOADER.REPEATED_AUG", 1),
    "4 clips of a decode": ("DATALOADER.REPEATED_AUG", 4),
    "running cell": ("MODEL.DECODER.MASK", "running_cell"),
}


class Decoded:
    """A reader that has decoded its entire video."""

    def __init__(self, path, name, short_side):
        reader = open_video(path, name, short_side=short_side)
        self.decoded = reader.frames(np.arange(len(reader)))

    def __len__(self):
        return len(self.decoded)

    def frames(self, indices):
        return self.decoded[indices]


decode_once = functools.cache(Decoded)


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Use one thread, because models this small gain nothing from more, and decode each video once."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(datasets, "open_video", decode_once)
    yield
    torch.set_num_threads(threads)


def train(cfg):
    """Return the mean loss of the first ten and the last ten steps."""
    run_training(cfg)
    lines = (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == STEPS
    return np.mean(losses[:10]), np.mean(losses[-10:])


@pytest.mark.parametrize("keys", ABLATIONS.values(), ids=ABLATIONS)
def test_pre_training_reduces_the_loss(tiny_cfg, keys):
    first, last = train(tiny_cfg("pretrain", *PRETRAIN, *keys))
    assert last < 0.95 * first


def test_pre_training_from_image_mae_reduces_the_loss(tiny_cfg, tmp_path):
    """Image MAE uses the same names, a patch embedding without time, and a class token."""
    backbone = build_model_with_weights(tiny_cfg("pretrain", *PRETRAIN, "SEED", 7)).backbone.state_dict()
    backbone["patch_embed.proj.weight"] = backbone["patch_embed.proj.weight"].sum(dim=2)
    torch.save({"model": backbone | {"cls_token": torch.zeros(1, 1, 24)}}, tmp_path / "image.pth")
    cfg = tiny_cfg("pretrain", *PRETRAIN, "MODEL.BACKBONE.CHECKPOINT", str(tmp_path / "image.pth"))
    started = build_model_with_weights(cfg).backbone
    assert torch.equal(started.blocks[1].mlp.fc1.weight, backbone["blocks.1.mlp.fc1.weight"])
    first, last = train(cfg)
    assert last < 0.95 * first


@pytest.fixture
def four_clips(mini_ava, tmp_path):
    """Overrides that fine-tune on four clips of one class each, with one step per epoch."""
    lines = (mini_ava / "annotations" / "clips_train.csv").read_text().splitlines()[:4]
    (tmp_path / "four.csv").write_text("\n".join(lines))
    (tmp_path / "four.yaml").write_text(f"type: classification\nvideos: {mini_ava}\nannotations: four.csv\n")
    return (*FINETUNE, "DATASETS.TRAIN", (str(tmp_path / "four.yaml"),), "DATASETS.TEST", ())


def test_fine_tuning_from_scratch_reduces_the_loss(tiny_cfg, four_clips):
    cfg = tiny_cfg("finetune", *four_clips, "MODEL.BACKBONE.CHECKPOINT", "", "SOLVER.BASE_LR", 0.1)
    first, last = train(cfg)
    assert last < 0.9 * first


def test_a_linear_probe_reduces_the_loss_and_does_not_change_the_backbone(tiny_cfg, four_clips):
    cfg = tiny_cfg("finetune", *four_clips, "MODEL.CLASSIFIER.LINEAR_PROBE", True)
    # Weight decay and drop path would change a backbone that is not frozen.
    cfg.merge_from_list(["SOLVER.OPTIMIZER", "sgd", "SOLVER.BASE_LR", 3.0, "MODEL.BACKBONE.DROP_PATH", 0.2])
    cfg.SOLVER.WEIGHT_DECAY = 0.05
    first, last = train(cfg)
    assert last < 0.95 * first
    before = build_model_with_weights(cfg).state_dict()
    after = torch.load(Path(cfg.OUTPUT_DIR) / "model_final.pt", weights_only=True)["model"]
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert any(name.startswith("backbone.") for name in after)
    assert changed == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("name", "frames", "tubelet"),
    [("none", 8, 2), ("center frame", 1, 1), ("16 x 1 frames", 16, 4), ("running cell", 8, 2)],
)
def test_picture_shows_the_prediction(tiny_cfg, monkeypatch, name, frames, tubelet):
    """The picture has all masked tokens, also those that the running cell skips in training."""
    shown = []
    monkeypatch.setattr(
        training_hook,
        "reconstruction_grid",
        lambda *given: shown.append(given) or reconstruction_grid(*given),
    )
    cfg = tiny_cfg("pretrain", *PRETRAIN, *ABLATIONS[name], "DATALOADER.CLIPS_PER_VIDEO", 2)
    train_or_evaluate(cfg)
    assert cv2.imread(str(Path(cfg.OUTPUT_DIR) / "reconstruction.png")).std() > 5
    for original, painted, mask, patch_size, target_tubelet in shown:
        assert original.shape == painted.shape == (3, frames, 32, 32)
        assert (patch_size, target_tubelet) == (8, tubelet)
        assert mask.mean() == 0.75
        pixels = mask.reshape(-1, 4, 4).repeat(tubelet, 0).repeat(8, 1).repeat(8, 2)
        assert (painted == original)[:, ~pixels].all()
        assert (painted != original)[:, pixels].mean() > 0.9
        assert (painted == MASK_GRAY).all(axis=0).mean() < 0.02
    assert len(shown) == 2
