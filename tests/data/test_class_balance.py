"""SOLVER.CLASS_BALANCE: weights of rare classes, and the losses with them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vmae_det.config.checks import unused_keys
from vmae_det.data.class_balance import class_weights
from vmae_det.data.classes import ModelClasses
from vmae_det.data.loader import build_train_dataset
from vmae_det.engine.train import set_class_weights
from vmae_det.modeling import build_model
from vmae_det.modeling.losses import box_loss
from vmae_det.utils.errors import ConfigError

COUNTS = np.array([100, 25, 0, 4])


def test_weights_are_inverse_to_the_numbers_of_labels():
    weights = class_weights(COUNTS, "inverse_sqrt", by_sample=False)
    assert weights[[0, 1, 3]] / weights[0] == pytest.approx([1, 2, 5])
    assert weights[[0, 1, 3]].mean() == pytest.approx(1)
    assert weights[2] == 1
    weights = class_weights(COUNTS, "inverse", by_sample=True)
    assert weights[[0, 1, 3]] / weights[0] == pytest.approx([1, 4, 25])
    assert (weights * COUNTS).sum() == pytest.approx(COUNTS.sum())
    assert (class_weights(COUNTS, "none", by_sample=True) == 1).all()
    assert (class_weights(np.zeros(3), "inverse", by_sample=True) == 1).all()


def test_a_weight_scales_the_terms_of_its_class_in_the_detection_loss():
    logits, labels = torch.randn(6, 4), torch.randint(0, 2, (6, 4))
    weights = torch.tensor([0.5, 1.0, 2.0, 0.0])
    by_class = [box_loss(logits[:, i : i + 1], labels[:, i : i + 1], "sum") for i in range(4)]
    expected = sum(weight * loss for weight, loss in zip(weights, by_class)) / 4
    assert box_loss(logits, labels, "sum", weights) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_weight_scales_the_clips_of_its_class_in_the_classification_loss(tiny_cfg, mixed):
    cfg = tiny_cfg("finetune", "MODEL.CLASSIFIER.NUM_CLASSES", 3, "MODEL.CLASSIFIER.LABEL_SMOOTHING", 0.0)
    model = build_model(cfg).train()
    model.head.weight.data.normal_()
    label = torch.tensor([0, 2, 2])
    batch = {"video": torch.randint(0, 255, (3, 3, 4, 64, 64), dtype=torch.uint8), "label": label}
    if mixed:  # with themselves
        whole = torch.tensor([[0, 64, 0, 64]] * 3)
        batch["mixing"] = {"partner": torch.arange(3), "box": whole, "weight": torch.full((3,), 0.5)}
    logits = model.logits(model.normalization(batch["video"]))
    before = set(model.state_dict())
    model.set_class_weights(torch.tensor([4.0, 1.0, 0.5]))
    assert set(model.state_dict()) == before  # not saved
    expected = (F.cross_entropy(logits, label, reduction="none") * torch.tensor([4.0, 0.5, 0.5])).mean()
    assert float(model(batch)["loss"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("task", ["finetune", "detect"])
def test_weights_come_from_the_training_labels(tiny_cfg, task):
    cfg = tiny_cfg(task, "SOLVER.CLASS_BALANCE", "inverse")
    dataset = build_train_dataset(cfg, "classification" if task == "finetune" else "detection")
    labels = np.zeros(11)
    if task == "finetune":
        np.add.at(labels, dataset.datasets[0].labels, 1)
    else:
        for number in range(len(dataset)):
            _, extra = dataset.datasets[0].load(number, np.random.default_rng(0))
            labels += extra["labels"].sum(dim=0).numpy()
    assert dataset.class_counts(11).tolist() == labels.tolist()
    model = build_model(cfg)
    set_class_weights(cfg, model, dataset)
    rare, frequent = labels.argmin(), labels.argmax()
    ratio = model.class_weights[rare] / model.class_weights[frequent]
    assert ratio == pytest.approx(labels[frequent] / max(labels[rare], 1), rel=1e-4) or labels[rare] == 0


def test_labels_are_counted_by_the_classes_of_the_model(tiny_cfg):
    cfg = tiny_cfg("detect")
    dataset = build_train_dataset(cfg, "detection")
    label_map = dataset.classes.label_map
    reverse = ModelClasses(label_map.select(np.arange(len(label_map))[::-1]), "model.pt")
    counts = dataset.class_counts(11).tolist()
    assert counts != counts[::-1]
    assert build_train_dataset(cfg, "detection", reverse).class_counts(11).tolist() == counts[::-1]


def test_weights_without_use_are_reported(tiny_cfg):
    cfg = tiny_cfg("pretrain", "SOLVER.CLASS_BALANCE", "inverse")
    assert any(line.startswith("SOLVER.CLASS_BALANCE: inverse has no effect") for line in unused_keys(cfg))
    cfg = tiny_cfg("finetune", "SOLVER.CLASS_BALANCE", "inverse")
    dataset = build_train_dataset(cfg, "classification")
    dataset.class_counts = lambda number: None
    with pytest.raises(ConfigError, match=r"SOLVER\.CLASS_BALANCE: inverse, but the dataset has no"):
        set_class_weights(cfg, build_model(cfg), dataset)
