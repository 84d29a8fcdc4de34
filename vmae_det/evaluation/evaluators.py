"""Evaluators: collect the predictions of one task during testing and compute its metrics.

They are registered under the task of the model: detection, classification or pretraining.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vmae_det.evaluation.frame_map import FrameMAP, frame_map
from vmae_det.evaluation.matching import PROTOCOLS
from vmae_det.formats.ava_csv import (
    ActionBoxes,
    read_action_csv,
    read_excluded_keyframes,
    write_action_csv,
)
from vmae_det.formats.keyframes import keyframe_keys
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import PersonBoxes, write_person_boxes
from vmae_det.utils.errors import DataError
from vmae_det.utils.output_files import atomic_write, write_json
from vmae_det.utils.registry import Registry

if TYPE_CHECKING:  # `vmae-det evaluate` needs neither, and they double its start-up time
    import torch

    from vmae_det.config import CfgNode
    from vmae_det.data.catalog import DatasetSpec
    from vmae_det.evaluation.person_ap import PersonMetrics

T = TypeVar("T")

# Evaluators by the task of the model.
EVALUATOR_REGISTRY = Registry("EVALUATOR")


class Evaluator(ABC):
    """Collects predictions on one dataset and computes metrics from them.

    Each process calls `process` on its batches. Then all processes call `evaluate`, which gathers the
    predictions, and the main process calls `write`. A sample that occurs more than once counts once, so
    metrics do not depend on the number of processes.
    """

    # Names of the metrics that `evaluate` returns. The first one selects the best checkpoint; empty: none
    # does.
    metrics: tuple[str, ...] = ()
    lower_is_better = False
    # Columns of the scores that correspond to the dataset's classes, in their order. None: all columns do.
    columns: np.ndarray | None = None
    # Evaluate on the processed samples only, as if the dataset had no others.
    only_processed = False

    def __init__(self, cfg: CfgNode, spec: DatasetSpec) -> None:
        self.cfg = cfg
        self.spec = spec
        self.reset()

    @classmethod
    def metrics_of(cls, cfg: CfgNode) -> tuple[str, ...]:
        """Return the metrics of an evaluator for this config, without building it."""
        return cls.metrics

    @abstractmethod
    def reset(self) -> None:
        """Discard all predictions."""

    @abstractmethod
    def process(self, batch: dict[str, Any], predictions: dict[str, Any]) -> None:
        """Store the predictions of the model on a batch."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Return the metrics by name, identical in all processes."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Save the results of `evaluate`. Called in the main process."""


def _all_gather(value: T) -> list[T]:
    """Return the value of each process, by rank."""
    # Imported here, because metrics on files must not load torch.
    from vmae_det.utils.distributed import all_gather_object

    return all_gather_object(value)


def _copy_to_cpu(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    from vmae_det.utils.transfer import copy_to_cpu

    return copy_to_cpu(tensors)


# ---------------------------------------------------------------- detection

# Metrics of person boxes, with their attributes of `PersonMetrics`.
_PERSON_METRICS = {"person_AP50": "ap_50", "person_AP": "ap", "person_recall50": "recall_50"}


@EVALUATOR_REGISTRY.register_as("detection")
class FrameMAPEvaluator(Evaluator):
    """Frame-mAP under each protocol; for a model with a person head also AP and recall of the person boxes.

    Batches hold video_name (list of str), timestamp (list of seconds), boxes_relative (list of (N_i, 4)
    person boxes in [0, 1] of the frame) and person_scores (list of (N_i,); default: 1). Predictions hold
    scores, a list of (N_i, C) with columns in label map order, or as given by `columns`. If the model finds
    the people, the predictions hold `boxes` in pixels and `person_scores`, and the batch holds `size`.
    """

    metrics = ("frame_mAP", *(f"frame_mAP/{protocol}" for protocol in PROTOCOLS))

    def __init__(self, cfg: CfgNode, spec: DatasetSpec) -> None:
        super().__init__(cfg, spec)
        self.metrics = self.metrics_of(cfg)

    @classmethod
    def metrics_of(cls, cfg: CfgNode) -> tuple[str, ...]:
        """Return the metrics, with those of people if there is a person head."""
        return (*cls.metrics, *(_PERSON_METRICS if cfg.MODEL.PERSON_HEAD.NAME else ()))

    def reset(self) -> None:
        """Discard all predictions."""
        self._names: list[str] = []
        self._times: list[float] = []
        self._boxes: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []
        self._person_scores: list[np.ndarray] = []
        self._detections: ActionBoxes | None = None
        self._persons: PersonBoxes | None = None
        self._result: FrameMAP | None = None
        self._person_result: PersonMetrics | None = None

    def process(self, batch: dict[str, Any], predictions: dict[str, Any]) -> None:
        """Store the boxes and scores of each keyframe as float32."""
        self._names.extend(batch["video_name"])
        self._times.extend(float(time) for time in batch["timestamp"])
        if "boxes" in predictions:
            person_scores = _copy_to_cpu(predictions["person_scores"])
            boxes = [
                found.numpy() / size.numpy()[[0, 1, 0, 1]]
                for found, size in zip(_copy_to_cpu(predictions["boxes"]), batch["size"])
            ]
        else:
            boxes = batch["boxes_relative"]
            person_scores = batch.get("person_scores") or [np.ones(len(own)) for own in boxes]
        for own_boxes, own_scores, scores in zip(boxes, person_scores, _copy_to_cpu(predictions["scores"])):
            self._boxes.append(np.asarray(own_boxes, dtype=np.float32).reshape(-1, 4))
            self._person_scores.append(np.asarray(own_scores, dtype=np.float32))
            scores = scores.float().numpy()
            self._scores.append(scores if self.columns is None else scores[:, self.columns])

    def evaluate(self) -> dict[str, float]:
        """Return frame_mAP under TEST.PROTOCOL, and frame_mAP/PROTOCOL for each protocol, in [0, 1].

        For a model with a person head, also return person_AP50, person_AP and person_recall50 (see
        `person_ap.PersonMetrics`).
        """
        scored_classes, ground_truth, excluded = self._annotations
        self._persons, self._detections = self._gather(LabelMap.from_file(self.spec.label_map))
        if self.only_processed:
            ground_truth = self._of_processed_keyframes(ground_truth)
        results = {
            protocol: frame_map(
                ground_truth, self._detections, scored_classes, excluded=excluded, protocol=protocol
            )
            for protocol in PROTOCOLS
        }
        self._result = results[self.cfg.TEST.PROTOCOL]
        by_protocol = {f"frame_mAP/{protocol}": result.mean_ap for protocol, result in results.items()}
        metrics = {"frame_mAP": self._result.mean_ap, **by_protocol}
        if self.cfg.MODEL.PERSON_HEAD.NAME:
            from vmae_det.evaluation.person_ap import evaluate_person_boxes  # slow to import

            people = self._all_annotations
            people = self._of_processed_keyframes(people) if self.only_processed else people
            self._person_result = evaluate_person_boxes(people, self._persons, excluded)
            metrics |= {name: getattr(self._person_result, field) for name, field in _PERSON_METRICS.items()}
        return metrics

    def _of_processed_keyframes(self, rows: ActionBoxes) -> ActionBoxes:
        processed = {(name, round(1000 * time)) for name, time in zip(self._names, self._times)}
        keyframes = zip(rows.video, (1000 * rows.timestamp).round())
        kept = [(rows.videos[video], round(time)) in processed for video, time in keyframes]
        return rows.select(np.array(kept, dtype=bool))

    @cached_property
    def _annotations(self) -> tuple[LabelMap, ActionBoxes, frozenset[tuple[str, float]] | None]:
        """The scored classes, the ground truth and the excluded keyframes, read at the first evaluation."""
        label_map = LabelMap.from_file(self.spec.scored_classes or self.spec.label_map)
        ground_truth = read_action_csv(self.spec.annotations, label_map, unknown_actions="ignore")
        excluded = None if self.spec.excluded is None else read_excluded_keyframes(self.spec.excluded)
        return label_map, ground_truth, excluded

    @cached_property
    def _all_annotations(self) -> ActionBoxes:
        """The annotated boxes of all classes, scored or not: the people."""
        return read_action_csv(self.spec.annotations)

    def _gather(self, label_map: LabelMap) -> tuple[PersonBoxes, ActionBoxes]:
        """Return the person boxes and detections of all processes, sorted by keyframe, each keyframe once."""
        counts = np.array([len(boxes) for boxes in self._boxes], dtype=np.int64)
        boxes = np.concatenate([np.zeros((0, 4), np.float32), *self._boxes])
        scores = np.concatenate([np.zeros((0, len(label_map)), np.float32), *self._scores])
        person_scores = np.concatenate([np.zeros(0, np.float32), *self._person_scores])
        parts = _all_gather((self._names, self._times, counts, boxes, scores, person_scores))
        names = np.array([name for part in parts for name in part[0]], dtype=object)
        times = np.array([time for part in parts for time in part[1]], dtype=np.float64)
        counts, boxes, scores, person_scores = (
            np.concatenate([part[i] for part in parts]) for i in (2, 3, 4, 5)
        )

        videos, video = np.unique(names, return_inverse=True)
        _, chosen = np.unique(keyframe_keys(video, times), return_index=True)
        starts = np.cumsum(counts) - counts
        keyframe = np.repeat(chosen, counts[chosen])
        index_in_keyframe = np.arange(len(keyframe)) - np.repeat(
            np.cumsum(counts[chosen]) - counts[chosen], counts[chosen]
        )
        rows = starts[keyframe] + index_in_keyframe
        # Rounded as in the file that `write` saves, so that the file has the same frame-mAP.
        relative = boxes[rows].astype(np.float64).round(6)
        where = videos, video[keyframe], times[keyframe], relative
        detections = ActionBoxes.from_scores(*where, scores[rows], label_map)
        return PersonBoxes(*where, person_scores[rows].astype(np.float64)), detections

    def write(self, folder: Path) -> None:
        """Save detections.csv (AVA's format) and frame_map.json.

        For a model with a person head, also save persons.csv, the person boxes, and person_ap.json.
        """
        if self._result is None:
            return
        if self._person_result is not None:
            write_person_boxes(folder / "persons.csv", self._persons)
            write_json(folder / "person_ap.json", self._person_result.to_json())
        write_action_csv(folder / "detections.csv", self._detections)
        write_json(folder / "frame_map.json", self._result.to_json())


# ---------------------------------------------------------------- classification


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, ks: tuple[int, ...] = (1, 5)) -> dict[str, float]:
    """Return the percentage of videos whose label is among the k best-scored classes.

    Ties count against the label, so a model that gives all classes the same score has an accuracy of 0.

    Args:
        scores: (V, C).
        labels: (V,) columns.

    Returns:
        {"top1": ..., "top5": ...}
    """
    rank = label_ranks(scores, labels)
    return {f"top{k}": float(100 * (rank <= k).mean()) for k in ks}


def label_ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the rank, from 1 on, of each label (V,) among scores (V, C). Ties count against the label."""
    label_score = np.take_along_axis(scores, labels[:, None].astype(np.int64), axis=1)
    return (scores >= label_score).sum(axis=1)  # counts the label itself


@EVALUATOR_REGISTRY.register_as("classification")
class TopKEvaluator(Evaluator):
    """Top-1 and top-5 accuracy of videos. The scores of a video's views are averaged.

    Batches hold index (B,) of the view, video_index (B,) if it differs, and label (B,). Predictions hold
    scores (B, C).
    """

    metrics = ("top1", "top5")

    def reset(self) -> None:
        """Discard all predictions."""
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self._metrics: dict[str, float] = {}
        self._videos: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def process(self, batch: dict[str, Any], predictions: dict[str, Any]) -> None:
        """Store the scores as float32."""
        index = np.asarray(batch["index"], dtype=np.int64)
        video = np.asarray(batch.get("video_index", index), dtype=np.int64)
        label = np.asarray(batch["label"], dtype=np.int64)
        self._parts.append((index, video, label, predictions["scores"].detach().float().cpu().numpy()))

    def evaluate(self) -> dict[str, float]:
        """Return top1 and top5, in percent."""
        parts = [part for parts in _all_gather(self._parts) for part in parts]
        if not parts:
            raise DataError("no video was classified; is the dataset empty?", self.spec.name)
        index, video, label, scores = (np.concatenate(column) for column in zip(*parts))
        # Sorted by index, so that the order of summation does not depend on the number of processes.
        _, once = np.unique(index, return_index=True)
        video, label, scores = video[once], label[once], scores[once]
        videos, first, views = np.unique(video, return_index=True, return_counts=True)
        by_video = np.argsort(video, kind="stable")
        starts = np.cumsum(views) - views
        mean = np.add.reduceat(scores[by_video].astype(np.float64), starts, axis=0) / views[:, None]
        self._videos = (videos, label[first], mean)
        self._metrics = top_k_accuracy(mean, label[first])
        return self._metrics

    def write(self, folder: Path) -> None:
        """Save metrics.json and scores.npz (index (V,), label (V,), scores (V, C))."""
        if self._videos is None:
            return
        index, label, scores = self._videos
        write_json(folder / "metrics.json", self._metrics)
        with atomic_write(folder / "scores.npz") as temporary:
            np.savez_compressed(temporary, index=index, label=label, scores=scores.astype(np.float32))


# ---------------------------------------------------------------- pre-training


@EVALUATOR_REGISTRY.register_as("pretraining")
class ReconstructionEvaluator(Evaluator):
    """Mean reconstruction loss over clips. Batches hold index (B,), predictions hold loss (B,)."""

    metrics = ("reconstruction_loss",)
    lower_is_better = True

    def reset(self) -> None:
        """Discard all losses."""
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._metrics: dict[str, float] = {}

    def process(self, batch: dict[str, Any], predictions: dict[str, Any]) -> None:
        """Store the loss of each clip."""
        loss = predictions["loss"].detach().cpu().double().numpy()
        self._parts.append((np.asarray(batch["index"]), loss))

    def evaluate(self) -> dict[str, float]:
        """Return reconstruction_loss, in units of MODEL.RECONSTRUCTION."""
        parts = [part for parts in _all_gather(self._parts) for part in parts]
        if not parts:
            raise DataError("no video was reconstructed; is the dataset empty?", str(self.spec.videos))
        index, loss = (np.concatenate(column) for column in zip(*parts))
        _, once = np.unique(index, return_index=True)
        self._metrics = {"reconstruction_loss": float(loss[once].mean())}
        return self._metrics

    def write(self, folder: Path) -> None:
        """Save metrics.json."""
        if not self._metrics:
            return
        write_json(folder / "metrics.json", self._metrics)
