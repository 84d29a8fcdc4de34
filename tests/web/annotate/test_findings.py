"""What the page says about boxes and keyframes that may be wrong."""

import pytest

from vmae_det.web.annotate.document import Cell, new_document
from vmae_det.web.annotate.findings import find_problems
from vmae_det.web.frames import VideoFacts

ACTIONS = {1: "stand", 2: "sit", 3: "wave"}
POSES = frozenset({1, 2})
FACTS = VideoFacts(100, 50, 25, 10.0)
A = (0.1, 0.2, 0.3, 0.9)


def problems(cells, facts=FACTS, looked=()):
    """Return (second, person, kind, severity, text) of the problems of {(second, person): (box, ...)}."""
    content = {(1000 * s, person): Cell(box, actions) for (s, person), (box, *actions) in cells.items()}
    found = find_problems(new_document(content, looked), facts, 0.0, ACTIONS, POSES)
    return [tuple(problem.values()) for problem in found]


def test_ordinary_people_have_no_problem():
    walk = {(s, 0): ((0.1 * s, 0.2, 0.1 * s + 0.2, 0.9), 1) for s in range(8)}
    behind = {(s, 1): ((0.1 * s + 0.05, 0.2, 0.1 * s + 0.25, 0.85), 2, 3) for s in range(8)}
    far_later = {
        (3, 2): ((0.0, 0.1, 0.1, 0.3), 1),
        (8, 2): ((0.9, 0.1, 1.0, 0.3), 1),
        (8, 3): ((0.5, 0.1, 0.6, 0.3),),
    }
    assert problems(walk | behind | far_later, looked=[9000]) == []


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (
            {(1, 0): (A, 1), (1, 4): ((0.1, 0.2, 0.3, 0.89), 2)},
            (1, 4, "same_box", "hint", "nearly the box of person 0: is this one person?"),
        ),
        (
            {
                (1, 0): ((0, 0, 0.1, 0.2), 1),
                (2, 0): ((0.8, 0.6, 0.9, 0.8), 1),
                (3, 0): ((0.8, 0.6, 0.9, 0.8), 1),
            },
            (2, 0, "jump", "hint", "far from its box at 1 s: is this the same person?"),
        ),
        ({(1, 0): (A, 1, 2, 3)}, (1, 0, "several_poses", "hint", "2 poses: stand, sit")),
        (
            {(1, 0): (A, 1), (2, 0): (A, 1, 3), (3, 0): (A, 3)},
            (3, 0, "no_pose", "hint", "an action, but no pose"),
        ),
        (
            {(1, 0): ((0.5, 0.5, 0.57, 1.0), 1)},
            (1, 0, "small_box", "hint", "only 7 x 25 pixels of the video"),
        ),
        (
            {(11, 0): (A, 1)},
            (
                11,
                None,
                "keyframe_outside_video",
                "error",
                "a keyframe before the start or after the end of its video",
            ),
        ),
    ],
)
def test_each_problem_is_at_its_box(cells, expected):
    assert problems(cells) == [expected]


def test_a_set_without_poses_and_a_video_that_is_not_readable():
    assert problems({(1, 0): (A, 3), (2, 0): (A, 3), (3, 0): (A, 1)}) == []  # most people have no pose here
    assert problems({(11, 0): ((0.5, 0.5, 0.51, 0.52), 1)}, facts=None) == []
