"""Annotations of common tools (CVAT, VIA 3, COCO JSON, Label Studio) become a dataset in AVA's form."""

from vmae_det.dataset_tools.importers import cvat, coco, label_studio, via3  # noqa: F401, I001  (each registers itself)
from vmae_det.dataset_tools.importers.dataset import import_annotations
from vmae_det.dataset_tools.importers.options import ImportOptions, ImportReport

__all__ = ["ImportOptions", "ImportReport", "import_annotations"]
