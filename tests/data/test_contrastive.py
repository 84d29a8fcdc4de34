"""Pairs of views: independent clips of a video, the same draw for all frames, the published probabilities."""

import numpy as np
import pytest
import torch

from vmae_det.data import color, contrastive, transforms
from vmae_det.data.contrastive import VIEWS, augment_view, jitter
from vmae_det.data.loader import build_dataset, build_train_dataset, collate
from vmae_det.data.transforms import make_clip
from vmae_det.utils.errors import ConfigError


def random_frames(side=16, count=1, seed=0):
    return np.random.default_rng(seed).integers(256, size=(count, side, side, 3), dtype=np.uint8)


def counting(monkeypatch, name):
    calls, function = [], getattr(color, name)

    def count(frames, *args, **kwargs):
        calls.append(args or tuple(kwargs.values()))
        return function(frames, *args, **kwargs)

    monkeypatch.setattr(color, name, count)
    return calls


@pytest.mark.parametrize("view", VIEWS)
def test_all_frames_of_a_clip_get_the_same_operations(view):
    still = np.repeat(random_frames(), 5, axis=0)
    changed = 0
    for seed in range(40):
        frames = augment_view(make_clip(still), view, np.random.default_rng(seed)).frames
        assert all(torch.equal(frame, frames[0]) for frame in frames)
        changed += not torch.equal(frames, make_clip(still).frames)
    assert changed > 30


@pytest.mark.parametrize(("number", "blurred", "solarized"), [(0, 1.0, 0.0), (1, 0.1, 0.2)])
def test_views_have_the_published_probabilities(monkeypatch, number, blurred, solarized):
    blurs, solarizations = counting(monkeypatch, "blur"), counting(monkeypatch, "solarize")
    brightness, saturation = (
        counting(monkeypatch, "adjust_brightness"),
        counting(monkeypatch, "adjust_saturation"),
    )
    clip, draws = make_clip(random_frames(4)), 2000
    for seed in range(draws):
        augment_view(clip, VIEWS[number], np.random.default_rng(seed))
    assert len(blurs) / draws == pytest.approx(blurred, abs=0.03)
    assert len(solarizations) / draws == pytest.approx(solarized, abs=0.03)
    assert len(brightness) / draws == pytest.approx(0.8, abs=0.03)
    assert sum(factor == (0.0,) for factor in saturation) / draws == pytest.approx(0.2, abs=0.03)
    factors = [factor for (factor,) in brightness]
    assert 0.6 <= min(factors) < 0.62 < 1.38 < max(factors) <= 1.4
    sigmas = np.array(blurs).ravel() * 224 / 4  # in proportion to the size of the frame
    assert 0.1 <= sigmas.min() < sigmas.max() <= 2.0
    assert all(threshold == (128,) for threshold in solarizations)


def test_color_jitter_is_in_random_order_and_shifts_the_hue_by_a_tenth_of_a_turn(monkeypatch):
    order, hues = [], []

    def record(name, function):
        def call(frames, **arguments):
            order.append(name)
            hues.extend([arguments["hue"]] if "hue" in arguments else [])
            return function(frames, **arguments)

        monkeypatch.setattr(color, name, call)

    for name in ("adjust_brightness", "adjust_contrast", "adjust_saturation", "shift_hsv"):
        record(name, getattr(color, name))
    for seed in range(200):
        jitter(random_frames(4), np.random.default_rng(seed))
    firsts = {name: order[::4].count(name) for name in set(order)}
    assert len(firsts) == 4
    assert min(firsts.values()) > 30
    assert -18 <= min(hues) < -15 < 15 < max(hues) <= 18  # steps of 2 degrees


def test_a_sample_has_two_clips_at_independent_times(tiny_cfg, monkeypatch):
    monkeypatch.setattr(contrastive, "augment_view", lambda clip, view, rng: clip)
    monkeypatch.setattr(transforms, "train_transform", lambda clip, cfg, rng: transforms.view_crop(clip, cfg))
    dataset = build_train_dataset(tiny_cfg("mocov3"), "contrastive")
    samples = [dataset[epoch, 0][0] for epoch in range(12)]
    same = sum(torch.equal(sample["video"], sample["video2"]) for sample in samples)
    assert same < 6, "the clips of a pair have different times"
    for view in ("video", "video2"):
        assert len({sample[view].numpy().tobytes() for sample in samples}) > 6
        assert all(sample[view].shape == (3, 4, 64, 64) for sample in samples)


