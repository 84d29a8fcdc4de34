"""Features of clips, their projection to two dimensions, and the written files."""

import csv
import sys

import numpy as np
import pytest
import torch

from vmae_det.data.loader import build_dataset, collate
from vmae_det.engine.weights import build_model_with_weights
from vmae_det.modeling.features import pooled_features
from vmae_det.utils.errors import ConfigError, UserError
from vmae_det.visualization.embedding import (
    ClipFeatures,
    choose_clips,
    clip_features,
    draw_embedding,
    neighbor_accuracy,
    project,
    write_points,
)


def blobs(classes=3, each=12, width=20):
    """Return features of well separated classes, and labels."""
    rng = torch.Generator().manual_seed(0)
    centers = 20 * torch.randn(classes, width, generator=rng)
    labels = np.arange(classes).repeat(each)
    return centers[labels] + torch.randn(classes * each, width, generator=rng), labels


def test_features_are_the_input_of_the_head(tiny_cfg):
    cfg = tiny_cfg("finetune")
    clips = clip_features(cfg, limit=8)
    assert clips.features.shape == (8, 24)
    model = build_model_with_weights(cfg).eval()
    cfg.TEST.NUM_CLIPS = cfg.TEST.NUM_CROPS = 1
    dataset = build_dataset(cfg, "classification", cfg.DATASETS.TEST[0], training=False)
    index = [str(file) for file in dataset.files].index(clips.videos[3])
    assert clips.labels[3] == dataset.labels[index]
    batch = collate([dataset[0, index]])
    scores = model(batch)["scores"]
    with torch.no_grad():
        torch.testing.assert_close(model.head(clips.features[3:4]).softmax(1), scores)
    assert clips.name(0) == "stand"


def test_any_model_with_a_backbone(tiny_cfg, mini_ava):
    dataset = str(mini_ava / "clips_val.yaml")
    assert clip_features(tiny_cfg("pretrain"), dataset, limit=7).features.shape == (7, 24)
    video = torch.zeros(1, 3, 4, 64, 64, dtype=torch.uint8)
    model = build_model_with_weights(tiny_cfg("pretrain")).eval()
    expected = model.backbone(model.normalization(video)).mean(1)
    torch.testing.assert_close(pooled_features(model, video), expected)
    with pytest.raises(ConfigError, match=r"DATASETS.TEST: is empty"):
        clip_features(tiny_cfg("pretrain"))


def test_clips_of_the_largest_classes_are_evenly_spaced():
    labels = np.array([0] * 5 + [1] * 50 + [2] * 50 + [3])
    assert set(labels[choose_clips(labels, 2, 1000)]) == {1, 2}
    chosen = labels[choose_clips(labels, 2, 10)]
    assert (chosen == 1).sum() == (chosen == 2).sum() == 5
    assert len(choose_clips(labels, 9, 1000)) == len(labels)


def test_principal_components_match_numpy():
    features, _ = blobs()
    points = project(features, "pca")
    centered = features.double().numpy() - features.double().numpy().mean(0)
    _, vectors = np.linalg.eigh(centered.T @ centered)
    np.testing.assert_allclose(np.abs(points), np.abs(centered @ vectors[:, [-1, -2]]), rtol=1e-6, atol=1e-6)


def test_tsne_keeps_classes_together():
    pytest.importorskip("sklearn", reason="requires scikit-learn")
    features, labels = blobs()
    points = project(features, "tsne", seed=1)
    assert neighbor_accuracy(torch.from_numpy(points), labels) == 1


def test_missing_scikit_learn_raises_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(UserError, match=r'scikit-learn, .* pip install "vmae_det\[plots\]"'):
        project(blobs()[0])
    assert project(blobs()[0], "pca").shape == (36, 2)


def test_neighbor_accuracy_of_blobs_and_of_random_labels():
    features, labels = blobs()
    assert neighbor_accuracy(features, labels) == 1
    assert neighbor_accuracy(features, np.random.default_rng(0).permutation(labels)) < 0.7
    # The only clip of a class has no neighbor with its label, and is not its own neighbor.
    labels[0] = 9
    assert neighbor_accuracy(features, labels) == pytest.approx(35 / 36)


def test_the_table_and_the_figure_contain_every_clip(tmp_path):
    pytest.importorskip("matplotlib", reason="requires matplotlib")
    features, labels = blobs(each=4)
    names = {0: "run", 1: 'say "a, b"'}
    clips = ClipFeatures(features, tuple(f"{number}.mp4" for number in range(12)), labels, names)
    points = project(features, "pca")
    with write_points(tmp_path / "out" / "map.csv", clips, points).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["video"] for row in rows] == list(clips.videos)
    assert rows[4]["name"] == 'say "a, b"'
    assert rows[8]["name"] == "class 2"
    assert float(rows[5]["y"]) == pytest.approx(points[5, 1], rel=1e-4)
    figure = draw_embedding(clips, points, "title")
    assert sum(len(dots.get_offsets()) for dots in figure.axes[0].collections) == 12
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["run  (4)", 'say "a, b"  (4)', "class 2  (4)"]
