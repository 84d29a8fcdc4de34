"""Dataset checker: find problems in a dataset's annotations, person boxes and videos before training, and fix
some.

May import: formats, video and the dataset catalog. No torch.
"""

from vmae_det.dataset_tools.check.checker import check_dataset
from vmae_det.dataset_tools.check.report import KINDS, WARNINGS, Example, Finding, Report

__all__ = ["KINDS", "WARNINGS", "Example", "Finding", "Report", "check_dataset"]
