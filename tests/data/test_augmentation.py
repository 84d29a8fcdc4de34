import random
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment

from vmae_det.config import check_config, get_cfg
from vmae_det.data import mixup
from vmae_det.data.augmentation import OPERATIONS, ClipRandAugment, erase_rectangle
from vmae_det.data.loader import build_train_dataset, build_train_loader
from vmae_det.data.mixup import BatchMixing, mixing_partners
from vmae_det.data.transforms import make_clip
from vmae_det.solver import build_schedule
from vmae_det.utils import distributed
from vmae_det.utils.errors import ConfigError

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def still_clip(frames=4, side=48):
    """A clip with the same colorful picture in all frames."""
    picture = np.random.default_rng(0).integers(0, 200, (6, 6, 3), dtype=np.uint8)
    picture = np.kron(picture, np.ones((side // 6, side // 6, 1), dtype=np.uint8))
    return make_clip(np.stack([picture] * frames))


def is_still(clip):
    return torch.equal(clip.frames, clip.frames[:1].expand_as(clip.frames))


# ---------------------------------------------------------------- RandAugment


FILTERED = ("Rotate", "Shear", "Translate", "Gaussian")  # whose kernels differ


def timm_and_clip_results(name, magnitude, seed, picture):
    """Results of timm on a picture and of ClipRandAugment on a clip of it."""
    options = {"img_mean": (124, 116, 104), "interpolation": Image.Resampling.BILINEAR, "translate_const": 9}
    operation = auto_augment.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=options)
    random.seed(seed)
    timm_result = np.asarray(operation(Image.fromarray(picture)))
    operation.aug_fn = OPERATIONS[operation.aug_fn.__name__]
    random.seed(seed)
    return timm_result.astype(int), operation(np.stack([picture] * 3)).astype(int)


@pytest.mark.parametrize("name", sorted(auto_augment.NAME_TO_OP))
def test_every_operation_matches_timm_in_all_frames(name):
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (12, 14, 3), dtype=np.uint8), (112, 96))
    grainy = (smooth // 2 + rng.integers(0, 60, smooth.shape)).astype(np.uint8)
    changed = 0
    for seed, picture in enumerate((smooth, grainy, smooth, grainy)):
        timm_result, clip_result = timm_and_clip_results(name, 3 + seed, seed, picture)
        assert (clip_result == clip_result[:1]).all()
        difference = np.abs(clip_result[0] - timm_result)
        changed += (clip_result[0] != picture).any()
        if name.startswith(FILTERED):
            assert difference.mean() < max(0.3 * np.abs(timm_result - picture).mean(), 3)
        else:
            assert difference.max() <= 1
    assert changed >= 2


def test_stretching_does_not_change_gray_and_single_colors():
    flat = np.full((2, 8, 8, 3), (9, 9, 200), dtype=np.uint8)
    for name in ("auto_contrast", "equalize"):
        assert (OPERATIONS[name](flat) == flat).all()


def test_random_draws_match_timm():
    """Inverting and posterizing return the same bytes in both, so equal pictures imply equal draws."""
    options = {"img_mean": (124, 116, 104)}
    timm_result = auto_augment.rand_augment_transform("rand-m5-n3-mstd1.5-inc1", options)
    clip_result = ClipRandAugment("rand-m5-n3-mstd1.5-inc1", MEAN)
    exact = ("Invert", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd")
    for augment in (timm_result, clip_result.augment):
        augment.ops = [operation for operation in augment.ops if operation.name in exact]
    assert len(clip_result.augment.ops) == 4
    clip, seen = still_clip(), set()
    for seed in range(20):
        drawn = int(np.random.default_rng(seed).integers(2**32))
        random.seed(drawn)
        np.random.seed(drawn)
        expected = np.asarray(timm_result(Image.fromarray(clip.pixels()[0])))
        frames = clip_result(clip, np.random.default_rng(seed)).pixels()
        np.testing.assert_array_equal(frames[2], expected)
        seen.add(frames.tobytes())
    assert len(seen) > 10


def test_rand_augment_depends_on_its_generator_only_and_restores_the_global_ones():
    augment = ClipRandAugment("rand-m9-mstd0.5-inc1", MEAN)
    random.seed(5)
    np.random.seed(5)
    states = random.getstate(), np.random.get_state()[1].tolist()
    results = [augment(still_clip(), np.random.default_rng(seed)).frames for seed in (1, 1, 2, 3, 4)]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    random.seed(6)
    assert torch.equal(results[0], augment(still_clip(), np.random.default_rng(1)).frames)
    assert torch.equal(results[0], results[1])
    assert any(not torch.equal(results[0], other) for other in results[2:])


@pytest.mark.parametrize("name", ["rand-m10-n1-p1-inc1", "rand-m0-n1-p1"])
def test_strongest_posterize_keeps_one_bit(name):
    augment = ClipRandAugment(name, MEAN)
    augment.augment.ops = [op for op in augment.augment.ops if op.name.startswith("Posterize")]
    frames = augment(still_clip(), np.random.default_rng(0)).frames
    assert set(frames.unique().tolist()) == {0, 128}


@pytest.mark.parametrize(
    "name",
    [
        "rand",
        "rand-m9-mstd0.5-inc1",
        "rand-m9-n3-mstd0.5",
        "rand-mstd1-tweights",
        "rand-m6-mmax20-p0.3-t3aw-n4",
        "rand-m9-mstd101-inc0-p1.0-t3a",
    ],
)
def test_valid_configurations(name):
    cfg = get_cfg()
    cfg.INPUT.RAND_AUGMENT = name
    check_config(cfg)
    for seed in range(10):
        assert is_still(ClipRandAugment(name, MEAN)(still_clip(2, 24), np.random.default_rng(seed)))


@pytest.mark.parametrize(
    "name", ["m9", "rand-9", "rand-m9.5", "rand-m9-inc", "rand-m9-n0", "rand-p1.5", "rand-tnone", "augmix-m3"]
)
def test_invalid_configurations(name):
    cfg = get_cfg()
    cfg.INPUT.RAND_AUGMENT = name
    with pytest.raises(ConfigError, match=rf"INPUT\.RAND_AUGMENT: got '{name}'.*rand-m9-mstd0\.5-inc1"):
        check_config(cfg)


# ---------------------------------------------------------------- erasing


def test_erased_rectangle_is_the_same_in_all_frames():
    clip = make_clip(np.zeros((3, 60, 80, 3), dtype=np.uint8))
    shares, aspects = [], []
    for seed in range(200):
        erased = erase_rectangle(clip, 1.0, (200, 150, 100), (10, 10, 10), np.random.default_rng(seed))
        assert is_still(erased)
        rows, columns = torch.nonzero(erased.frames[0, 0], as_tuple=True)
        height, width = (int(x.max() - x.min()) + 1 for x in (rows, columns))
        assert len(rows) == height * width
        shares.append(height * width / 4800)
        aspects.append(height / width)
        noise = erased.frames[0][:, rows, columns].float()
        assert noise.mean(dim=1).tolist() == pytest.approx([200, 150, 100], abs=6)
    assert not clip.frames.any()
    assert 0.015 < min(shares) < 0.05
    assert 0.28 < max(shares) < 0.35
    assert 0.25 < min(aspects) < 0.5
    assert 2 < max(aspects) < 3.6


def test_probability_of_erasing():
    clip = make_clip(np.zeros((2, 20, 20, 3), dtype=np.uint8))
    rng = np.random.default_rng(0)
    changed = sum(bool(erase_rectangle(clip, 0.25, MEAN, STD, rng).frames.any()) for _ in range(400))
    assert 0.18 < changed / 400 < 0.32
    for value in (-0.1, 1.5):
        cfg = get_cfg()
        cfg.INPUT.RANDOM_ERASING = value
        with pytest.raises(ConfigError, match=rf"INPUT\.RANDOM_ERASING: must be in \[0, 1\], got {value}"):
            check_config(cfg)


# ---------------------------------------------------------------- in a loader

ALL = ("INPUT.RAND_AUGMENT", "rand-m9-n3-p1.0-inc1", "INPUT.RANDOM_ERASING", 1.0)


def test_only_training_clips_of_classification_are_augmented(tiny_cfg):
    tasks = {"finetune": "classification", "detect": "detection", "pretrain": "pretraining"}
    for config, task in tasks.items():
        plain, changed = (build_train_dataset(tiny_cfg(config, *keys), task)[0, 1][0] for keys in ((), ALL))
        assert torch.equal(plain["video"], changed["video"]) == (config != "finetune")
        if config == "detect":
            assert torch.equal(plain["boxes"], changed["boxes"])


def test_batches_do_not_depend_on_the_number_of_workers(tiny_cfg):
    batches = []
    for workers in (0, 2):
        cfg = tiny_cfg("finetune", *ALL, "INPUT.MIXUP", 0.8, "DATALOADER.NUM_WORKERS", workers)
        loader = iter(build_train_loader(cfg, build_train_dataset(cfg, "classification")))
        batches.append([next(loader) for _ in range(3)])
    for single, shared in zip(*batches):
        assert torch.equal(single["video"], shared["video"])
        assert torch.equal(single["mixing"]["weight"], shared["mixing"]["weight"])


def test_copies_of_a_video_share_a_batch(tiny_cfg):
    cfg = tiny_cfg("finetune", *ALL, "DATALOADER.REPEATED_AUG", 2, "INPUT.CUTMIX", 1.0)
    batch = next(iter(build_train_loader(cfg, build_train_dataset(cfg, "classification"))))
    assert len(batch["index"]) == 2 * cfg.SOLVER.BATCH_SIZE  # BATCH_SIZE counts videos
    assert Counter(batch["index"].tolist()).most_common()[-1][1] == 2
    assert len({video.numpy().tobytes() for video in batch["video"]}) == 8
    assert (batch["index"] != batch["index"][batch["mixing"]["partner"]]).all()


def test_copies_do_not_affect_the_learning_rate(tiny_cfg):
    once, twice = (
        build_schedule(tiny_cfg("finetune", "DATALOADER.REPEATED_AUG", copies)) for copies in (1, 2)
    )
    assert once(0.5) == twice(0.5) > 0


# ---------------------------------------------------------------- mixup and cutmix


@pytest.mark.parametrize(
    ("batch_size", "copies", "expected"),
    [
        (1, 1, [0]),
        (2, 2, [0, 1]),
        (4, 1, [1, 0, 3, 2]),
        (5, 1, [1, 0, 3, 2, 3]),
        (6, 2, [2, 3, 0, 1, 2, 3]),
    ],
)
def test_partners(batch_size, copies, expected):
    assert mixing_partners(batch_size, copies).tolist() == expected


def draw_batches(mixup, cutmix, count=2000, size=32):
    """Parameters of the first clip of each batch."""
    mixing = BatchMixing(mixup, cutmix, size=size, copies=1, seed=0)
    batches = [mixing(number, 2) for number in range(count)]
    return [{key: values[0] for key, values in batch.items()} for batch in batches]


def test_mixup_weights_follow_a_beta_distribution():
    draws = draw_batches(0.8, 0.0)
    assert all(draw["box"].tolist() == [0, 32, 0, 32] for draw in draws)
    weights = np.array([float(draw["weight"]) for draw in draws])
    assert weights.mean() == pytest.approx(0.5, abs=0.02)
    assert weights.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.1)  # of Beta(a, a)


def test_cutmix_squares_have_uniform_areas_around_a_pixel():
    draws = draw_batches(0.0, 1.0)
    assert all(draw["weight"] == 0 for draw in draws)
    boxes = np.array([draw["box"].tolist() for draw in draws])
    heights, widths = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    assert boxes.min() == 0
    assert boxes.max() == 32
    inner = (boxes[:, 0] > 0) & (boxes[:, 1] < 32) & (boxes[:, 2] > 0) & (boxes[:, 3] < 32)
    assert inner.sum() > 200
    assert (heights == widths)[inner].all()
    assert (heights != widths).any()  # clipped at a border
    sides = np.maximum(heights, widths)
    assert (sides <= 16).mean() > 0.25  # a quarter of the areas is at most a quarter


def test_each_batch_uses_mixup_or_cutmix():
    draws = draw_batches(0.8, 1.0)
    share = np.mean([float(draw["weight"]) == 0 for draw in draws])
    assert share == pytest.approx(0.5, abs=0.04)


def test_eight_videos_and_their_copies_share_their_parameters():
    weights = BatchMixing(0.8, 0.0, size=32, copies=2, seed=0)(0, 40)["weight"]
    groups = weights.split(16)  # 8 videos with two copies each, and the remaining 4
    assert [len(group.unique()) for group in groups] == [1, 1, 1]
    assert len(weights.unique()) == 3


def test_mean_weight_varies_little_between_steps():
    """As with 64 processes of 8 clips: the standard deviation of Beta(0.8, 0.8) divided by sqrt(64)."""
    mixing = BatchMixing(0.8, 0.0, size=32, copies=1, seed=0)
    means = [float(mixing(number, 512)["weight"].mean()) for number in range(200)]
    assert np.std(means) == pytest.approx(0.31 / 8, rel=0.15)
    assert np.std([float(mixing(number, 8)["weight"].mean()) for number in range(200)]) > 0.25


@pytest.mark.parametrize("processes", [2, 3, 12])
def test_mixing_does_not_depend_on_the_number_of_processes(processes):
    mixing = BatchMixing(0.8, 1.0, size=32, copies=2, seed=0)
    single, share = mixing(3, 48), 48 // processes
    parts = [mixing(3, share, first) for first in range(0, 48, share)]
    for key in ("box", "weight"):
        assert torch.equal(torch.cat([part[key] for part in parts]), single[key])
    partner = torch.cat([part["partner"] + number * share for number, part in enumerate(parts)])
    assert torch.equal(partner, single["partner"])
    assert len(single["weight"].unique()) > 1


def test_loader_mixes_by_the_position_of_its_clips_in_the_batch(tiny_cfg, monkeypatch):
    monkeypatch.setattr(mixup, "GROUP_SIZE", 2)
    cfg = tiny_cfg("finetune", "INPUT.MIXUP", 0.8, "DATALOADER.REPEATED_AUG", 2)
    dataset = build_train_dataset(cfg, "classification")

    def weights(rank, world):
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "get_rank", lambda: rank)
            patch.setattr(distributed, "get_world_size", lambda: world)
            loader = build_train_loader(cfg, dataset)
        return next(iter(loader))["mixing"]["weight"]

    single = weights(0, 1)
    assert len(single) == 8
    assert len(single.unique()) == 2
    assert torch.equal(torch.cat([weights(0, 2), weights(1, 2)]), single)


