"""Exports models as torch.export archives (.pt2), ONNX files and Hugging Face folders; runs exported models.

May import `engine` and the packages below it; of `inference` only `onnx_session`.
"""
