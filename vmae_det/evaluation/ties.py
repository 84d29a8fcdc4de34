"""What the order of equal scores can change: published evaluators leave it to their sorting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vmae_det.evaluation.average_precision import envelope_area, tied_ranks
from vmae_det.evaluation.matching import Matches, pair

TIE_ORDER = "video id, time, action id, coordinates"


def describe_ties(mean_range: tuple[float, float], order: str) -> str:
    """How equal scores are ordered, and how far another order could move a mean in [0, 1], as a line."""
    low, high = (100 * end for end in mean_range)
    moved = (
        f"another order gives no less than {low:.4f} and no more than {high:.4f}"
        if high - low > 1e-9
        else "their order does not matter"
    )
    return f"equal scores are ordered by {order}; {moved}"


def ap_range(matches: Matches, iou: float) -> np.ndarray:
    """(C, 2): the least and the greatest AP of each class that an order of equal scores can give.

    Within a keyframe and class, detections of one score that choose the same box are one true positive and
    otherwise false ones, whichever comes first; so the range is that of true positives after and before false
    ones of their score. It is a bound in two cases. A false positive that chose the box of a true positive of
    its score never comes before that one. And where rows tie for the last places of a keyframe's cap, at best
    all true positives of them are kept and no false ones, at worst the reverse.
    """
    hit = matches.true_positives(iou)
    rivals = None if matches.tied_for_cap is None else _Rivals(matches, iou)
    result = np.empty((len(matches.label_map), 2))
    for column, (rows, score) in enumerate(matches.ranking):
        if rivals is None or not rivals.is_rival[rivals.ranking[column][0]].any():
            first, last = tied_ranks(score, hit[rows])
        else:
            first, last = rivals.ranks(column, rows, score, hit[rows])
        count = matches.num_ground_truth[column]
        result[column] = envelope_area(last, count), envelope_area(first, count)
    return result


class _Rivals:
    """The keyframes where rows tie for the last places of the cap, with all of these rows."""

    def __init__(self, matches: Matches, iou: float) -> None:
        rows, last_score = matches.tied_for_cap
        found, (chooser, chosen, overlap) = pair(
            matches.ground_truth, rows, len(matches.label_map), matches.protocol
        )
        alone = replace(matches, detections=found, chooser=chooser, chosen=chosen, overlap=overlap)
        self.hit, self.ranking = alone.true_positives(iou), alone.ranking
        self.is_rival = found.score == last_score[found.keyframe]
        self.is_settled = np.isnan(last_score)[matches.detections.keyframe]

    def ranks(
        self, column: int, rows: np.ndarray, score: np.ndarray, hit: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ranks of a class's true positives at best and at worst; arguments as `Matches.ranking` has them."""
        settled = self.is_settled[rows]
        score, hit = score[settled], hit[settled]
        own, own_score = self.ranking[column]
        ends = []
        for is_worst in (False, True):
            kept = ~(self.is_rival[own] & (self.hit[own] == is_worst))
            scores, hits = np.append(score, own_score[kept]), np.append(hit, self.hit[own[kept]])
            order = np.argsort(-scores, kind="stable")
            ends.append(tied_ranks(scores[order], hits[order])[is_worst])
        return ends[0], ends[1]
