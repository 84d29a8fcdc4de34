"""Weights and the state of a run, in files."""

from vmae_det.checkpoint.checkpointer import Checkpointer, save_weights
from vmae_det.checkpoint.files import read_checkpoint
from vmae_det.checkpoint.weights import LoadReport, load_weights

__all__ = ["Checkpointer", "LoadReport", "load_weights", "read_checkpoint", "save_weights"]
