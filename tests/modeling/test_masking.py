import pytest
import torch

from vmae_det.modeling.masking import draw_mask, split_tokens
from vmae_det.modeling.randomness import uniform

GRID = (8, 14, 14)
SEEDS = torch.tensor([5, -9, 2**62])


def test_tube_masks_hide_the_same_positions_in_all_slices():
    mask = draw_mask(SEEDS, GRID, "tube", 0.9).view(3, 8, 196)
    assert (mask == mask[:, :1]).all()
    assert mask[:, 0].sum(dim=1).tolist() == [176] * 3  # int(0.9 * 196), as published


def test_random_masks_hide_any_tokens():
    mask = draw_mask(SEEDS, GRID, "random", 0.9)
    assert mask.sum(dim=1).tolist() == [1411] * 3
    slices = mask.view(3, 8, 196)
    assert (slices != slices[:, :1]).any()


def test_frame_masks_hide_whole_slices():
    slices = draw_mask(SEEDS, GRID, "frame", 0.5).view(3, 8, 196)
    assert slices.all(dim=2).sum(dim=1).tolist() == [4] * 3
    assert slices.any(dim=2).sum(dim=1).tolist() == [4] * 3


def test_a_mask_follows_from_its_seed_alone():
    together = draw_mask(SEEDS, GRID, "tube", 0.9)
    alone = torch.cat([draw_mask(seed[None], GRID, "tube", 0.9) for seed in SEEDS])
    assert torch.equal(together, alone)
    assert not torch.equal(together[0], together[1])


def test_tokens_are_split_without_loss():
    mask = draw_mask(SEEDS, GRID, "random", 0.75)
    visible, masked = split_tokens(mask)
    assert not mask.gather(1, visible).any()
    assert mask.gather(1, masked).all()
    everything = torch.cat([visible, masked], dim=1).sort(dim=1).values
    assert torch.equal(everything, torch.arange(8 * 196).expand(3, -1))


def splitmix64(seed, count):
    """The generator in Python's unbounded integers."""
    numbers = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) % 2**64
        z = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        numbers.append(((z ^ (z >> 31)) >> 40) * 2.0**-24)
    return numbers


@pytest.mark.parametrize("seed", [0, 1, -1, 123456789, -(2**63), 2**63 - 1])
def test_random_numbers_are_those_of_splitmix64(seed):
    assert uniform(torch.tensor([seed]), 5)[0].tolist() == splitmix64(seed % 2**64, 5)


def test_random_numbers_are_uniform():
    numbers = uniform(torch.arange(1000), 100)
    assert abs(numbers.mean().item() - 0.5) < 0.01
    assert abs(numbers.var().item() - 1 / 12) < 0.002