def test_samples_depend_on_seed_epoch_and_index_only(tiny_cfg):
    cfg = tiny_cfg("mocov3", "DATALOADER.REPEATED_AUG", 2)
    first, again = (build_train_dataset(cfg, "contrastive") for _ in range(2))
    pairs = [[collate([data[key]]) for key in ((0, 0), (0, 1), (1, 0))] for data in (first, again)]
    for one, two in zip(*pairs):
        assert torch.equal(one["video"], two["video"])
        assert torch.equal(one["video2"], two["video2"])
        assert not torch.equal(one["video2"][0], one["video2"][1]), "repeated augmentation has its own draws"
    assert not torch.equal(pairs[0][0]["video2"], pairs[0][2]["video2"])
    other = build_train_dataset(tiny_cfg("mocov3", "DATALOADER.REPEATED_AUG", 2, "SEED", 1), "contrastive")
    assert not torch.equal(collate([other[0, 0]])["video2"], pairs[0][0]["video2"])


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_flip_obeys_its_key_in_both_views(tiny_cfg, monkeypatch, flip):
    monkeypatch.setattr(contrastive, "augment_view", lambda clip, view, rng: clip)
    options = ("INPUT.CROP_AREA", (1.0, 1.0), "INPUT.CROP_ASPECT", (1.0, 1.0), "INPUT.SAMPLING_RATE", 1)
    plain = build_train_dataset(tiny_cfg("mocov3", *options, "INPUT.FLIP", 0.0), "contrastive")[0, 0][0]
    found = build_train_dataset(tiny_cfg("mocov3", *options, "INPUT.FLIP", flip), "contrastive")[0, 0][0]
    for view in ("video", "video2"):
        expected = plain[view].flip(-1) if flip else plain[view]
        # The resize of a flipped crop may round differently.
        assert (found[view].int() - expected.int()).abs().max() <= 1


def test_test_clips_are_followed_by_those_of_the_bank(tiny_cfg, mini_ava):
    cfg = tiny_cfg("mocov3")
    dataset = build_dataset(cfg, "contrastive", cfg.DATASETS.TEST[0], training=False)
    lines = {
        split: (mini_ava / "annotations" / f"clips_{split}.csv").read_text().split("\n")[:-1]
        for split in ("val", "train")
    }
    assert len(dataset) == dataset.num_files == len(lines["val"]) + len(lines["train"])
    for index, line in enumerate([*lines["val"], *lines["train"]]):
        path, label = line.rsplit(maxsplit=1)
        assert str(dataset.path_of(index)).endswith(path)
        assert dataset.labels[index] == int(label)
    sample = dataset[0, len(lines["val"])][0]
    assert (sample["in_bank"], dataset[0, 0][0]["in_bank"]) == (True, False)
    assert sample["video"].shape == (3, 4, 64, 64)


def test_classes_of_a_bank_are_matched_by_name(tiny_cfg, mini_ava, tmp_path):
    text = (mini_ava / "clips_train.yaml").read_text()
    labels = mini_ava / "annotations" / "clips_train.csv"
    names = (mini_ava / "annotations" / "mini_ava_actions.pbtxt").read_text().split("}")[:-1]
    (tmp_path / "classes.pbtxt").write_text("}".join([*reversed(names), ""]))
    highest = len(names) - 1
    rows = [line.rsplit(maxsplit=1) for line in labels.read_text().splitlines()]
    (tmp_path / "list.csv").write_text("".join(f"{path} {highest - int(label)}\n" for path, label in rows))
    (tmp_path / "bank.yaml").write_text(
        text.replace("videos: .", f"videos: {mini_ava}")
        .replace("annotations/clips_train.csv", "list.csv")
        .replace("annotations/mini_ava_actions.pbtxt", "classes.pbtxt")
    )
    plain, renamed = (
        build_dataset(cfg, "contrastive", cfg.DATASETS.TEST[0], training=False)
        for cfg in (tiny_cfg("mocov3"), tiny_cfg("mocov3", "TEST.KNN_BANK", str(tmp_path / "bank.yaml")))
    )
    assert np.array_equal(plain.labels, renamed.labels)


@pytest.mark.parametrize("key", ["DATASETS.TEST", "TEST.KNN_BANK"])
def test_sets_without_labels_are_refused(tiny_cfg, mini_ava, key):
    unlabeled = str(mini_ava / "unlabelled.yaml")
    cfg = tiny_cfg("mocov3", key, (unlabeled,) if key == "DATASETS.TEST" else unlabeled)
    with pytest.raises(ConfigError, match=rf"{key}: .*unlabelled.yaml' is of type 'videos', without a label"):
        build_dataset(cfg, "contrastive", cfg.DATASETS.TEST[0], training=False)
