import math

import pytest
import torch

from vmae_det.modeling.masking import count_masked, draw_mask, running_cells, split_tokens
from vmae_det.modeling.seeded_random import uniform

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


def test_frame_masks_cover_entire_slices():
    slices = draw_mask(SEEDS, GRID, "frame", 0.5).view(3, 8, 196)
    assert slices.all(dim=2).sum(dim=1).tolist() == [4] * 3
    assert slices.any(dim=2).sum(dim=1).tolist() == [4] * 3


def test_a_mask_depends_only_on_its_seed():
    together = draw_mask(SEEDS, GRID, "tube", 0.9)
    alone = torch.cat([draw_mask(seed[None], GRID, "tube", 0.9) for seed in SEEDS])
    assert torch.equal(together, alone)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("kind", ["tube", "random", "frame"])
@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.9])
def test_the_number_of_masked_tokens_is_known_before_the_mask(kind, ratio):
    mask = draw_mask(SEEDS, GRID, kind, ratio)
    number = count_masked(GRID, kind, ratio)
    assert mask.sum(dim=1).tolist() == [number] * len(SEEDS)
    assert all(map(torch.equal, split_tokens(mask), split_tokens(mask, number)))


def test_tokens_are_split_without_loss():
    mask = draw_mask(SEEDS, GRID, "random", 0.75)
    visible, masked = split_tokens(mask)
    assert not mask.gather(1, visible).any()
    assert mask.gather(1, masked).all()
    everything = torch.cat([visible, masked], dim=1).sort(dim=1).values
    assert torch.equal(everything, torch.arange(8 * 196).expand(3, -1))


def splitmix64(seed, count):
    """The generator with Python's unbounded integers."""
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


def all_tokens(grid):
    t, h, w = grid
    return torch.arange(t * h * w).expand(len(SEEDS), -1)


def kept(tokens, grid, ratio, seeds=SEEDS):
    """Bool (B, t, h, w): the `tokens` that a running-cell mask keeps."""
    left = running_cells(seeds, tokens, grid, ratio)
    assert (left.diff(dim=1) > 0).all()
    return torch.zeros(len(tokens), math.prod(grid)).scatter(1, left, 1).bool().view(-1, *grid)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_running_cell_keeps_each_position_equally_often(quarters):
    left = kept(all_tokens(GRID), GRID, 1 - quarters / 4)
    for start in range(5):
        assert (left[:, start : start + 4].sum(dim=1) == quarters).all()
    cells = left.unflatten(2, (7, 2)).unflatten(4, (7, 2))  # B, t, 7, 2, 7, 2
    assert (cells.sum(dim=(3, 5)) == quarters).all()
    assert (cells == cells[:, :, :1, :, :1]).all()


def test_a_running_cell_by_hand():
    """Two positions of four, side by side in reading order; both advance by one from slice to slice."""
    pair = [{0, 1}, {1, 2}, {2, 3}, {3, 0}]
    starts = set()
    for cell in kept(torch.arange(16).expand(40, -1), (4, 2, 2), 0.5, torch.arange(40)).flatten(2):
        slices = [set(row.nonzero().flatten().tolist()) for row in cell]
        start = pair.index(slices[0])
        assert slices == [pair[(start - t) % 4] for t in range(4)]
        starts.add(start)
    assert starts == {0, 1, 2, 3}


@pytest.mark.parametrize(("kind", "masked"), [("tube", 1408), ("random", 1411), ("frame", 7 * 196)])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.8])
def test_a_running_cell_keeps_the_same_number_of_masked_tokens_in_every_clip(kind, masked, ratio):
    mask = draw_mask(SEEDS, GRID, kind, 0.9)
    _, hidden = split_tokens(mask)
    left = running_cells(SEEDS, hidden, GRID, ratio)
    assert left.shape == (3, masked - int(ratio * masked))
    assert mask.gather(1, left).all()


def test_a_running_cell_on_a_tube_mask_keeps_the_pattern():
    mask = draw_mask(SEEDS, GRID, "tube", 0.9)
    _, hidden = split_tokens(mask)
    pattern = kept(all_tokens(GRID), GRID, 0.5)
    assert torch.equal(kept(hidden, GRID, 0.5), pattern & mask.view(-1, *GRID))


def test_a_running_cell_depends_only_on_the_seed():
    _, hidden = split_tokens(draw_mask(SEEDS, GRID, "random", 0.5))
    together = running_cells(SEEDS, hidden, GRID, 0.3)
    alone = [running_cells(SEEDS[i : i + 1], hidden[i : i + 1], GRID, 0.3) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_a_running_cell_on_a_grid_of_odd_sides():
    left = kept(all_tokens((4, 3, 5)), (4, 3, 5), 0.5)
    assert (left.sum(dim=1) == 2).all()