def test_mixing_depends_on_the_step(tiny_cfg):
    cfg = tiny_cfg("finetune", "INPUT.MIXUP", 0.8, "INPUT.CUTMIX", 1.0, "SOLVER.ACCUMULATE", 2)
    dataset = build_train_dataset(cfg, "classification")
    unbroken = iter(build_train_loader(cfg, dataset))
    resumed = iter(build_train_loader(cfg, dataset, start_step=1))
    batches = [next(unbroken) for _ in range(4)]
    for batch in batches[2:]:
        again = next(resumed)
        assert torch.equal(batch["seed"], again["seed"])
        assert all(torch.equal(value, again["mixing"][key]) for key, value in batch["mixing"].items())
    draws = {(float(draw["weight"][0]), *draw["box"][0].tolist()) for draw in (b["mixing"] for b in batches)}
    assert len(draws) == 4


def test_no_mixing_by_default_and_none_without_labels(tiny_cfg):
    cfg = tiny_cfg("finetune")
    assert "mixing" not in next(iter(build_train_loader(cfg, build_train_dataset(cfg, "classification"))))
    cfg = tiny_cfg("detect", "INPUT.MIXUP", 0.8)
    assert "mixing" not in next(iter(build_train_loader(cfg, build_train_dataset(cfg, "detection"))))
