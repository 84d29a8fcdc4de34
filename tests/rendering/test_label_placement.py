"""Labels use the free space of the frame, and never cover heads or other labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmae_det.rendering.label_placement import GRID, head_regions, place_labels

FRAMES = [(144, 192), (240, 560), (480, 270), (1080, 1920)]


def overlap(a, b):
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def has_room(frame_size, size, blocks):
    """Whether a rectangle of this size fits into the frame without overlapping any block.

    A rectangle that fits can be moved left and up until it touches the frame border or a block.
    """
    lefts = {0.0, *(float(block[2]) for block in blocks)}
    tops = {0.0, *(float(block[3]) for block in blocks)}
    inside = ((x, y) for x in lefts for y in tops)
    return any(
        x + size[1] <= frame_size[1]
        and y + size[0] <= frame_size[0]
        and not any(overlap((x, y, x + size[1], y + size[0]), block) for block in blocks)
        for x, y in inside
    )


@st.composite
def scenes(draw):
    height, width = draw(st.sampled_from(FRAMES))
    count = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.05, 0.3, 1.0]))
    ends = np.sort(rng.uniform(0, spread, (count, 2, 2)) + rng.uniform(0, 1 - spread, (count, 1, 2)), axis=1)
    boxes = np.rint(ends.reshape(count, 4) * (width - 1, height - 1, width - 1, height - 1))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    line = max(12, height // 25)
    sizes = [[(line * k, int(rng.integers(3, 9)) * line) for k in (3, 1)] for _ in range(count)]
    return (height, width), boxes, sizes


@settings(max_examples=150, deadline=None)
@given(scenes())
def test_labels_use_free_space_only(scene):
    frame_size, boxes, sizes = scene
    positions = place_labels(frame_size, boxes, sizes)
    assert positions == place_labels(frame_size, boxes, sizes)
    taken = [position.rectangle for position in positions if position is not None]
    heads = head_regions(boxes)
    for i, (x1, y1, x2, y2) in enumerate(taken):
        assert 0 <= x1 < x2 <= frame_size[1]
        assert 0 <= y1 < y2 <= frame_size[0]
        assert not any(overlap(taken[i], other) for other in [*heads, *taken[:i]])
    slack = 2 * max(2, min(frame_size) // GRID)  # resolution of the grid search
    for position, choices in zip(positions, sizes):
        if position is not None:
            x1, y1, x2, y2 = position.rectangle
            assert (y2 - y1, x2 - x1) == choices[position.choice]
        # A label without free space when it was placed has none afterwards either.
        refused = choices if position is None else choices[: position.choice]
        blocks = [*heads, *(other for other in taken if position is None or other != position.rectangle)]
        assert not any(has_room(frame_size, (h + slack, w + slack), blocks) for h, w in refused)


def test_a_label_is_near_its_own_box():
    boxes = np.array([(50, 100, 120, 230), (400, 100, 470, 230)], float)
    left, right = place_labels((256, 640), boxes, [[(30, 80)], [(30, 80)]])
    assert left.rectangle[0] == 50
    assert right.rectangle[0] == 400
    assert left.rectangle[3] <= 100
    assert right.rectangle[3] <= 100


def test_a_smaller_size_is_used_if_the_first_does_not_fit():
    boxes = np.array([(0, 0, 59, 59)], float)  # covers the frame of 60 x 60; the upper half is the head
    assert place_labels((60, 60), boxes, [[(40, 50), (20, 50)]])[0].choice == 1
    assert place_labels((60, 60), boxes, [[(40, 50)]]) == [None]
    assert place_labels((60, 60), boxes, [[]]) == [None]
    assert place_labels((60, 60), boxes, [[(20, 500)]]) == [None]


@pytest.mark.parametrize(
    ("box", "head"),
    [
        ((0, 0, 30, 100), 25),  # standing: upper quarter
        ((0, 0, 70, 100), 42),  # sitting: 0.6 of the width
        ((0, 0, 200, 100), 50),  # lying: half of the height
    ],
)
def test_head_regions(box, head):
    assert head_regions(np.array([box])).tolist() == [[0, 0, box[2], head]]
