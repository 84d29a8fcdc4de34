"""Optimizer with layer-wise decay, and learning rate schedule.

May import: modeling, config and utils.
"""

from vmae_det.solver.lr_schedule import build_schedule
from vmae_det.solver.optimizer import build_optimizer, parameter_groups

__all__ = ["build_optimizer", "build_schedule", "parameter_groups"]
