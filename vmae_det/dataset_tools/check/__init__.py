"""The data doctor: what is wrong with a dataset, found before a night of training is lost."""

from vmae_det.dataset_tools.check.doctor import check_dataset
from vmae_det.dataset_tools.check.findings import KINDS, WARNINGS, Example, Finding
from vmae_det.dataset_tools.check.report import Report

__all__ = ["KINDS", "WARNINGS", "Example", "Finding", "Report", "check_dataset"]
