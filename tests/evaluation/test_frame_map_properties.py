"""What holds for frame-mAP of any boxes, found by a generator of crowded cases on a coarse grid: overlaps tie
exactly, boxes repeat, keyframes stand on one side only.
"""

from itertools import pairwise

import numpy as np
import pytest
from frame_map_cases import LABEL_MAP, reference, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from vmae_det.data.annotations import ActionBoxes
from vmae_det.evaluation.frame_map import FrameMAP, frame_map
from vmae_det.evaluation.matching import match

PROPERTY = settings(derandomize=True, database=None, max_examples=150, deadline=None)
BOTH = pytest.mark.parametrize("protocol", ["challenge", "slowfast"])
IOUS = (0.25, 0.5, 0.75)

KEYFRAMES = st.sampled_from([("a", 902.0), ("a", 903.0), ("b", 902.0)])
INTERVALS = st.sampled_from([(i / 8, j / 8) for i in range(4) for j in range(i + 1, 5)])
BOXES = st.tuples(INTERVALS, INTERVALS).map(lambda sides: tuple(zip(*sides))).map(lambda c: (*c[0], *c[1]))
ROWS = st.tuples(KEYFRAMES, BOXES, st.sampled_from([2, 5, 9, 77]))


def as_rows(entries, scores):
    return rows([(*keyframe, box, action, score) for (keyframe, box, action), score in zip(entries, scores)])


# In which scores that tie decide something.
CROWDED_ROWS = st.tuples(st.just(("a", 902.0)) | KEYFRAMES, BOXES, st.sampled_from([2, 2, 5]))


@st.composite
def cases(draw, ties=False):
    """Ground truth with a class of the label map, by coordinates, and detections."""
    entries = CROWDED_ROWS if ties else ROWS
    truth = sorted([*draw(st.lists(entries, max_size=12)), (draw(KEYFRAMES), draw(BOXES), 2)])
    found = draw(st.lists(entries | st.sampled_from(truth), max_size=24))
    if ties:
        scores = draw(st.lists(st.integers(0, 1), min_size=len(found), max_size=len(found)))
    else:
        scores = draw(st.permutations(range(len(found))))
    return as_rows(truth, [1.0] * len(truth)), as_rows(found, np.array(scores) / 32)


def join(a, b):
    names = ("video", "timestamp", "boxes", "action", "score", "person")
    return ActionBoxes(a.videos, *(np.concatenate([getattr(a, n), getattr(b, n)]) for n in names))


@BOTH
@PROPERTY
@given(case=cases())
def test_any_case_has_the_value_of_the_plain_definition(protocol, case):
    matches = match(*case, LABEL_MAP, protocol=protocol)
    for iou in IOUS:
        result = FrameMAP.from_matches(matches, iou)
        np.testing.assert_allclose(result.ap, reference(*case, protocol, iou=iou), atol=1e-12)
        np.testing.assert_array_equal(result.ap, frame_map(*case, LABEL_MAP, iou, protocol=protocol).ap)


@PROPERTY
@given(case=cases(ties=True), random=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_count_in_the_challenge(case, random):
    shuffled = [part.select(np.array(random.sample(range(len(part)), len(part)), int)) for part in case]
    for iou in IOUS:
        expected, got = (frame_map(*each, LABEL_MAP, iou).ap for each in (case, shuffled))
        np.testing.assert_array_equal(got, expected)


@PROPERTY
@given(case=cases(ties=True), random=st.randoms(use_true_random=False))
def test_only_the_order_of_a_class_in_a_keyframe_counts_in_slowfast(case, random):
    """There the rows take boxes in their order, by definition; all other changes of order change nothing."""
    truth, found = case
    groups = list(zip(found.video, found.timestamp, found.action))
    # A shuffled sequence of groups, in each of which the rows keep their order.
    sequence = random.sample(groups, len(groups))
    left = {group: [i for i, other in enumerate(groups) if other == group] for group in groups}
    found = found.select(np.array([left[group].pop(0) for group in sequence], int))
    truth = truth.select(np.array(random.sample(range(len(truth)), len(truth))))
    expected = frame_map(*case, LABEL_MAP, protocol="slowfast").ap
    np.testing.assert_array_equal(frame_map(truth, found, LABEL_MAP, protocol="slowfast").ap, expected)


@PROPERTY
@given(case=cases())
def test_slowfast_gives_the_challenge_its_value_on_rows_sorted_by_score(case):
    truth, found = case
    named = np.isin(found.video * 1000 + found.timestamp, truth.video * 1000 + truth.timestamp)
    found = found.select(named).select(np.argsort(-found.score[named]))
    both = [frame_map(truth, found, LABEL_MAP, protocol=each).ap for each in ("challenge", "slowfast")]
    np.testing.assert_array_equal(*both)


@BOTH
@PROPERTY
@given(truth=st.lists(ROWS, unique=True, max_size=20), iou=st.floats(0.01, 1))
def test_a_perfect_detector_scores_one(protocol, truth, iou):
    truth = as_rows([*truth, (("a", 1.0), (0.0, 0.0, 0.5, 0.5), 9)], np.linspace(0, 1, len(truth) + 1))
    assert frame_map(truth, truth, LABEL_MAP, iou, protocol=protocol).mean_ap == 1


@BOTH
@PROPERTY
@given(case=cases(), data=st.data())
def test_a_lower_scored_false_positive_never_raises_ap(protocol, case, data):
    truth, found = case
    lowest = found.score.min(initial=1) - 1
    # Far from all ground truth; or once more what is there already, after it.
    entry = (data.draw(KEYFRAMES), (0.75, 0.75, 1.0, 1.0), data.draw(st.sampled_from([2, 5, 9])))
    false = as_rows([entry], [lowest])
    if len(found) and data.draw(st.booleans()):
        again = found.select(np.array([data.draw(st.integers(0, len(found) - 1))]))
        false = ActionBoxes(**{**vars(again), "score": np.array([lowest])})
    for iou in IOUS:
        before = frame_map(truth, found, LABEL_MAP, iou, protocol=protocol).ap
        after = frame_map(truth, join(found, false), LABEL_MAP, iou, protocol=protocol).ap
        np.testing.assert_array_less(np.nan_to_num(after), np.nan_to_num(before) + 1e-12)


@PROPERTY
@given(case=cases(ties=True))
def test_a_stricter_iou_never_raises_ap(case):
    matches = match(*case, LABEL_MAP)
    by_iou = [np.nan_to_num(FrameMAP.from_matches(matches, iou).ap) for iou in (0.1, *IOUS, 1.0)]
    for looser, stricter in pairwise(by_iou):
        np.testing.assert_array_less(stricter, looser + 1e-12)
