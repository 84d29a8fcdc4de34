"""Exports models as torch.export archives (.pt2), ONNX files and Hugging Face folders; runs exported models.

May import `engine` and the packages below it; of `inference` only `onnx_session`.
"""

from vmae_det.inference.export.exporter import ExportReport, export_model
from vmae_det.inference.export.hugging_face import PretrainedReport, save_pretrained

__all__ = ["ExportReport", "PretrainedReport", "export_model", "save_pretrained"]
