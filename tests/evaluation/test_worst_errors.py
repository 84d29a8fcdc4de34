"""The list of the worst errors, for detections whose errors are known by hand."""

import numpy as np
import pytest

from vmae_det.evaluation.error_analysis import CAUSES, analyze_errors
from vmae_det.evaluation.worst_errors import KINDS, OUTRANKED, WRONG_CLASS, worst_classes, worst_errors
from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.label_map import LabelMap

LABEL_MAP = LabelMap((2, 5, 9), ("sit", "stand", "talk"), ("", "", ""))
LEFT, RIGHT, SMALL = (0.0, 0.0, 0.4, 0.8), (0.5, 0.0, 0.9, 0.8), (0.5, 0.85, 0.6, 1.0)
NOBODY = (0.42, 0.9, 0.48, 1.0)
LOOSE = (0.0, 0.0, 0.4, 0.3)  # IoU 0.375 with LEFT


def rows(*entries):
    """Convert (video, second, box, action name, score or person) tuples to ActionBoxes."""
    video, time, boxes, names, value = zip(*entries) if entries else ((),) * 5
    return ActionBoxes(
        np.array(["a", "b", "c"], dtype=object),
        np.array(["abc".index(name) for name in video], dtype=np.int32),
        np.array(time, dtype=np.float64),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array([LABEL_MAP.ids[LABEL_MAP.names.index(name)] for name in names], dtype=np.int32),
        np.array(value, dtype=np.float64),
        np.array(value, dtype=np.float64).astype(np.int32),
    )


def listed(truth, found, limit=10, **rules):
    worst = worst_errors(analyze_errors(rows(*truth), rows(*found), LABEL_MAP, **rules), limit)
    return worst, [
        (error.kind, LABEL_MAP.names[error.column], error.score, error.video, error.second, error.person)
        for error in worst.errors
    ]


TRUTH = [
    *[("a", 1, LEFT, "sit", 4), ("a", 1, RIGHT, "stand", 7), ("a", 1, RIGHT, "talk", 7)],
    *[("b", 3, LEFT, "sit", 0), ("b", 3, SMALL, "talk", 1), ("c", 2, LEFT, "stand", 3)],
]
# In "a" the left person is found twice and does not stand, and nobody sits below. In "b" a box is loose, and
# the small person is missed. In "c" the person is found without a row of "stand".
FOUND = [
    *[("a", 1, LEFT, "sit", 0.9), ("a", 1, LEFT, "stand", 0.6), ("a", 1, (0, 0, 0.4, 0.81), "sit", 0.5)],
    *[("a", 1, NOBODY, "sit", 0.7), ("a", 1, RIGHT, "sit", 0.3), ("a", 1, RIGHT, "stand", 0.2)],
    *[("a", 1, RIGHT, "talk", 0.95)],
    *[("b", 3, LOOSE, "sit", 0.8), ("c", 2, LEFT, "talk", 0.05)],
]


def test_every_kind_by_hand():
    worst, errors = listed(TRUTH, FOUND)
    assert errors == [
        ("background", "sit", 0.7, "a", 1, -1),
        ("not detected", "talk", None, "b", 3, 1),
        # "stand" is 0.1 below the wrong "sit", and in "c" it has no score.
        ("outranked", "stand", 0.2, "a", 1, 7),
        ("outranked", "stand", None, "c", 2, 3),
        ("not scored", "stand", None, "c", 2, 3),
        ("confusion", "stand", 0.6, "a", 1, 4),
        ("confusion", "sit", 0.3, "a", 1, 7),
        ("confusion", "talk", 0.05, "c", 2, 3),
        ("loose box", "sit", 0.8, "b", 3, 0),
        ("duplicate", "sit", 0.5, "a", 1, 4),
    ]
    by_kind = {error.kind: error for error in worst.errors}
    background, missed, loose = (by_kind[kind] for kind in ("background", "not detected", "loose box"))
    assert (background.annotated, background.annotated_box, background.detected_box) == ((), None, NOBODY)
    assert (missed.annotated, missed.annotated_box, missed.detected_box) == ((2,), SMALL, None)
    assert (loose.annotated_box, loose.detected_box) == (LEFT, LOOSE)
    assert loose.iou == pytest.approx(0.375)
    # All actions of the person and of the box, the best first.
    outranked = next(error for error in worst.errors if error.kind == OUTRANKED)
    assert outranked.annotated == (1, 2)
    assert outranked.detected == ((2, 0.95), (0, 0.3), (1, 0.2))


