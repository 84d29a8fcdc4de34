"""Heat maps on a frame."""

import numpy as np

from vmae_det.rendering.heat_map import blend_heat_maps

FRAME = np.full((60, 80, 3), 100, dtype=np.uint8)


def test_only_high_values_change_the_frame():
    left, right = np.zeros((2, 6, 8))
    left[:, :2], right[:, 6:] = 1, 0.2
    picture = blend_heat_maps(FRAME, [left, right])
    changed = (picture != FRAME).any(axis=2)
    assert changed[:, :10].all()
    assert not changed[:, 30:].any()
    assert (FRAME == 100).all()


def test_the_highest_of_several_maps_is_drawn():
    low, high = np.full((6, 8), 0.5), np.ones((6, 8))
    assert (blend_heat_maps(FRAME, [low, high]) == blend_heat_maps(FRAME, [high])).all()
    assert (blend_heat_maps(FRAME, [low]) != blend_heat_maps(FRAME, [high])).any()
    assert (blend_heat_maps(FRAME, [low, low]) == blend_heat_maps(FRAME, [low])).all()


def test_nothing_to_draw():
    assert blend_heat_maps(FRAME, [np.zeros((6, 8))]) is FRAME
    assert blend_heat_maps(FRAME, []) is FRAME
