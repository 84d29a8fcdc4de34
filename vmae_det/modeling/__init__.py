"""Networks: tensors in, tensors out. Backbones, heads and the models of all tasks, with their losses.

May import: config and utils.
"""

from vmae_det.modeling.backbones.base import Backbone
from vmae_det.modeling.backbones.hiera import Hiera
from vmae_det.modeling.backbones.vit import VideoViT
from vmae_det.modeling.backbones.vjepa import VJepa2ViT, VJepa21ViT
from vmae_det.modeling.build import (
    BACKBONE_REGISTRY,
    META_ARCHITECTURE_REGISTRY,
    PERSON_HEAD_REGISTRY,
    ROI_HEAD_REGISTRY,
    build_model,
    model_class,
)
from vmae_det.modeling.classification import VideoClassifier
from vmae_det.modeling.detection import ActionDetector
from vmae_det.modeling.mocov3 import MoCoV3
from vmae_det.modeling.person_heads import FcosPersonHead
from vmae_det.modeling.pretraining import MaskedAutoencoder
from vmae_det.modeling.roi_heads import AttentionRoIHead, MaxPoolRoIHead

__all__ = [
    "BACKBONE_REGISTRY",
    "META_ARCHITECTURE_REGISTRY",
    "PERSON_HEAD_REGISTRY",
    "ROI_HEAD_REGISTRY",
    "ActionDetector",
    "AttentionRoIHead",
    "Backbone",
    "FcosPersonHead",
    "Hiera",
    "MaskedAutoencoder",
    "MaxPoolRoIHead",
    "MoCoV3",
    "VJepa2ViT",
    "VJepa21ViT",
    "VideoClassifier",
    "VideoViT",
    "build_model",
    "model_class",
]
