"""kNN accuracy of features against loops, with and without a bank."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from vmae_det.config import get_cfg
from vmae_det.evaluation import knn
from vmae_det.evaluation.knn import KNNEvaluator, knn_scores
from vmae_det.utils.errors import DataError


def scores_by_loops(features, bank, labels, k, num_classes, leave_out):
    def cosine(a, b):
        return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))

    scores = np.zeros((len(features), num_classes))
    for row, feature in enumerate(features):
        votes = [
            (cosine(feature, other), labels[column])
            for column, other in enumerate(bank)
            if not (leave_out and row == column)
        ]
        for similarity, label in sorted(votes, reverse=True)[:k]:
            scores[row, label] += math.exp(similarity / 0.07)
    return scores


@pytest.mark.parametrize("k", [1, 3, 100])
@pytest.mark.parametrize("block", [1, 50, 2**24])
def test_scores_are_those_of_loops(monkeypatch, k, block):
    monkeypatch.setattr(knn, "_BLOCK", block)
    rng = np.random.default_rng(0)
    features, bank = rng.normal(size=(2, 12, 4)) + 0.5
    labels = rng.integers(3, size=12)
    found = knn_scores(features, bank, labels, k=k, num_classes=3)
    np.testing.assert_allclose(found, scores_by_loops(features, bank, labels, k, 3, False), rtol=1e-9)
    found = knn_scores(features, None, labels, k=k, num_classes=3)
    np.testing.assert_allclose(found, scores_by_loops(features, features, labels, k, 3, True), rtol=1e-9)


def make_evaluator(bank, k=1):
    cfg = get_cfg()
    cfg.TEST.KNN, cfg.TEST.KNN_BANK = k, bank
    return KNNEvaluator(cfg, SimpleNamespace(name="clips"))


class Tensor:
    """Features as the evaluator expects them from a model."""

    def __init__(self, values):
        self.values = np.array(values, dtype=np.float32)

    detach = float = cpu = lambda self: self

    def numpy(self):
        return self.values


def process(evaluator, index, label, in_bank, angle):
    radians = np.radians(angle)
    features = Tensor(np.stack([np.cos(radians), np.sin(radians)], axis=1))
    evaluator.process({"index": index, "label": label, "in_bank": in_bank}, {"features": features})


def test_a_test_clip_gets_the_class_of_its_neighbor_in_the_bank(tmp_path):
    evaluator = make_evaluator("bank")
    # Test clips at 0, 90 and 180 degrees; the nearest of the bank have the labels 7, 9 and 9.
    process(evaluator, [0, 1, 2], [7, 9, 7], [False] * 3, [0, 90, 180])
    process(evaluator, [3, 4], [7, 9], [True] * 2, [10, 110])
    process(evaluator, [2, 3], [7, 7], [False, True], [180, 10])  # a second time
    assert evaluator.evaluate() == {"knn_top1": pytest.approx(200 / 3), "knn_top5": 100.0}
    evaluator.write(tmp_path)
    assert "knn_top1" in (tmp_path / "metrics.json").read_text()


def test_without_a_bank_the_neighbors_are_the_other_test_clips():
    evaluator = make_evaluator("")
    process(evaluator, [0, 1, 2, 3], [0, 0, 1, 0], [False] * 4, [0, 5, 100, 95])
    assert evaluator.evaluate()["knn_top1"] == 50  # the clips at 95 and 100 degrees are neighbors
    evaluator.reset()
    with pytest.raises(DataError, match="no video could be read"):
        evaluator.evaluate()
    process(evaluator, [0], [0], [False], [0])
    with pytest.raises(DataError, match="too few videos"):
        evaluator.evaluate()
