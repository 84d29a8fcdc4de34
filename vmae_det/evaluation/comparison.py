"""Two runs against the same ground truth: what was gained and lost, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vmae_det.evaluation.average_precision import average_precision
from vmae_det.evaluation.matching import Matches, ScoredRows
from vmae_det.formats.label_map import LabelMap

RESAMPLES = 200
# All draws from one video are the same; those from a few are one of a handful of differences.
_LEAST_VIDEOS, _FEW_VIDEOS = 2, 10


@dataclass(frozen=True)
class Comparison:
    """AP of a run less that of a base, with 95 % intervals of a bootstrap over videos.

    Args:
        base, ap: (C,) of the base and of the run; NaN for a class without ground truth.
        interval: (C, 2) of the difference; NaN with one video.
        mean_interval: (2,) of the difference of the means; likewise.
        num_videos: with ground truth.
        resamples: of the bootstrap; 0 with one video.
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
            "interval": _finite(self.mean_interval),
            "num_videos": self.num_videos,
            "summary": self.summary(),
            "resamples": self.resamples,
            "classes": [
                {
                    "name": self.label_map.names[column],
                    "base": float(self.base[column]),
                    "ap": float(self.ap[column]),
                    "gain": float(self.gain[column]),
                    "interval": _finite(self.interval[column]),
                }
                for column in order
            ],
        }

    def summary(self) -> str:
        """The difference of the means as one line."""
        low, high = 100 * self.mean_interval
        gain = 100 * (np.nanmean(self.ap) - np.nanmean(self.base))
        interval = f"95 % interval {low:+.2f} to {high:+.2f} over {self.num_videos} videos"
        if not self.resamples:
            interval = "one video allows no interval"
        elif self.num_videos < _FEW_VIDEOS:
            interval += ", too few to rely on"
        return f"{gain:+.2f} points against the base, {interval}"


def compare(base: Matches, run: Matches, iou: float = 0.5, seed: int = 0) -> Comparison:
    """Compare two matches of one ground truth and protocol.

    The bootstrap draws as many videos as there are, with repetition, the same for both, RESAMPLES times. A
    video that is drawn twice counts twice in recall and precision. One video allows no interval.
    """
    generator = np.random.default_rng(seed)
    truth = base.ground_truth
    videos = np.sort(truth.source.videos[np.unique(truth.source.video[truth.row])].astype(object))
    if len(videos) < _LEAST_VIDEOS:
        none = np.full((len(base.label_map), 2), np.nan)
        return Comparison(base.label_map, _ap(base, iou), _ap(run, iou), none, none[0], len(videos), 0)
    draws = generator.multinomial(len(videos), np.full(len(videos), 1 / len(videos)), RESAMPLES)
    samples = [_Weighted(matches, iou, videos) for matches in (base, run)]
    # Classes that one run does not detect are in the other's mean alone, under mmaction2's protocol.
    of_base, of_run = (np.stack([sample.ap(weights) for weights in draws]) for sample in samples)
    means = np.nanmean(of_run, axis=1, keepdims=True) - np.nanmean(of_base, axis=1, keepdims=True)
    return Comparison(
        base.label_map,
        _ap(base, iou),
        _ap(run, iou),
        _interval(of_run - of_base),
        _interval(means)[0],
        len(videos),
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


def _place(rows: ScoredRows, videos: np.ndarray) -> np.ndarray:
    """Index of each row's video in the sorted `videos`, len(videos) where it is not among them."""
    names = rows.source.videos.astype(object)
    place = np.minimum(np.searchsorted(videos, names), len(videos) - 1)
    return np.where(videos[place] == names, place, len(videos))[rows.source.video[rows.row]]


def _ap(matches: Matches, iou: float) -> np.ndarray:
    hit = matches.true_positives(iou)
    counts = matches.num_ground_truth
    return np.array([average_precision(hit[rows], count) for rows, count in zip(matches.ranked, counts)])


def _finite(interval: np.ndarray) -> list[float] | None:
    return None if np.isnan(interval).any() else interval.tolist()


def _interval(samples: np.ndarray) -> np.ndarray:
    """The middle 95 % of samples (R, C), as (C, 2); NaN where nothing was drawn."""
    drawn = ~np.isnan(samples).all(axis=0)
    bounds = np.full((samples.shape[1], 2), np.nan)
    bounds[drawn] = np.nanquantile(samples[:, drawn], (0.025, 0.975), axis=0).T
    return bounds
