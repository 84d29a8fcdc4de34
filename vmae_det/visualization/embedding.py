"""A map of labelled clips: features of a backbone, in two dimensions."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from vmae_det.config import CfgNode
from vmae_det.data.loader import build_dataset, build_test_loader
from vmae_det.engine.setup import build_model_with_weights, choose_device
from vmae_det.engine.trainer import AMP_TYPES, to_device
from vmae_det.formats.label_map import LabelMap
from vmae_det.modeling import VideoClassifier
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.utils.output_files import atomic_write
from vmae_det.visualization.figures import COLOURS, missing, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

NEIGHBOURS = 5
_COMPONENTS = 50  # that t-SNE begins with, as its authors advise (van der Maaten and Hinton, 2008)
_PERPLEXITY = 30.0
_MARKERS = "osD^vP*X"  # of classes that share a colour
_CLASSIFICATION = VideoClassifier.task


@dataclass(frozen=True)
class ClipFeatures:
    """Features (R, C) of R clips, with the video and the label of each, and names by label."""

    features: torch.Tensor
    videos: tuple[str, ...]
    labels: np.ndarray
    names: dict[int, str]

    def name(self, label: int) -> str:
        """What a label is called."""
        return self.names.get(label, f"class {label}")


class _Chosen(torch.utils.data.Dataset):
    """Some clips of a test set, with the path of each."""

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
    """The clip in the middle of labelled videos, as the mean of a backbone's tokens.

    A classifier's go through its norm before the head.

    Args:
        cfg: of any model with a backbone; MODEL.WEIGHTS names its weights.
        dataset: of type classification; without a name, that of DATASETS.TEST.
        classes: the largest ones are taken, so many at most.
        limit: of clips, spread evenly over those of the classes.

    Raises:
        ConfigError: there is no dataset.
        DataError: too few videos can be read.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.NUM_CLIPS = cfg.TEST.NUM_CROPS = 1
    name = dataset or next(iter(cfg.DATASETS.TEST), "")
    if not name:
        raise ConfigError("DATASETS.TEST: names no dataset; give one of type classification by --dataset")
    videos = build_dataset(cfg, _CLASSIFICATION, name, training=False)
    indices = choose_clips(videos.labels, classes, limit)
    device = choose_device(cfg)
    model = build_model_with_weights(cfg).to(device).eval()
    amp = AMP_TYPES[cfg.SOLVER.AMP]
    features, found = [], []
    with tqdm(total=len(indices), desc="features", unit="clip", disable=None, leave=False) as bar:
        for batches in build_test_loader(cfg, _Chosen(videos, indices)):
            for batch in batches:
                with torch.autocast(device.type, amp, enabled=amp is not None):
                    rows = pooled_features(model, to_device(batch, device)["video"])
                features.append(rows.float().cpu())
                found += batch["video_index"].tolist()
                bar.update(len(rows))
    if len(found) <= NEIGHBOURS:
        raise DataError(f"a map needs more than {NEIGHBOURS} videos that can be read, got {len(found)}", name)
    names = dict(enumerate(LabelMap.from_file(videos.spec.label_map).names)) if videos.spec.label_map else {}
    paths = tuple(str(videos.files[index]) for index in found)
    return ClipFeatures(torch.cat(features), paths, videos.labels[found], names)


def choose_clips(labels: np.ndarray, classes: int, limit: int) -> np.ndarray:
    """Indices of clips of the largest classes, spread evenly over what is more than `limit`."""
    known, counts = np.unique(labels, return_counts=True)
    largest = known[np.argsort(-counts, kind="stable")[:classes]]
    indices = np.flatnonzero(np.isin(labels, largest))
    return indices[np.linspace(0, len(indices) - 1, min(limit, len(indices))).round().astype(int)]


def pooled_features(model: nn.Module, video: torch.Tensor) -> torch.Tensor:
    """The mean of the tokens (B, C) of a video, uint8 (B, 3, T, H, W); a classifier's after its norm."""
    tokens = model.backbone(model.normalization(video)).mean(dim=1)
    return model.fc_norm(tokens) if isinstance(model, VideoClassifier) else tokens


def place(features: torch.Tensor, method: str = "tsne", seed: int = 0) -> np.ndarray:
    """Features (R, C) as places (R, 2): principal components, or t-SNE of the first 50 of them.

    Raises:
        UserError: t-SNE is asked for and scikit-learn is not installed.
    """
    centred = features.double() - features.double().mean(dim=0)
    left, values, right = torch.linalg.svd(centred, full_matrices=False)
    # The sign of a component is arbitrary; this one does not change with the machine.
    signs = right.gather(1, right.abs().argmax(dim=1, keepdim=True)).sign()[:, 0]
    components = (left * values * signs).numpy()
    if method == "pca":
        return np.pad(components[:, :2], ((0, 0), (0, max(0, 2 - components.shape[1]))))
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise missing("scikit-learn") from None
    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return tsne.fit_transform(components[:, :_COMPONENTS]).astype(np.float64)


def neighbour_accuracy(features: torch.Tensor, labels: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Part of the clips whose label most of their k nearest other clips have, by cosine; ties go to the
    nearest."""
    unit = torch.nn.functional.normalize(features.double() - features.double().mean(dim=0), dim=1)
    likeness = (unit @ unit.T).fill_diagonal_(-torch.inf)
    near = labels[likeness.topk(k, dim=1).indices.numpy()]  # R, k; nearest first
    votes = (near[:, :, None] == near[:, None, :]).sum(axis=2)
    return float((near[np.arange(len(near)), votes.argmax(axis=1)] == labels).mean())


def draw_embedding(found: ClipFeatures, places: np.ndarray, title: str) -> Figure:
    """A dot for each clip, its colour and shape those of its class.

    Raises:
        UserError: matplotlib is not installed.
    """
    figure = new_figure(10, 7)
    axes = figure.subplots()
    axes.set_title(plain(title), fontsize=12)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#c8c8c8")
    handles, labels = [], []
    for number, label in enumerate(np.unique(found.labels).tolist()):
        rows = places[found.labels == label]
        marker = _MARKERS[number // len(COLOURS) % len(_MARKERS)]
        handles.append(
            axes.scatter(
                *rows.T, s=44, c=COLOURS[number % len(COLOURS)], marker=marker, alpha=0.8, edgecolors="white",
                linewidths=0.5,
            )
        )  # fmt: skip
        labels.append(plain(f"{found.name(label)}  ({len(rows)})"))
    legend = {"frameon": False, "fontsize": 10, "title": "class (clips)"}
    figure.legend(handles, labels, loc="outside right upper", **legend)
    return figure


def write_places(path: Path, found: ClipFeatures, places: np.ndarray) -> Path:
    """Write a CSV with a line for each clip: video, label, name, x, y; gives the path."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "label", "name", "x", "y"])
        for video, label, (x, y) in zip(found.videos, found.labels.tolist(), places.tolist()):
            writer.writerow([video, label, found.name(label), f"{x:.6g}", f"{y:.6g}"])
    return path
