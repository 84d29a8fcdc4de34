"""Track ids across keyframes, and score smoothing along tracks."""

import numpy as np
import pytest

from vmae_det.inference.tracking import ScoreSmoother, Tracker, link, smooth_scores


def box(x, y=0.0, width=30.0, height=80.0):
    return [x, y, x + width, y + height]


def follow(keyframes, step=1.0, scores=None):
    """Return the track ids of each keyframe's boxes."""
    tracker = Tracker()
    return [
        tracker.update(
            np.array(boxes, dtype=np.float32).reshape(-1, 4),
            np.ones(len(boxes)) if scores is None else np.array(scores[k]),
            10 + k * step,
        ).tolist()
        for k, boxes in enumerate(keyframes)
    ]


def test_persons_who_cross():
    """Two persons pass each other between two keyframes: their velocity tells them apart."""
    ids = follow([[box(20 * k), box(170 - 20 * k)] for k in range(9)])
    assert ids == [[1, 2]] * 9


def test_motion_by_more_than_the_width_of_a_box():
    assert follow([[box(45 * k)] for k in range(5)]) == [[1]] * 5


def test_order_of_boxes_does_not_matter():
    ids = follow([[box(0), box(100)], [box(104), box(4)], [box(8), box(108)]])
    assert ids == [[1, 2], [2, 1], [1, 2]]


def test_missed_detections():
    """A walking person is missed once and twice; after the maximum age the person gets a new id."""
    walk = [[box(15 * k)] for k in range(12)]
    walk[3] = walk[6] = walk[7] = []
    assert follow(walk) == [[1]] * 3 + [[]] + [[1]] * 2 + [[], []] + [[1]] * 4
    assert follow([[box(0)], [], [], [], [box(0)]]) == [[1], [], [], [], [2]]


def test_new_person():
    ids = follow([[box(0)], [box(3), box(300)], [box(6), box(303)], [box(303)], [box(9), box(303)]])
    assert ids == [[1], [1, 2], [1, 2], [2], [1, 2]]


def test_one_box_per_track():
    """A false positive next to a person does not take over the track; it gets a new id."""
    ids = follow([[box(0)], [box(1), box(14)], [box(2)]], scores=[[0.9], [0.9, 0.4], [0.9]])
    assert ids == [[1], [1, 2], [1]]
    ids = follow([[box(0)], [box(-5), box(5)]], scores=[[0.9], [0.5, 0.9]])
    assert ids == [[1], [2, 1]], "of two boxes that fit equally well, the one with the higher score"


def test_every_box_gets_an_id():
    ids = follow([[box(0), box(0)], [box(0), box(0)]], scores=[[0.0, 0.0], [0.0, 0.0]])
    assert [sorted(numbers) for numbers in ids] == [[1, 2], [1, 2]]
    assert follow([[], [box(0)]]) == [[], [1]]


@pytest.mark.parametrize("step", [0.04, 0.2, 1.0])
def test_keyframes_of_any_spacing(step):
    """25 keyframes per second to one per second; persons walk at the same speed."""
    frames = [[box(20 * k * step), box(200 - 20 * k * step, y=6)] for k in range(round(8 / step))]
    assert follow(frames, step) == [[1, 2]] * len(frames)


def test_tracks_do_not_depend_on_the_unit_of_boxes():
    rng = np.random.default_rng(0)
    frames = [[box(*rng.uniform(0, 400, 2)) for _ in range(6)] for _ in range(10)]
    small = [[[value / 640 for value in one] for one in boxes] for boxes in frames]
    assert follow(frames) == follow(small) == follow(frames)


def test_link_tracks_of_an_entire_video():
    times = np.repeat(np.arange(5.0), 2)
    boxes = np.array([box(x) for k in range(5) for x in (20 * k, 300 - 20 * k)])
    assert link(times, boxes).tolist() == [1, 2] * 5


# ---------------------------------------------------------------- scores


def test_scores_are_averaged_along_a_track():
    times = np.array([0.0, 0.0, 1.0, 1.0, 2.0, 2.0])
    tracks = np.array([1, 2, 2, 1, 1, 2])
    scores = np.array([[0.8], [0.0], [0.0], [0.2], [0.8], [0.0]], dtype=np.float32)
    smoothed = smooth_scores(tracks, times, scores)
    # A keyframe one second away has half the weight.
    np.testing.assert_allclose(smoothed[:, 0], [0.6, 0, 0, 0.5, 0.6, 0], rtol=1e-6)
    assert smoothed.dtype == np.float32
    np.testing.assert_array_equal(scores[3], np.float32([0.2]), err_msg="the input is not modified")


def test_smoothing_reduces_flicker():
    rng = np.random.default_rng(0)
    times = np.arange(60.0)
    noisy = (0.5 + rng.normal(0, 0.2, (60, 1))).clip(0, 1)
    shown = [values[:, 0] > 0.5 for values in (noisy, smooth_scores(np.ones(60, int), times, noisy))]
    before, after = (int((flags[1:] != flags[:-1]).sum()) for flags in shown)
    assert after < 0.75 * before


def test_smoothing_respects_window_and_look_ahead():
    scores = np.array([[0.0], [0.0], [1.0]])
    times, tracks = np.array([0.0, 1.0, 2.0]), np.ones(3, int)
    assert smooth_scores(tracks, times, scores, window=2.5, look_ahead=0.0)[:2].tolist() == [[0], [0]]
    assert smooth_scores(tracks, times, scores, window=2.5, look_ahead=1.0)[0] == 0
    assert smooth_scores(tracks, times, scores, window=2.5, look_ahead=2.0)[0] > 0
    apart = smooth_scores(tracks[:2], np.array([0.0, 3.0]), scores[1:], window=5.0, look_ahead=1.0)
    assert apart[0] == 0
    assert smooth_scores(tracks, times, scores, window=0.0).tolist() == scores.tolist()
    assert smooth_scores(tracks, times, scores, window=1.0).tolist() == scores.tolist()


def test_keyframes_are_returned_early_and_few_are_buffered():
    smoother, out = ScoreSmoother(window=2.0, look_ahead=1.0), []
    for k in range(100):
        ready = smoother.add(k * 0.5, np.array([1]), np.array([[k / 100]]))
        assert [time for time, _, _ in ready] == ([(k - 2) * 0.5] if k >= 2 else [])
        out += ready
        assert len(smoother._keyframes) <= 8
    out += smoother.flush()
    assert smoother.flush() == []
    all_at_once = smooth_scores(np.ones(100, int), np.arange(100) * 0.5, np.arange(100.0)[:, None] / 100)
    np.testing.assert_allclose([scores[0] for _, _, scores in out], all_at_once)


def test_keyframes_without_persons():
    smoother = ScoreSmoother()
    nobody = np.zeros(0, int), np.zeros((0, 3))
    out = [*smoother.add(0.0, *nobody), *smoother.add(1.0, *nobody), *smoother.flush()]
    assert [(time, scores.shape) for time, _, scores in out] == [(0.0, (0, 3)), (1.0, (0, 3))]
