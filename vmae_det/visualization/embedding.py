"""Plots the features of labeled clips in two dimensions."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from vmae_det.config import CfgNode
from vmae_det.data.loader import build_dataset, build_test_loader
from vmae_det.engine.setup import setup_device
from vmae_det.engine.trainer import AMP_TYPES, to_device
from vmae_det.engine.weights import build_model_with_weights
from vmae_det.formats.label_map import LabelMap
from vmae_det.modeling import VideoClassifier
from vmae_det.modeling.features import pooled_features
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.utils.output_files import atomic_write
from vmae_det.visualization.matplotlib_figures import COLORS, escape_text, new_figure, not_installed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

NEIGHBORS = 5
_COMPONENTS = 50  # principal components as input of t-SNE, as in van der Maaten and Hinton (2008)
_PERPLEXITY = 30.0
_MARKERS = "osD^vP*X"  # of classes with the same color
_CLASSIFICATION = VideoClassifier.task


@dataclass(frozen=True)
class ClipFeatures:
    """Features of R clips.

    Attributes:
        features: (R, C).
        videos: paths of the videos.
        labels: (R,) integers.
        names: class names by label.
    """

    features: torch.Tensor
    videos: tuple[str, ...]
    labels: np.ndarray
    names: dict[int, str]

    def name(self, label: int) -> str:
        """Return the class name of a label."""
        return self.names.get(label, f"class {label}")


class _ClipSubset(torch.utils.data.Dataset):
    """Clips of a test set at some indices."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices
        self.num_files = dataset.num_files

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int]) -> list[dict[str, Any]]:
        epoch, index = key
        return self.dataset[epoch, int(self.indices[index])]

    def path_of(self, index: int) -> Path:
        return self.dataset.path_of(int(self.indices[index]))


@torch.no_grad()
def clip_features(cfg: CfgNode, dataset: str = "", classes: int = 20, limit: int = 1000) -> ClipFeatures:
    """Return the pooled features of the middle clip of labeled videos, as of `pooled_features`.

    Args:
        cfg: config of any model with a backbone; MODEL.WEIGHTS names its weights.
        dataset: name of a dataset of type classification (default: the first of DATASETS.TEST).
        classes: maximum number of classes; the largest ones are used.
        limit: maximum number of clips, evenly spaced over those of the classes.

    Raises:
        ConfigError: there is no dataset.
        DataError: too few videos can be read.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.NUM_CLIPS = cfg.TEST.NUM_CROPS = 1
    name = dataset or next(iter(cfg.DATASETS.TEST), "")
    if not name:
        raise ConfigError(
            "DATASETS.TEST: is empty; set it, or use --dataset with a dataset of type classification"
        )
    videos = build_dataset(cfg, _CLASSIFICATION, name, training=False)
    indices = choose_clips(videos.labels, classes, limit)
    device = setup_device(cfg)
    model = build_model_with_weights(cfg).to(device).eval()
    amp = AMP_TYPES[cfg.SOLVER.AMP]
    features, read = [], []
    with tqdm(total=len(indices), desc="features", unit="clip", disable=None, leave=False) as bar:
        for batches in build_test_loader(cfg, _ClipSubset(videos, indices)):
            for batch in batches:
                with torch.autocast(device.type, amp, enabled=amp is not None):
                    rows = pooled_features(model, to_device(batch, device)["video"])
                features.append(rows.float().cpu())
                read += batch["video_index"].tolist()
                bar.update(len(rows))
    if len(read) <= NEIGHBORS:
        raise DataError(f"expected more than {NEIGHBORS} readable videos, got {len(read)}", name)
    names = dict(enumerate(LabelMap.from_file(videos.spec.label_map).names)) if videos.spec.label_map else {}
    paths = tuple(str(videos.files[index]) for index in read)
    return ClipFeatures(torch.cat(features), paths, videos.labels[read], names)


def choose_clips(labels: np.ndarray, classes: int, limit: int) -> np.ndarray:
    """Return indices of clips of the largest classes; at most `limit`, evenly spaced."""
    known, counts = np.unique(labels, return_counts=True)
    largest = known[np.argsort(-counts, kind="stable")[:classes]]
    indices = np.flatnonzero(np.isin(labels, largest))
    return indices[np.linspace(0, len(indices) - 1, min(limit, len(indices))).round().astype(int)]


def project(features: torch.Tensor, method: str = "tsne", seed: int = 0) -> np.ndarray:
    """Project features (R, C) to points (R, 2).

    Args:
        features: the features.
        method: "pca" for the first two principal components, "tsne" for t-SNE of the first 50.
        seed: random seed of t-SNE.

    Raises:
        UserError: the method is "tsne" and scikit-learn is not installed.
    """
    centered = features.double() - features.double().mean(dim=0)
    left, values, right = torch.linalg.svd(centered, full_matrices=False)
    # The sign of a component is arbitrary. Fix it, so that results do not depend on the machine.
    signs = right.gather(1, right.abs().argmax(dim=1, keepdim=True)).sign()[:, 0]
    components = (left * values * signs).numpy()
    if method == "pca":
        return np.pad(components[:, :2], ((0, 0), (0, max(0, 2 - components.shape[1]))))
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise not_installed("scikit-learn") from None
    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return tsne.fit_transform(components[:, :_COMPONENTS]).astype(np.float64)


def neighbor_accuracy(features: torch.Tensor, labels: np.ndarray, k: int = NEIGHBORS) -> float:
    """Return the accuracy of a k-nearest-neighbor classifier; a clip is not its own neighbor.

    Uses the cosine similarity of mean-centered features. Ties go to the label of the nearest clip.
    """
    unit = torch.nn.functional.normalize(features.double() - features.double().mean(dim=0), dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)
    near = labels[similarity.topk(k, dim=1).indices.numpy()]  # R, k; nearest first
    votes = (near[:, :, None] == near[:, None, :]).sum(axis=2)
    return float((near[np.arange(len(near)), votes.argmax(axis=1)] == labels).mean())


def draw_embedding(clips: ClipFeatures, points: np.ndarray, title: str) -> Figure:
    """Draw a marker per clip, with the color and shape of its class.

    Raises:
        UserError: matplotlib is not installed.
    """
    figure = new_figure(10, 7)
    axes = figure.subplots()
    axes.set_title(escape_text(title), fontsize=12)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#c8c8c8")
    handles, labels = [], []
    for number, label in enumerate(np.unique(clips.labels).tolist()):
        rows = points[clips.labels == label]
        marker = _MARKERS[number // len(COLORS) % len(_MARKERS)]
        handles.append(
            axes.scatter(
                *rows.T, s=44, c=COLORS[number % len(COLORS)], marker=marker, alpha=0.8, edgecolors="white",
                linewidths=0.5,
            )
        )  # fmt: skip
        labels.append(escape_text(f"{clips.name(label)}  ({len(rows)})"))
    legend = {"frameon": False, "fontsize": 10, "title": "class (clips)"}
    figure.legend(handles, labels, loc="outside right upper", **legend)
    return figure


def write_points(path: Path, clips: ClipFeatures, points: np.ndarray) -> Path:
    """Write a CSV with a row per clip: video, label, name, x, y; return the path."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "label", "name", "x", "y"])
        for video, label, (x, y) in zip(clips.videos, clips.labels.tolist(), points.tolist()):
            writer.writerow([video, label, clips.name(label), f"{x:.6g}", f"{y:.6g}"])
    return path
