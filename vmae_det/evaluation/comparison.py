"""Comparison of two runs on the same ground truth: AP differences and their bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vmae_det.evaluation.average_precision import average_precision
from vmae_det.evaluation.matching import Matches, ScoredRows
from vmae_det.formats.label_map import LabelMap

RESAMPLES = 200
# One video has only one possible resample. Fewer than ten have too few for a reliable interval.
_MIN_VIDEOS, _FEW_VIDEOS = 2, 10


@dataclass(frozen=True)
class Comparison:
    """AP of a run compared to a base run, with 95 % confidence intervals of a bootstrap over videos.

    Args:
        base, ap: (C,) AP of the base run and of the run; NaN for classes without ground truth.
        interval: (C, 2) interval of the difference; NaN with a single video.
        mean_interval: (2,) interval of the difference of the means; NaN with a single video.
        num_videos: number of videos with ground truth.
        resamples: number of bootstrap resamples; 0 with a single video.
    """

    label_map: LabelMap
    base: np.ndarray
    ap: np.ndarray
    interval: np.ndarray
    mean_interval: np.ndarray
    num_videos: int
    resamples: int

    @property
    def gain(self) -> np.ndarray:
        """(C,) AP of the run minus AP of the base."""
        return self.ap - self.base

    def to_json(self) -> dict[str, Any]:
        """Return a dict for json.dump, with the classes that have ground truth by descending gain."""
        order = [
            column for column in np.argsort(-self.gain, kind="stable") if not np.isnan(self.gain[column])
        ]
        return {
            "base_mAP": float(np.nanmean(self.base)),
            "mAP": float(np.nanmean(self.ap)),
            "interval": _to_json(self.mean_interval),
            "num_videos": self.num_videos,
            "summary": self.summary(),
            "resamples": self.resamples,
            "classes": [
                {
                    "name": self.label_map.names[column],
                    "base": float(self.base[column]),
                    "ap": float(self.ap[column]),
                    "gain": float(self.gain[column]),
                    "interval": _to_json(self.interval[column]),
                }
                for column in order
            ],
        }

    def summary(self) -> str:
        """Describe the difference of the means in one line."""
        low, high = 100 * self.mean_interval
        gain = 100 * (np.nanmean(self.ap) - np.nanmean(self.base))
        interval = f"95 % interval {low:+.2f} to {high:+.2f} over {self.num_videos} videos"
        if not self.resamples:
            interval = "no interval with only one video"
        elif self.num_videos < _FEW_VIDEOS:
            interval += ", too few to be reliable"
        return f"{gain:+.2f} points compared to the base, {interval}"


def compare(base: Matches, run: Matches, iou: float = 0.5, seed: int = 0) -> Comparison:
    """Compare the matches of two runs, with the same ground truth and protocol.

    The bootstrap resamples videos with replacement, the same ones for both runs, RESAMPLES times. A video
    that is drawn twice counts twice in recall and precision. With a single video there is no interval.
    """
    generator = np.random.default_rng(seed)
    truth = base.ground_truth
    videos = np.sort(truth.source.videos[np.unique(truth.source.video[truth.row])].astype(object))
    if len(videos) < _MIN_VIDEOS:
        no_interval = np.full((len(base.label_map), 2), np.nan)
        return Comparison(
            base.label_map, _ap(base, iou), _ap(run, iou), no_interval, no_interval[0], len(videos), 0
        )
    draws = generator.multinomial(len(videos), np.full(len(videos), 1 / len(videos)), RESAMPLES)
    samples = [_WeightedAP(matches, iou, videos) for matches in (base, run)]
    # Under mmaction2's protocol, a class that only one run detects is only in the mean of that run.
    base_ap, run_ap = (np.stack([sample.ap(weights) for weights in draws]) for sample in samples)
    means = np.nanmean(run_ap, axis=1, keepdims=True) - np.nanmean(base_ap, axis=1, keepdims=True)
    return Comparison(
        base.label_map,
        _ap(base, iou),
        _ap(run, iou),
        _interval(run_ap - base_ap),
        _interval(means)[0],
        len(videos),
        RESAMPLES,
    )


class _WeightedAP:
    """Computes AP with a weight per video."""

    def __init__(self, matches: Matches, iou: float, videos: np.ndarray) -> None:
        hit = matches.true_positives(iou)
        # Videos without ground truth share one more index, which has weight 1 in every draw.
        self.video = _video_index(matches.detections, videos)
        self.classes = [(self.video[rows], np.flatnonzero(hit[rows])) for rows in matches.ranked]
        truth = matches.ground_truth
        shape = (len(matches.label_map), len(videos) + 1)
        cell = truth.column.astype(np.int64) * shape[1] + _video_index(truth, videos)
        self.num_truth = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)

    def ap(self, weights: np.ndarray) -> np.ndarray:
        """Return (C,) AP with each video counted `weights` (V,) times; NaN if no ground truth is drawn."""
        weights = np.append(weights, 1)
        total = self.num_truth @ weights
        result = np.full(len(total), np.nan)
        for column, (video, hits) in enumerate(self.classes):
            if total[column]:
                weight = weights[video]
                precision = np.cumsum(weight[hits]) / np.maximum(np.cumsum(weight)[hits], 1)
                envelope = np.maximum.accumulate(precision[::-1])[::-1]
                result[column] = (envelope * weight[hits]).sum() / total[column]
        return result


def _video_index(rows: ScoredRows, videos: np.ndarray) -> np.ndarray:
    """Return the index of each row's video in the sorted `videos`, or len(videos) if it is missing."""
    names = rows.source.videos.astype(object)
    index = np.minimum(np.searchsorted(videos, names), len(videos) - 1)
    return np.where(videos[index] == names, index, len(videos))[rows.source.video[rows.row]]


def _ap(matches: Matches, iou: float) -> np.ndarray:
    hit = matches.true_positives(iou)
    counts = matches.num_ground_truth
    return np.array([average_precision(hit[rows], count) for rows, count in zip(matches.ranked, counts)])


def _to_json(interval: np.ndarray) -> list[float] | None:
    return None if np.isnan(interval).any() else interval.tolist()


def _interval(samples: np.ndarray) -> np.ndarray:
    """Return the central 95 % of samples (R, C) as (C, 2); NaN for classes that were never drawn."""
    drawn = ~np.isnan(samples).all(axis=0)
    bounds = np.full((samples.shape[1], 2), np.nan)
    bounds[drawn] = np.nanquantile(samples[:, drawn], (0.025, 0.975), axis=0).T
    return bounds
