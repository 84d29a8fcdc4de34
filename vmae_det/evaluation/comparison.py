"""Two runs against the same ground truth: what was gained and lost, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vmae_det.data.label_map import LabelMap
from vmae_det.evaluation.average_precision import average_precision
from vmae_det.evaluation.matching import Matches, Rows

RESAMPLES = 200


@dataclass(frozen=True)
class Comparison:
    """AP of a run less that of a base, with 95 % intervals of a bootstrap over videos.

    Args:
        base, ap: (C,) of the base and of the run; NaN for a class without ground truth.
        interval: (C, 2) of the difference.
        mean_interval: (2,) of the difference of the means.
        resamples: of the bootstrap.
    """

    label_map: LabelMap
    base: np.ndarray
    ap: np.ndarray
    interval: np.ndarray
    mean_interval: np.ndarray
    resamples: int

    @property
    def gain(self) -> np.ndarray:
        """(C,) difference."""
        return self.ap - self.base

    def to_json(self) -> dict[str, Any]:
        """What json.dump takes; classes by falling gain, those without ground truth left out."""
        order = [
            column for column in np.argsort(-self.gain, kind="stable") if not np.isnan(self.gain[column])
        ]
        return {
            "base_mAP": float(np.nanmean(self.base)),
            "mAP": float(np.nanmean(self.ap)),
            "interval": self.mean_interval.tolist(),
            "resamples": self.resamples,
            "classes": [
                {
                    "name": self.label_map.names[column],
                    "base": float(self.base[column]),
                    "ap": float(self.ap[column]),
                    "gain": float(self.gain[column]),
                    "interval": self.interval[column].tolist(),
                }
                for column in order
            ],
        }

    def summary(self) -> str:
        """The difference of the means as one line."""
        low, high = 100 * self.mean_interval
        gain = 100 * (np.nanmean(self.ap) - np.nanmean(self.base))
        return f"{gain:+.2f} points against the base, 95 % interval {low:+.2f} to {high:+.2f} over videos"


def compare(base: Matches, run: Matches, iou: float = 0.5, seed: int = 0) -> Comparison:
    """Compare two matches of one ground truth and protocol.

    The bootstrap draws as many videos as there are, with repetition, the same for both, RESAMPLES times. A
    video that is drawn twice counts twice in recall and precision.
    """
    generator = np.random.default_rng(seed)
    truth = base.ground_truth
    videos = np.sort(truth.source.videos[np.unique(truth.source.video[truth.row])].astype(object))
    draws = generator.multinomial(len(videos), np.full(len(videos), 1 / len(videos)), RESAMPLES)
    samples = [_Weighted(matches, iou, videos) for matches in (base, run)]
    differences = np.stack([samples[1].ap(weights) - samples[0].ap(weights) for weights in draws])
    means = np.nanmean(differences, axis=1, keepdims=True)
    return Comparison(
        base.label_map,
        _ap(base, iou),
        _ap(run, iou),
        _interval(differences),
        _interval(means)[0],
        RESAMPLES,
    )


class _Weighted:
    """Detections by class and falling score, ready for AP with a weight for each video."""

    def __init__(self, matches: Matches, iou: float, videos: np.ndarray) -> None:
        hit = matches.true_positives(iou)
        # Videos without ground truth have weight 1 in every draw, as the last of the videos.
        self.video = _place(matches.detections, videos)
        self.classes = [(self.video[rows], np.flatnonzero(hit[rows])) for rows in matches.ranked]
        truth = matches.ground_truth
        shape = (len(matches.label_map), len(videos) + 1)
        place = truth.column.astype(np.int64) * shape[1] + _place(truth, videos)
        self.num_truth = np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape)

    def ap(self, weights: np.ndarray) -> np.ndarray:
        """(C,) AP where each video counts `weights` (V,) times; NaN where no ground truth is drawn."""
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


def _place(rows: Rows, videos: np.ndarray) -> np.ndarray:
    """Index of each row's video in the sorted `videos`, len(videos) where it is not among them."""
    names = rows.source.videos.astype(object)
    place = np.minimum(np.searchsorted(videos, names), len(videos) - 1)
    return np.where(videos[place] == names, place, len(videos))[rows.source.video[rows.row]]


def _ap(matches: Matches, iou: float) -> np.ndarray:
    hit = matches.true_positives(iou)
    counts = matches.num_ground_truth
    return np.array([average_precision(hit[rows], count) for rows, count in zip(matches.ranked, counts)])


def _interval(samples: np.ndarray) -> np.ndarray:
    """The middle 95 % of samples (R, C), as (C, 2); NaN where nothing was drawn."""
    drawn = ~np.isnan(samples).all(axis=0)
    bounds = np.full((samples.shape[1], 2), np.nan)
    bounds[drawn] = np.nanquantile(samples[:, drawn], (0.025, 0.975), axis=0).T
    return bounds
