"""Person detectors by name: torchvision, detectron2 and ONNX networks behind one interface.

May import `engine` and the packages below it; of `inference` only `onnx_session`.
"""

from vmae_det.inference.person_detectors import (  # noqa: F401  # fill the registry
    detectron2_models,
    onnx_detector,
    torchvision_models,
)
from vmae_det.inference.person_detectors.interface import (
    PERSON_DETECTOR_REGISTRY,
    PersonDetector,
    build_person_detector,
)

__all__ = ["PERSON_DETECTOR_REGISTRY", "PersonDetector", "build_person_detector"]
