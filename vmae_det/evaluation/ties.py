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
        f"another order gives {low:.4f} to {high:.4f}" if high - low > 1e-9 else "their order does not matter"
    )
    return f"equal scores are ordered by {order}; {moved}"


def ap_range(matches: Matches, iou: float) -> np.ndarray:
    """(C, 2): the least and the greatest AP of each class that an order of equal scores can give.

    Within a keyframe and class, detections of one score that choose the same box are one true positive and
    otherwise false ones, whichever comes first; so the range is that of true positives after and before false
    ones of their score. Where rows tie for the last places of a keyframe's cap, the range is a bound: at best
    all true positives of them are kept and no false ones, at worst the reverse.
    """
    uncertain = None
    if matches.tied_for_cap is not None:
        rows, last_score = matches.tied_for_cap
        found, (chooser, chosen, overlap) = pair(
            matches.ground_truth, rows, len(matches.label_map), matches.protocol
        )
        matches = replace(
            matches, detections=found, chooser=chooser, chosen=chosen, overlap=overlap, tied_for_cap=None
        )
        uncertain = found.score == last_score[found.keyframe]
    hit = matches.true_positives(iou)
    result = np.empty((len(matches.label_map), 2))
    for column, (rows, score) in enumerate(matches.ranking):
        for end, is_worst in enumerate((True, False)):
            hits, scores = hit[rows], score
            if uncertain is not None:
                kept = ~(uncertain[rows] & (hits == is_worst))
                hits, scores = hits[kept], scores[kept]
            ranks = tied_ranks(scores, hits)[is_worst]
            result[column, end] = envelope_area(ranks, matches.num_ground_truth[column])
    return result
