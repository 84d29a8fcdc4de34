import numpy as np
import pytest
from frame_map_cases import VIDEOS, overlap, random_case, rows

from vmae_det.data.person_boxes import PersonBoxes
from vmae_det.evaluation.person_boxes import SCORE_THRESHOLDS, evaluate_person_boxes
from vmae_det.utils.errors import DataError

LEFT, RIGHT, FAR = (0.0, 0.0, 0.4, 1.0), (0.5, 0.0, 0.9, 1.0), (0.0, 0.0, 0.1, 0.1)


def persons(entries):
    """(video, time, box, score) tuples as columns."""
    video, time, boxes, score = zip(*entries) if entries else ((), (), (), ())
    index = np.array(["ab".index(name) for name in video], dtype=np.int32)
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return PersonBoxes(VIDEOS, index, np.array(time, np.float64), boxes, np.array(score, np.float64))


def evaluate(truth, found, excluded=None):
    return evaluate_person_boxes(truth, found, excluded, progress=False)


def test_a_person_counts_once_whatever_the_number_of_its_actions():
    truth = rows([("a", 902, LEFT, action, 1) for action in (2, 5, 77)] + [("a", 902, RIGHT, 2, 1)])
    found = [("a", 902, LEFT, 0.9), ("a", 902, FAR, 0.7), ("b", 902, LEFT, 1.0)]
    result = evaluate(truth, persons(found))
    assert (result.num_keyframes, result.num_persons, result.num_boxes, result.num_scored) == (1, 2, 3, 2)
    assert result.recall50 == result.ar == 0.5
    # COCO takes precision at 101 recalls: 1 up to a recall of 0.5, 0 beyond.
    assert result.ap == result.ap50 == result.ap75 == pytest.approx(51 / 101)
    at = {row.score: (row.num_boxes, row.precision, row.recall) for row in result.at_scores}
    assert at == {score: (2, 0.5, 0.5) if score <= 0.7 else (1, 1, 0.5) for score in SCORE_THRESHOLDS} | {
        0.95: (0, 0, 0)
    }


def test_precision_and_recall_fall_with_the_iou_that_is_asked_for():
    truth = rows([("a", 902, LEFT, 2, 1)])
    # An IoU of 0.64, which reaches three of the ten thresholds.
    result = evaluate(truth, persons([("a", 902, (0.0, 0.0, 0.4, 0.64), 0.9)]))
    assert (result.ap50, result.ap75, result.recall50) == (pytest.approx(1), 0, 1)
    assert (result.ap, result.ar) == (pytest.approx(0.3), pytest.approx(0.3))


def test_a_perfect_detector_and_an_empty_one():
    truth, _ = random_case(3)
    named = ~np.isnan(truth.boxes[:, 0])
    boxes, first = np.unique(truth.boxes[named], axis=0, return_index=True)
    entries = zip(np.array(["a", "b"])[truth.video[first]], truth.timestamp[first], boxes, [0.5] * len(boxes))
    result = evaluate(truth, persons(list(entries)))
    assert (result.ap, result.ar, result.num_persons) == (pytest.approx(1), 1, len(boxes))
    nothing = evaluate(truth, persons([]))
    assert (nothing.ap, nothing.ar, nothing.recall50) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_recall_and_precision_at_a_score_agree_with_the_plain_definition(seed):
    truth, found = random_case(seed, keyframes=20)
    found = found.select(np.arange(0, len(found), 4))
    keyframes = [("ab"[v], t) for v, t in zip(found.video, found.timestamp)]
    entries = [(*key, box, score) for key, box, score in zip(keyframes, found.boxes, found.score)]
    result = evaluate(truth, persons(entries), excluded={("a", 903.0)})
    people = {("ab"[v], t, tuple(b)) for v, t, b in zip(truth.video, truth.timestamp, truth.boxes)}
    people = {person for person in people if person[:2] != ("a", 903.0)}
    named = {person[:2] for person in people}
    assert result.num_persons == len(people)
    free, ranked = set(people), []
    for video, time, box, score in sorted(entries, key=lambda entry: -entry[3]):
        if (video, time) in named:
            near = [(overlap(box, other[2]), other) for other in free if other[:2] == (video, time)]
            best = max(near, default=(0, None))
            ranked.append((score, best[0] >= 0.5))
            free -= {best[1]} if best[0] >= 0.5 else set()
    for row in result.at_scores:
        hits = [hit for score, hit in ranked if score >= row.score]
        assert row.num_boxes == len(hits)
        assert row.recall == pytest.approx(sum(hits) / len(people))
        assert row.precision == pytest.approx(sum(hits) / max(len(hits), 1))
    assert result.recall50 == result.at_scores[0].recall
    assert "persons in" in result.table()


def test_what_cannot_be_scored_is_said(capsys):
    truth = rows([("a", 902, LEFT, 2, 1)])
    with pytest.raises(DataError, match="no row of the ground truth counts"):
        evaluate(truth, persons([]), excluded={("a", 902.0)})
    assert "compare video ids and timestamps" in evaluate(truth, persons([("b", 1, LEFT, 1)])).table()
    assert capsys.readouterr().out == ""
