"""From a video to the actions of its people."""

from vmae_det.inference.predictor import ActionDetections, ActionPredictor

__all__ = ["ActionDetections", "ActionPredictor"]
