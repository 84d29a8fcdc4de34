"""From a video to actions or features: person detectors, clips, tracking, `ActionPredictor`, export.

May import `engine` and the packages below it, such as `data`, `modeling`, `checkpoint` and `video`.
"""

from vmae_det.inference.classifier import ActionClassifier, VideoClasses
from vmae_det.inference.detections import ActionDetections, KeyframeActions
from vmae_det.inference.features import ClipFeatures, FeatureExtractor
from vmae_det.inference.person_features import PersonFeatureExtractor
from vmae_det.inference.predictor import ActionPredictor

__all__ = [
    "ActionClassifier",
    "ActionDetections",
    "ActionPredictor",
    "ClipFeatures",
    "FeatureExtractor",
    "KeyframeActions",
    "PersonFeatureExtractor",
    "VideoClasses",
]
