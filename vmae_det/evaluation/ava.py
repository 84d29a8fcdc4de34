"""Frame-mAP of a detector, its predictions collected in memory: no file is written to score them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.evaluation.evaluator import EVALUATOR_REGISTRY, Evaluator, gather
from vmae_det.evaluation.frame_map import FrameMAP, frame_map
from vmae_det.evaluation.matching import PROTOCOLS
from vmae_det.formats.ava_csv import ActionBoxes, read_action_csv, read_excluded_keyframes, write_action_csv
from vmae_det.formats.box_csv import keyframe_keys
from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.output_files import write_json


@EVALUATOR_REGISTRY.register_as("detection")
class FrameMAPEvaluator(Evaluator):
    """Frame-mAP under both protocols.

    A batch holds video_name (list of str), timestamp (list of seconds) and boxes_relative (list of (N_i, 4)
    person boxes in [0, 1] of the frame); predictions hold scores, a list of (N_i, C) with columns in the
    order of the label map, or where `columns` says.
    """

    metrics = ("frame_mAP", *(f"frame_mAP/{protocol}" for protocol in PROTOCOLS))

    def reset(self) -> None:
        """Forget all predictions."""
        self._names: list[str] = []
        self._times: list[float] = []
        self._boxes: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []
        self._detections: ActionBoxes | None = None
        self._result: FrameMAP | None = None

    def process(self, batch: dict[str, Any], predictions: dict[str, Any]) -> None:
        """Keep boxes and scores as float32 arrays, one pair a keyframe."""
        self._names.extend(batch["video_name"])
        self._times.extend(float(time) for time in batch["timestamp"])
        for boxes, scores in zip(batch["boxes_relative"], predictions["scores"]):
            self._boxes.append(np.asarray(boxes, dtype=np.float32).reshape(-1, 4))
            scores = scores.detach().float().cpu().numpy()
            self._scores.append(scores if self.columns is None else scores[:, self.columns])

    def evaluate(self) -> dict[str, float]:
        """frame_mAP under TEST.PROTOCOL, and under each protocol by name; in [0, 1]."""
        scored, ground_truth, excluded = self._truth
        self._detections = self._gather(LabelMap.from_file(self.spec.label_map))
        results = {
            protocol: frame_map(ground_truth, self._detections, scored, excluded=excluded, protocol=protocol)
            for protocol in PROTOCOLS
        }
        self._result = results[self.cfg.TEST.PROTOCOL]
        by_protocol = {f"frame_mAP/{protocol}": result.mean_ap for protocol, result in results.items()}
        return {"frame_mAP": self._result.mean_ap, **by_protocol}

    @cached_property
    def _truth(self) -> tuple[LabelMap, ActionBoxes, frozenset[tuple[str, float]] | None]:
        """The classes that count, and the dataset's files, read at the first evaluation."""
        label_map = LabelMap.from_file(self.spec.scored_classes or self.spec.label_map)
        ground_truth = read_action_csv(self.spec.annotations, label_map, unknown_actions="ignore")
        excluded = None if self.spec.excluded is None else read_excluded_keyframes(self.spec.excluded)
        return label_map, ground_truth, excluded

    def _gather(self, label_map: LabelMap) -> ActionBoxes:
        """The detections of all processes, by keyframe, each keyframe once."""
        counts = np.array([len(boxes) for boxes in self._boxes], dtype=np.int64)
        boxes = np.concatenate([np.zeros((0, 4), np.float32), *self._boxes])
        scores = np.concatenate([np.zeros((0, len(label_map)), np.float32), *self._scores])
        parts = gather((self._names, self._times, counts, boxes, scores))
        names = np.array([name for part in parts for name in part[0]], dtype=object)
        times = np.array([time for part in parts for time in part[1]], dtype=np.float64)
        counts, boxes, scores = (np.concatenate([part[i] for part in parts]) for i in (2, 3, 4))

        videos, video = np.unique(names, return_inverse=True)
        _, chosen = np.unique(keyframe_keys(video, times), return_index=True)
        starts = np.cumsum(counts) - counts
        keyframe = np.repeat(chosen, counts[chosen])
        within = np.arange(len(keyframe)) - np.repeat(
            np.cumsum(counts[chosen]) - counts[chosen], counts[chosen]
        )
        rows = starts[keyframe] + within
        # Rounded as in the file that `write` makes, which therefore has the same score.
        relative = boxes[rows].astype(np.float64).round(6)
        return ActionBoxes.from_scores(
            videos, video[keyframe], times[keyframe], relative, scores[rows], label_map
        )

    def write(self, folder: Path) -> None:
        """Save detections.csv (AVA's form) and frame_map.json."""
        if self._result is None:
            return
        write_action_csv(folder / "detections.csv", self._detections)
        write_json(folder / "frame_map.json", self._result.to_json())
