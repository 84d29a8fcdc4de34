"""Error analysis and comparison of detections with planted errors."""

import numpy as np
import pytest

from vmae_det.evaluation.comparison import compare
from vmae_det.evaluation.error_analysis import CAUSES, analyze_errors
from vmae_det.evaluation.frame_map import frame_map
from vmae_det.evaluation.matching import match
from vmae_det.evaluation.report import calibrate
from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.label_map import LabelMap

LABEL_MAP = LabelMap((2, 5, 9), ("sit", "stand", "talk"), ("", "", ""))
VIDEOS = np.array(["a", "b", "c"], dtype=object)
LEFT, RIGHT, NOBODY = (0.0, 0.0, 0.4, 0.8), (0.5, 0.0, 0.9, 0.8), (0.42, 0.9, 0.48, 1.0)
LOOSE = (0.0, 0.0, 0.4, 0.3)  # IoU 0.375 with LEFT


def rows(*entries):
    """Convert (video, second, box, action, score) tuples to ActionBoxes."""
    video, time, boxes, action, score = zip(*entries)
    return ActionBoxes(
        VIDEOS,
        np.array(["abc".index(name) for name in video], dtype=np.int32),
        np.array(time, dtype=np.float64),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(action, dtype=np.int32),
        np.array(score, dtype=np.float64),
        np.full(len(video), -1, dtype=np.int32),
    )


TRUTH = [("a", 1, LEFT, 2, 1), ("a", 1, RIGHT, 5, 1), ("b", 1, LEFT, 2, 1), ("b", 1, LEFT, 9, 1)]
PERFECT = [(video, time, box, action, 0.9) for video, time, box, action, _ in TRUTH]


def analysis(found, truth=TRUTH, **rules):
    return analyze_errors(rows(*truth), rows(*found), LABEL_MAP, **rules)


def test_a_perfect_detector_loses_nothing():
    perfect = analysis(PERFECT)
    assert perfect.costs.tolist() == [0] * len(CAUSES)
    assert not any(perfect.counts.values())
    assert perfect.ceiling == 1
    assert perfect.worst_confusions() == []


@pytest.mark.parametrize(
    ("cause", "found", "price"),
    [
        # A false positive ranked first halves the precision of the only "stand", or of both "sit".
        ("confusion", [*PERFECT, ("a", 1, LEFT, 5, 0.95)], 0.5 / 3),
        ("background", [*PERFECT, ("a", 1, NOBODY, 5, 0.95)], 0.5 / 3),
        ("duplicate", [*PERFECT, ("a", 1, RIGHT, 5, 0.95), ("a", 1, RIGHT, 5, 0.94)], 0.0),
        ("duplicate", [("a", 1, LEFT, 2, 0.99), ("a", 1, LEFT, 2, 0.98), *PERFECT[1:]], (1 - 5 / 6) / 3),
        ("loose box", [("a", 1, LOOSE, 2, 0.99), ("a", 1, LEFT, 5, 0.1), *PERFECT[1:]], (1 - 1 / 4) / 3),
        ("not scored", [("a", 1, LEFT, 9, 0.1), *PERFECT[1:]], 0.5 / 3),
        ("not detected", PERFECT[1:], 0.5 / 3),
    ],
)
def test_cost_of_a_planted_error(cause, found, price):
    result = analysis(found)
    others = [other for other in CAUSES if result.counts[other] and other != cause]
    assert result.counts[cause] > 0
    assert others in ([], ["confusion"])  # a false positive on the person with a low score costs nothing
    assert result.costs[CAUSES.index(cause)] == pytest.approx(price)
    assert result.alone[CAUSES.index(cause)] == pytest.approx(price)
    assert result.costs.sum() == pytest.approx(1 - frame_map(rows(*TRUTH), rows(*found), LABEL_MAP).mean_ap)


def test_cost_of_the_cap():
    crowd = [("a", 1, (0, 0, 0.01 * (n + 1), 1), 2, 0.95) for n in range(20, 70)]
    result = analysis([*crowd, *PERFECT], [*TRUTH, ("a", 1, crowd[0][2], 2, 1)])
    assert result.counts["cap"] == 2  # the rows of keyframe "a" beyond the cap
    assert result.costs[0] == pytest.approx(1 / 3 + (result.ap[0, 1] - result.ap[0, 0]) / 3)
    assert analysis([*crowd, *PERFECT], protocol="slowfast").counts["cap"] == 0


