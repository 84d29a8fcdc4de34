"""From a video to the actions of its people."""

from vmae_det.inference.detections import ActionDetections, KeyframeActions
from vmae_det.inference.predictor import ActionPredictor

__all__ = ["ActionDetections", "ActionPredictor", "KeyframeActions"]
