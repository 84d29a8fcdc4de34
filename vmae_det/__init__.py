"""VideoMAE backbones: pre-training, fine-tuning and spatio-temporal action detection."""

__version__ = "0.1.0"
