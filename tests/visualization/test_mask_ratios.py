"""Reconstructions at several mask ratios."""

import numpy as np
import pytest
import torch

from vmae_det.data.loader import collate
from vmae_det.engine.weights import build_model_with_weights
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.visualization.mask_ratios import EvenlySpacedClips, draw_mask_ratios, reconstruct_clips
from vmae_det.visualization.reconstruction import MASK_GRAY


@pytest.fixture
def video(mini_ava):
    return sorted((mini_ava / "videos").glob("*.mp4"))[0]


def clips_of(cfg, video, count=2):
    dataset = EvenlySpacedClips(cfg, video, count)
    return collate([dataset[0, index] for index in range(count)])


@pytest.mark.parametrize("keys", [(), ("MODEL.DECODER.MASK", "running_cell")])
def test_rows_are_the_original_then_masked_and_reconstructed_at_each_ratio(tiny_cfg, video, keys):
    cfg = tiny_cfg("pretrain", "MODEL.BACKBONE.PATCH_SIZE", 8, *keys)
    model, batch = build_model_with_weights(cfg).eval(), clips_of(cfg, video)
    for rows, clip in zip(reconstruct_clips(model, batch, (0.5, 0.75)), batch["video"].numpy()):
        (_, original), (name, masked), (_, reconstructed), (_, more_masked), _ = rows
        assert name == "50% masked"
        assert (original == clip).all()
        hidden = (masked != clip).any(axis=0)
        assert hidden.mean() == pytest.approx(0.5, abs=0.03)
        assert (masked[:, hidden] == MASK_GRAY).all()
        # All masked tokens are reconstructed, whatever the decoder mask of training. Visible pixels are
        # unchanged.
        assert (reconstructed[:, ~hidden] == clip[:, ~hidden]).all()
        assert (reconstructed != clip).any(axis=0)[hidden].mean() > 0.9
        # A higher ratio masks the same tokens and more.
        assert (more_masked == MASK_GRAY).all(axis=0)[hidden].all()
    assert (model.mask_ratio, model.decoder_mask) == (cfg.MODEL.MASK.RATIO, cfg.MODEL.DECODER.MASK)


def test_clips_are_evenly_spaced_over_a_video(tiny_cfg, video):
    first, last = clips_of(tiny_cfg("pretrain"), video)["video"]
    assert first.shape == (3, 4, 64, 64)
    assert (first.float() - last.float()).abs().mean() > 1


def test_the_predicted_frames_are_shown(tiny_cfg, video):
    cfg = tiny_cfg("pretrain", "MODEL.RECONSTRUCTION.NUM_FRAMES", 8)
    rows = reconstruct_clips(build_model_with_weights(cfg).eval(), clips_of(cfg, video), (0.5,))
    assert [clip.shape for _, clip in rows[0]] == [(3, 8, 64, 64)] * 3


@pytest.fixture
def trained(tiny_cfg, tmp_path):
    def make(*keys):
        cfg = tiny_cfg("pretrain", *keys)
        torch.save({"model": build_model_with_weights(cfg).state_dict()}, tmp_path / "model.pt")
        cfg.MODEL.WEIGHTS = str(tmp_path / "model.pt")
        return cfg

    return make


def test_pictures_of_a_dataset_and_of_a_video(trained, video):
    cfg = trained()
    picture, frames, fps = draw_mask_ratios(cfg, ratios=(0.5,), count=2)
    assert len(frames) == 4
    assert fps == 25 / cfg.INPUT.SAMPLING_RATE
    assert len({frame.shape for frame in frames}) == 1
    of_one, _, _ = draw_mask_ratios(cfg, ratios=(0.5,), video=video, count=1)
    assert picture.shape[0] > 1.8 * of_one.shape[0] > 3 * 144
    assert picture.dtype == np.uint8


def test_invalid_settings_raise_an_error(trained, tiny_cfg, tmp_path):
    with pytest.raises(ConfigError, match=r"MODEL.MASK.RATIO: must be in \(0, 1\), got 1.5"):
        draw_mask_ratios(trained(), ratios=(0.5, 1.5))
    with pytest.raises(ConfigError, match=r"MODEL.MASK.RATIO: 0.01 of 16 positions masks 0"):
        draw_mask_ratios(trained(), ratios=(0.01,))
    with pytest.raises(ConfigError, match="requires a MaskedAutoencoder, got VideoClassifier"):
        draw_mask_ratios(tiny_cfg("finetune"))
    with pytest.raises(DataError, match=r"none\.mp4: no such video file"):
        draw_mask_ratios(trained(), video=tmp_path / "none.mp4")
