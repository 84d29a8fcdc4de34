"""VideoMAE backbones: pre-training, fine-tuning and spatio-temporal action detection."""

from vmae_det.utils import moved

__version__ = "0.2.0"

moved.install()
