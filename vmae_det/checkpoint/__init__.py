"""Checkpoints: save and resume a run, read published weight formats, load weights into a model, and convert.

May import: modeling, model_zoo, config and utils.
"""

from vmae_det.checkpoint.checkpointer import Checkpointer, save_weights
from vmae_det.checkpoint.files import read_checkpoint
from vmae_det.checkpoint.loading import LoadReport, load_weights

__all__ = ["Checkpointer", "LoadReport", "load_weights", "read_checkpoint", "save_weights"]
