"""Networks that find people in pictures, by name."""

from vmae_det.inference.person_detectors import detectron2_models, onnx_files, torchvision_models  # noqa: F401
from vmae_det.inference.person_detectors.interface import (
    PERSON_DETECTOR_REGISTRY,
    PersonDetector,
    build_person_detector,
)

__all__ = ["PERSON_DETECTOR_REGISTRY", "PersonDetector", "build_person_detector"]
