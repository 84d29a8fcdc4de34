"""Metrics, and the evaluators that collect predictions for them; importing it needs no torch."""

# Importing an evaluator's module registers it under its task.
from vmae_det.evaluation.ava import FrameMAPEvaluator
from vmae_det.evaluation.classification import TopKEvaluator, top_k_accuracy
from vmae_det.evaluation.evaluator import EVALUATOR_REGISTRY, Evaluator
from vmae_det.evaluation.frame_map import FrameMAP, chance_level, evaluate_frame_map
from vmae_det.evaluation.matching import Matches, match
from vmae_det.evaluation.pretraining import ReconstructionEvaluator

__all__ = [
    "EVALUATOR_REGISTRY",
    "Evaluator",
    "FrameMAP",
    "FrameMAPEvaluator",
    "Matches",
    "ReconstructionEvaluator",
    "TopKEvaluator",
    "chance_level",
    "evaluate_frame_map",
    "match",
    "top_k_accuracy",
]
