"""The expected losses are those of the models: of constant predictions, and of perfect ones."""

import math

import pytest
import torch

from vmae_det.data.mixup import BatchMixing
from vmae_det.engine.expected_loss import expected_loss
from vmae_det.model_zoo import get_config
from vmae_det.modeling.classification import mix_labels
from vmae_det.modeling.losses import box_loss
from vmae_det.modeling.mocov3 import contrastive_loss
from vmae_det.modeling.pretraining import MaskedAutoencoder


class ConstantAutoencoder(MaskedAutoencoder):
    def _predict(self, visible_cubes, visible, predicted):
        return torch.zeros(*predicted.shape, self.decoder.head.out_features)


def test_the_pre_training_loss_of_predicting_the_mean_of_each_cube():
    cfg = get_config("MiniAVA/pretrain.yaml")
    cfg.MODEL.RECONSTRUCTION.NORMALIZE = True
    model = ConstantAutoencoder.from_config(cfg)
    size = cfg.INPUT.CROP_SIZE
    video = torch.randint(256, (2, 3, cfg.INPUT.NUM_FRAMES, size, size), dtype=torch.uint8)
    loss = model.train()({"video": video, "seed": torch.arange(2)})["loss"]
    assert expected_loss(cfg).constant == pytest.approx(float(loss), abs=1e-4)
    assert expected_loss(cfg).smallest == 0


def test_the_contrastive_losses_of_equal_features_and_of_the_corners_of_a_simplex():
    cfg = get_config("Kinetics/vit_base_16x4_mocov3.yaml")
    cfg.merge_from_list(["SOLVER.BATCH_SIZE", 12, "SOLVER.ACCUMULATE", 2])
    corners = torch.eye(6) - 1 / 6
    for features, expected in (
        (torch.ones(6, 6), expected_loss(cfg).constant),
        (corners, expected_loss(cfg).smallest),
    ):
        loss = 2 * contrastive_loss(features, features, cfg.MODEL.MOCO.TEMPERATURE)
        assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_no_value_for_targets_whose_loss_depends_on_the_videos():
    raw = ["MODEL.RECONSTRUCTION.NORMALIZE", False]
    for keys in (raw, ["MODEL.RECONSTRUCTION.LOSS", "l1"]):
        cfg = get_config("SSv2/vit_base_16x2_pretrain.yaml")
        cfg.merge_from_list(keys)
        assert expected_loss(cfg) is None


def test_the_smallest_classification_loss_is_that_of_predicting_the_mixed_labels():
    cfg = get_config("Kinetics/vit_base_16x4_finetune.yaml")
    mixing, losses = BatchMixing(0.8, 1.0, size=224, copies=1, seed=5), []
    for number in range(400):
        labels = torch.randperm(400)[:8]
        targets = mix_labels(labels, mixing(number, 8), num_classes=400, smoothing=0.1, size=(224, 224))
        losses.append(torch.nn.functional.cross_entropy(targets.log(), targets))
    expected = expected_loss(cfg)
    assert expected.smallest == pytest.approx(float(torch.stack(losses).mean()), abs=0.03)
    assert expected.constant == pytest.approx(math.log(400))


def test_without_smoothing_and_mixing_the_smallest_loss_is_zero():
    assert expected_loss(get_config("Kinetics/vit_base_16x4_linear_probe.yaml")).smallest == 0


@pytest.mark.parametrize(("gamma", "alpha"), [(0.0, 1.0), (2.0, 0.25)])
def test_the_loss_of_a_box_with_equal_scores(gamma, alpha):
    cfg = get_config("AVA/vit_base_16x4.yaml")
    cfg.MODEL.ROI_HEAD.FOCAL_GAMMA, cfg.MODEL.ROI_HEAD.FOCAL_ALPHA = gamma, alpha
    labels = torch.randint(2, (3, 80))
    loss = box_loss(torch.zeros(3, 80), labels, "sum", focal_gamma=gamma, focal_alpha=alpha)
    assert expected_loss(cfg).constant * 3 == pytest.approx(float(loss), rel=1e-5)
    assert expected_loss(cfg).per == "box"
