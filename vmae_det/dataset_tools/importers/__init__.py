"""Importers: convert annotations of CVAT, VIA 3, COCO JSON and Label Studio to a dataset in AVA format.

May import: formats, video and the dataset checker. Each importer is one module that registers itself.
"""

import importlib
import pkgutil

from vmae_det.dataset_tools.importers.base import ImportOptions, ImportReport
from vmae_det.dataset_tools.importers.convert import import_annotations

for _module in pkgutil.iter_modules(__path__):  # a new importer needs no entry here
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["ImportOptions", "ImportReport", "import_annotations"]
