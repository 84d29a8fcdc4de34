import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vmae_det.evaluation import EVALUATOR_REGISTRY, TopKEvaluator, top_k_accuracy
from vmae_det.utils.errors import DataError

SPEC = SimpleNamespace(name="val", annotations="val.csv", videos="videos")


def test_top_k_by_hand():
    scores = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.4, 0.1, 0.5]])
    assert top_k_accuracy(scores, np.array([0, 2, 1]), ks=(1, 2, 3)) == pytest.approx(
        {"top1": 100 / 3, "top2": 200 / 3, "top3": 100}
    )


def test_equal_scores_are_never_correct():
    assert top_k_accuracy(np.full((4, 10), 0.1), np.arange(4), ks=(1, 5)) == {"top1": 0.0, "top5": 0.0}


def batches(views, seed=0):
    """Yield batches of 6 videos with `views` views each, in random order."""
    rng = np.random.default_rng(seed)
    index = rng.permutation(6 * views)
    scores = np.random.default_rng(1).random((6 * views, 8), dtype=np.float32)
    labels = np.arange(6) % 8
    for part in np.array_split(index, 4):
        video = part // views
        batch = {
            "index": torch.tensor(part),
            "video_index": torch.tensor(video),
            "label": torch.tensor(labels[video]),
        }
        yield batch, {"scores": torch.tensor(scores[part])}


def test_views_are_averaged_independent_of_order_and_repetition(tmp_path):
    results = []
    for seed in (0, 1):
        evaluator = TopKEvaluator(None, SPEC)
        parts = list(batches(views=3, seed=seed))
        for batch, predictions in [*parts, parts[0]]:
            evaluator.process(batch, predictions)
        results.append(evaluator.evaluate())
    assert results[0] == results[1]
    mean = np.random.default_rng(1).random((18, 8), dtype=np.float32).reshape(6, 3, 8).mean(axis=1)
    expected = 100 * (mean.argmax(axis=1) == np.arange(6)).mean()
    assert results[0]["top1"] == pytest.approx(expected)

    evaluator.write(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == results[1]
    with np.load(tmp_path / "out" / "scores.npz") as saved:
        np.testing.assert_allclose(saved["scores"], mean, rtol=1e-6)


def test_single_view_needs_no_video_index():
    evaluator = TopKEvaluator(None, SPEC)
    batch = {"index": torch.arange(3), "label": torch.tensor([0, 1, 2])}
    evaluator.process(batch, {"scores": torch.eye(3, 6, dtype=torch.bfloat16)})
    assert evaluator.evaluate() == {"top1": 100.0, "top5": 100.0}
    evaluator.reset()
    with pytest.raises(DataError, match="no video was classified"):
        evaluator.evaluate()


def test_reconstruction_loss_is_the_mean_over_distinct_clips():
    evaluator = EVALUATOR_REGISTRY.get("pretraining")(None, SPEC)
    evaluator.process({"index": torch.tensor([0, 1])}, {"loss": torch.tensor([1.0, 2.0])})
    evaluator.process({"index": torch.tensor([2, 1])}, {"loss": torch.tensor([6.0, 2.0])})
    assert evaluator.evaluate() == {"reconstruction_loss": 3.0}
