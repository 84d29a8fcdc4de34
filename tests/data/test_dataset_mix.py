"""DATASETS.TRAIN_WEIGHTS: several training sets, each with its share of every epoch."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from vmae_det.cli.main import main
from vmae_det.config import check_config
from vmae_det.data.loader import build_train_dataset, build_train_loader, describe_mix, samples_per_epoch
from vmae_det.data.samplers import MixedTrainSampler, split_by_weight
from vmae_det.utils import distributed
from vmae_det.utils.errors import ConfigError

SIZES, COUNTS = (7, 30, 5), (11, 6, 3)  # read 1.57, 0.2 and 0.6 times an epoch
BATCH, STEPS = 4, 5


def read(monkeypatch, count, world=1, start=0, seed=3):
    """Return `count` batches over all processes, from batch `start` on."""
    parts = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "get_world_size", lambda: world)
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        sampler = MixedTrainSampler(SIZES, COUNTS, BATCH, STEPS, seed, start)
        parts.append(list(itertools.islice(sampler, count)))
    return [flat(batches) for batches in zip(*parts)]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


def dataset_of(index):
    return int(np.searchsorted(np.cumsum(SIZES), index, side="right"))


def test_each_epoch_has_the_same_share_of_each_dataset(monkeypatch):
    batches = read(monkeypatch, 8 * STEPS)
    for epoch in range(8):
        keys = flat(batches[epoch * STEPS : (epoch + 1) * STEPS])
        assert Counter(dataset_of(index) for _, index in keys) == dict(enumerate(COUNTS))
    orders = [tuple(dataset_of(index) for _, index in flat(batches[i : i + STEPS])) for i in (0, STEPS)]
    assert orders[0] != orders[1]
    assert list(orders[0]) != sorted(orders[0])


def test_no_sample_is_repeated_before_all_others_of_its_dataset_were_read(monkeypatch):
    keys = flat(read(monkeypatch, 8 * STEPS))
    assert len(set(keys)) == len(keys)  # a repeated sample is augmented differently
    for number, size in enumerate(SIZES):
        own = [key for key in keys if dataset_of(key[1]) == number]
        assert len(own) == 8 * COUNTS[number]
        passes = [own[i : i + size] for i in range(0, len(own), size)]
        for expected, one in enumerate(passes):
            assert {number for number, _ in one} == {expected}
            assert len({index for _, index in one}) == len(one)
        assert number == 1 or passes[0] != [(0, index) for _, index in passes[1]]


def test_order_does_not_depend_on_processes_or_on_where_the_run_resumes(monkeypatch):
    batches = read(monkeypatch, 20)
    assert read(monkeypatch, 20, world=2) == batches
    for start in (1, 5, 13):
        assert read(monkeypatch, 20 - start, start=start) == batches[start:]
    assert read(monkeypatch, 20, seed=4) != batches


def test_split_by_weight():
    assert split_by_weight(100, (2, 1)) == [67, 33]
    assert split_by_weight(10, (1, 1, 1)) == [4, 3, 3]
    assert split_by_weight(7, (0.5,)) == [7]
    rng = np.random.default_rng(0)
    for _ in range(50):
        weights, total = rng.random(4) + 1e-3, int(rng.integers(1, 1000))
        parts = split_by_weight(total, weights)
        assert sum(parts) == total
        assert np.abs(parts - total * weights / weights.sum()).max() < 1


@pytest.fixture
def mixed_cfg(tiny_cfg, mini_ava):
    """mixed_cfg(WEIGHTS, KEY, VALUE, ...): detection on both parts of MiniAVA."""

    def make(weights, *keys):
        names = tuple(str(mini_ava / name) for name in ("train.yaml", "val.yaml"))
        return tiny_cfg("detect", "DATASETS.TRAIN", names, "DATASETS.TRAIN_WEIGHTS", weights, *keys)

    return make


def test_loader_reads_the_mix_and_resumes_in_it(mixed_cfg):
    cfg = mixed_cfg((1.0, 3.0), "DATALOADER.REPEATED_AUG", 2)
    dataset = build_train_dataset(cfg, "detection")
    first, second = map(len, dataset.datasets)
    steps = (first + second) // 4
    assert samples_per_epoch(cfg, dataset) == [steps, 3 * steps]
    batches = list(itertools.islice(iter(build_train_loader(cfg, dataset)), steps))
    indices = torch.cat([batch["index"] for batch in batches])
    videos = [path.split("/")[-1] for batch in batches for path in batch["path"]]
    own = {path.name for path in dataset.datasets[0].files}
    assert sum(name in own for name in videos) == 2 * steps
    assert len(indices) == len(videos) == 8 * steps
    resumed = next(iter(build_train_loader(cfg, dataset, start_step=steps - 1)))
    assert torch.equal(resumed["video"], batches[-1]["video"])


def test_labels_are_counted_as_often_as_they_are_read(mixed_cfg):
    dataset = build_train_dataset(mixed_cfg((3.0, 1.0)), "detection")
    parts = [part.class_counts(11) * len(dataset) / len(part) for part in dataset.datasets]
    np.testing.assert_allclose(dataset.class_counts(11), 0.75 * parts[0] + 0.25 * parts[1])
    dataset = build_train_dataset(mixed_cfg(()), "detection")
    np.testing.assert_array_equal(dataset.class_counts(11), sum(p.class_counts(11) for p in dataset.datasets))


def test_mix_is_described(mixed_cfg, tiny_cfg, capsys):
    cfg = mixed_cfg((1.0, 3.0))
    dataset = build_train_dataset(cfg, "detection")
    total, size = len(dataset) // 4 * 4, len(dataset.datasets[1])
    line = describe_mix(cfg, dataset)[1]
    assert f"{total * 3 // 4} of {total} samples an epoch (75.0 %)" in line
    assert line.endswith(f"its {size} samples {total * 0.75 / size:.3g} times")
    assert describe_mix(mixed_cfg(()), build_train_dataset(mixed_cfg(()), "detection"))[1].endswith(
        f"its {size} samples 1 times"
    )
    plain = tiny_cfg("detect")
    assert describe_mix(plain, build_train_dataset(plain, "detection")) == []
    values = [cfg.DATASETS.TRAIN, cfg.DATASETS.TRAIN_WEIGHTS]
    command = ["inspect", "--config-file", "MiniAVA/detect.yaml", "SOLVER.BATCH_SIZE", "4"]
    assert main([*command, "DATASETS.TRAIN", str(values[0]), "DATASETS.TRAIN_WEIGHTS", str(values[1])]) == 0
    assert line in capsys.readouterr().out


def test_wrong_weights(mixed_cfg):
    with pytest.raises(ConfigError, match=r"TRAIN_WEIGHTS: has 3 weights, but DATASETS.TRAIN has 2 datasets"):
        check_config(mixed_cfg((1.0, 1.0, 1.0)))
    with pytest.raises(ConfigError, match=r"TRAIN_WEIGHTS: .*\(0, 1000000\]"):
        check_config(mixed_cfg((1.0, 0.0)))
    cfg = mixed_cfg((1.0, 0.001))
    with pytest.raises(ConfigError, match=r"TRAIN_WEIGHTS: 0.001 for .*val.yaml is less than one of the"):
        samples_per_epoch(cfg, build_train_dataset(cfg, "detection"))
