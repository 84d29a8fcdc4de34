"""VideoMAE backbones: pre-training, fine-tuning and spatio-temporal action detection."""

__version__ = "0.2.0"
