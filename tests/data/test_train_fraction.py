"""DATASETS.TRAIN_FRACTION: a fixed part of the training videos, for all tasks."""

import numpy as np
import pytest

from vmae_det.data.datasets import DATASET_REGISTRY, UnlabeledVideos
from vmae_det.data.loader import build_dataset, build_train_dataset
from vmae_det.data.train_fraction import choose_videos
from vmae_det.utils.errors import ConfigError


def test_each_class_has_its_fraction_and_smaller_fractions_are_contained():
    rng = np.random.default_rng(3)
    classes = rng.choice(5, 200, p=[0.5, 0.25, 0.15, 0.09, 0.01])
    before = np.zeros(0)
    for fraction in (0.01, 0.1, 0.25, 0.5, 0.9, 1.0):
        chosen = choose_videos(fraction, classes, "set")
        assert (np.diff(chosen) > 0).all()
        for number in np.unique(classes):
            size = (classes == number).sum()
            assert (classes[chosen] == number).sum() == max(round(fraction * size), 1)
        assert np.isin(before, chosen).all()
        before = chosen
    assert len(before) == 200
    # It is not the start of the list.
    assert choose_videos(0.5, np.zeros(100), "set").max() > 90


@pytest.fixture
def dataset(tiny_cfg):
    def build(task, kind, fraction, *keys):
        return build_train_dataset(tiny_cfg(task, "DATASETS.TRAIN_FRACTION", fraction, *keys), kind).datasets[
            0
        ]

    return build


def videos(dataset):
    return {dataset.path_of(index).name for index in range(len(dataset))}


def test_detection_trains_on_all_keyframes_of_some_videos(dataset):
    full, half = (dataset("detect", "detection", fraction) for fraction in (1.0, 0.5))
    assert (full.num_files, half.num_files) == (4, 2)
    assert videos(half) < videos(full)
    counts = [sum(full.path_of(index).name == name for index in range(len(full))) for name in videos(half)]
    assert len(half) == sum(counts) > 0
    assert 0 < half.class_counts(11).sum() < full.class_counts(11).sum()
    assert videos(dataset("detect", "detection", 0.5, "SEED", 7)) == videos(half)


def test_classification_and_pretraining_use_the_same_videos(dataset, mini_ava, tmp_path):
    """Of a set with eleven classes with one video each, repeated."""
    text = (mini_ava / "clips_train.yaml").read_text()
    lines = (mini_ava / "annotations" / "clips_train.csv").read_text().splitlines()
    for key in ("videos", "annotations", "label_map"):
        text = text.replace(f"\n{key}: ", f"\n{key}: {mini_ava}/")
    listed = tmp_path / "list.csv"
    listed.write_text("\n".join(lines * 4) + "\n")
    text = "\n".join(
        f"annotations: {listed}" if line.startswith("annotations:") else line for line in text.splitlines()
    )
    (tmp_path / "own.yaml").write_text(text)
    keys = ("DATASETS.TRAIN", (str(tmp_path / "own.yaml"),))
    half = dataset("finetune", "classification", 0.5, *keys)
    assert len(half) == 2 * len(lines)
    assert (half.class_counts(11) == 2).all()
    unlabeled = dataset("pretrain", "pretraining", 0.5, *keys)
    assert list(map(str, unlabeled.files)) == list(map(str, half.files))


def test_pretraining_on_a_folder(dataset):
    half = dataset("pretrain", "pretraining", 0.5, "DATALOADER.CLIPS_PER_VIDEO", 3)
    assert (half.num_files, len(half)) == (1, 3)


def test_test_sets_are_complete(tiny_cfg):
    cfg = tiny_cfg("detect", "DATASETS.TRAIN_FRACTION", 0.5)
    assert build_dataset(cfg, "detection", cfg.DATASETS.TEST[0], training=False).num_files == 2


def test_a_dataset_class_without_it_refuses_it(dataset, monkeypatch):
    class Other(UnlabeledVideos):
        has_train_fraction = False

    monkeypatch.setitem(DATASET_REGISTRY._obj_map, "pretraining", Other)
    assert dataset("pretrain", "pretraining", 1.0).num_files == 2
    with pytest.raises(ConfigError, match=r"DATASETS.TRAIN_FRACTION: 0.5, but Other does not implement it"):
        dataset("pretrain", "pretraining", 0.5)
