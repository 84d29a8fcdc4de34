"""Optimizer, layer-wise decay and schedule."""

from vmae_det.solver.optimizer import build_optimizer, parameter_groups
from vmae_det.solver.schedule import build_schedule

__all__ = ["build_optimizer", "build_schedule", "parameter_groups"]