def test_costs_add_up_for_random_errors():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth, found = [], []
        for number in range(40):
            video, second = "abc"[number % 3], 1 + number // 6
            corner = rng.uniform(0, 0.6, 2)
            box = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, 2)])
            truth.append((video, second, box, rng.choice([2, 5, 9]), 1))
            for _ in range(rng.integers(0, 30)):
                near = np.clip(box + rng.normal(0, 0.08, 4), 0, 1)
                found.append((video, second + rng.integers(0, 2), near, rng.choice([2, 5, 9]), rng.random()))
        for protocol in ("challenge", "slowfast", "mmaction2"):
            result = analysis(found, truth, protocol=protocol)
            lost = 1 - frame_map(rows(*truth), rows(*found), LABEL_MAP, protocol=protocol).mean_ap
            assert result.costs.sum() == pytest.approx(lost)
            assert (result.costs[1:] > -1e-12).all()
            assert (result.alone > -1e-12)[1:].all()
            assert result.confusion.sum() == pytest.approx(result.costs[1])
            assert np.allclose(result.ap[:, -1], 1)
            assert result.ceiling <= 1


def test_confusions_name_the_detected_and_the_performed_action():
    worst = analysis([*PERFECT, ("b", 1, LEFT, 5, 0.95)]).worst_confusions()
    # The person in "b" sits and talks, so each action gets half of the cost.
    assert [(row["claimed"], row["does"]) for row in worst] == [("stand", "sit"), ("stand", "talk")]
    assert [row["price"] for row in worst] == pytest.approx([0.25 / 3, 0.25 / 3])


def test_confusion_matrix_ignores_boxes_below_the_iou_threshold():
    found = [
        *[("a", 1, LOOSE, 5, 0.99), ("a", 1, LEFT, 2, 0.5), ("a", 1, NOBODY, 9, 0.9)],
        *[("b", 1, LEFT, 2, 0.4), ("b", 1, LEFT, 5, 0.6)],
    ]
    matrix = analysis(found).confusion_matrix
    assert matrix.columns == ["sit", "stand", "talk", "not scored", "not detected"]
    assert matrix.counts.tolist() == [[1, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 1, 0, 0, 0]]


def test_ceiling_of_the_person_boxes():
    # No box reaches the person of one of the four rows. Recall is 1/2 for sit, and 1 for stand and talk.
    assert analysis([*PERFECT[1:], ("b", 1, LEFT, 5, 0.2)]).ceiling == pytest.approx((0.5 + 1 + 1) / 3)


def matches(found):
    return match(rows(*TRUTH), rows(*found), LABEL_MAP)


def test_comparison_with_itself():
    result = compare(matches(PERFECT), matches(PERFECT))
    assert result.mean_interval.tolist() == [0, 0]
    assert (result.gain == 0).all()


def test_comparison_with_a_worse_run():
    truth, good, bad = [], [], []
    for second in range(30):
        for video in "abc":
            truth.append((video, second, LEFT, 2, 1))
            good.append((video, second, LEFT, 2, 0.5))
            if second % 3 or video == "a":  # the base run misses a third of two of three videos
                bad.append((video, second, LEFT, 2, 0.5))
    base, run = (match(rows(*truth), rows(*found), LABEL_MAP) for found in (bad, good))
    result = compare(base, run)
    assert result.gain[0] == pytest.approx(2 / 9)
    low, high = result.mean_interval
    assert low == 0  # only "a" is drawn in 1 of 27 resamples, more than 2.5 %
    assert high == pytest.approx(1 / 3)
    assert np.isnan(result.gain[1:]).all()
    assert "+22.22 points" in result.summary()
    assert [row["name"] for row in result.to_json()["classes"]] == ["sit"]


def test_no_interval_for_one_video_and_a_note_for_few():
    truth = [("a", second, LEFT, 2, 1) for second in range(4)]
    found = [("a", second, LEFT, 2, 0.5) for second in range(4)]
    result = compare(*(match(rows(*truth), rows(*part), LABEL_MAP) for part in (found[:2], found)))
    assert result.summary() == "+50.00 points compared to the base, no interval with only one video"
    assert result.to_json()["interval"] is None
    assert result.to_json()["classes"][0]["interval"] is None
    assert "over 2 videos, too few to be reliable" in compare(matches(PERFECT), matches(PERFECT)).summary()


def test_calibration():
    score = np.array([0.05, 0.05, 0.65, 0.65, 0.65, 0.65, 1.0])
    hit = np.array([False, False, True, True, False, False, True])
    result = calibrate(score, hit)
    assert result.count.tolist() == [2, 0, 0, 0, 0, 0, 4, 0, 0, 1]
    assert result.precision[[0, 6, 9]].tolist() == [0, 0.5, 1]
    assert result.error == pytest.approx((2 * 0.05 + 4 * 0.15 + 0) / 7)
    assert calibrate(score * 2, hit) is None
