"""Dataset checker: find, and partly fix, problems in annotations, person boxes and videos before training.

May import: formats, video and the dataset catalog. No torch.
"""

from vmae_det.dataset_tools.check.checker import check_dataset
from vmae_det.dataset_tools.check.report import KINDS, WARNINGS, Example, Finding, Report

__all__ = ["KINDS", "WARNINGS", "Example", "Finding", "Report", "check_dataset"]
