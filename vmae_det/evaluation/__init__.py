"""Metrics, and the evaluators that collect predictions for them: frame-mAP, video-mAP, person AP, accuracy.

May import: formats, config and utils. No datasets, no video; metrics on files load no torch.
"""

from vmae_det.evaluation.evaluators import (
    EVALUATOR_REGISTRY,
    Evaluator,
    FrameMAPEvaluator,
    ReconstructionEvaluator,
    TopKEvaluator,
    top_k_accuracy,
)
from vmae_det.evaluation.frame_map import FrameMAP, chance_level, evaluate_frame_map
from vmae_det.evaluation.knn import KNNEvaluator
from vmae_det.evaluation.matching import Matches, match

__all__ = [
    "EVALUATOR_REGISTRY",
    "Evaluator",
    "FrameMAP",
    "FrameMAPEvaluator",
    "KNNEvaluator",
    "Matches",
    "ReconstructionEvaluator",
    "TopKEvaluator",
    "chance_level",
    "evaluate_frame_map",
    "match",
    "top_k_accuracy",
]