def test_a_perfect_detector_has_no_errors():
    worst, errors = listed(TRUTH, [(*row[:4], 0.9) for row in TRUTH])
    assert errors == []
    assert list(worst.counts) == list(KINDS)
    assert not any(counts.any() for counts in worst.counts.values())


def test_without_detections_everybody_is_missed_and_the_largest_first():
    worst, errors = listed(TRUTH, [])
    assert [(name, video, second) for _, name, _, video, second, _ in errors] == [
        *[("sit", "a", 1), ("stand", "a", 1), ("talk", "a", 1), ("sit", "b", 3), ("stand", "c", 2)],
        ("talk", "b", 3),
    ]
    assert worst.counts["not detected"].tolist() == [2, 2, 2]


def test_the_limit_is_per_kind_and_class_and_ties_are_sorted_by_keyframe():
    found = [(video, second, NOBODY, name, score) for video, second, name, score in [
        *[("c", 2, "sit", 0.5), ("b", 3, "sit", 0.5), ("a", 1, "sit", 0.5), ("a", 1, "stand", 0.1)],
        *[("b", 3, "stand", 0.5), ("c", 2, "stand", 0.6)],
    ]]  # fmt: skip
    worst, errors = listed(TRUTH, found, limit=2)
    assert [error[1:5] for error in errors if error[0] == "background"] == [
        ("stand", 0.6, "c", 2),
        *[("sit", 0.5, "a", 1), ("sit", 0.5, "b", 3), ("stand", 0.5, "b", 3)],
    ]
    assert worst.counts["background"].tolist() == [3, 3, 0]
    assert listed(TRUTH, found[::-1], limit=2)[1] == errors


@pytest.mark.parametrize("protocol", ["challenge", "slowfast", "mmaction2"])
def test_counts_are_those_of_the_error_analysis(protocol):
    for seed in range(2):
        rng = np.random.default_rng(seed)
        truth, found = [], []
        for number in range(30):
            corner = rng.uniform(0, 0.6, 2)
            box = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, 2)])
            where = "abc"[number % 3], 1 + number // 6
            truth.append((*where, box, rng.choice(LABEL_MAP.names), number))
            for _ in range(rng.integers(0, 8)):
                near = np.clip(box + rng.normal(0, 0.08, 4), 0, 1)
                found.append((*where, near, rng.choice(LABEL_MAP.names), rng.random()))
        analysis = analyze_errors(rows(*truth), rows(*found), LABEL_MAP, protocol=protocol)
        worst = worst_errors(analysis, 10_000)
        for cause in CAUSES[1:]:
            assert worst.counts[cause].sum() == analysis.counts[cause]
            assert sum(error.kind == cause for error in worst.errors) == analysis.counts[cause]
        confusions = analysis.confusion_matrix.counts[:, : len(LABEL_MAP)]
        wrong = confusions.sum(axis=1) - np.diag(confusions)
        assert worst.counts[OUTRANKED].tolist() == wrong.tolist()


def test_wrong_classes_by_the_probability_of_the_best_wrong_one():
    scores = np.array([
        [0.7, 0.2, 0.1],  # right
        [0.6, 0.3, 0.1],
        [0.8, 0.1, 0.1],
        [0.4, 0.4, 0.2],  # a tie is wrong
        [0.1, 0.2, 0.7],
    ])  # fmt: skip
    labels = np.array([0, 1, 1, 0, 1])
    worst = worst_classes(scores, labels, 2)
    assert [(e.video, e.column, e.score, e.detected[0]) for e in worst.errors] == [
        *[(2, 1, 0.1, (0, 0.8)), (4, 1, 0.2, (2, 0.7)), (3, 0, 0.4, (1, 0.4))],
    ]
    assert worst.counts[WRONG_CLASS].tolist() == [1, 3, 0]
    assert worst_classes(scores[:1], labels[:1], 2).errors == []
