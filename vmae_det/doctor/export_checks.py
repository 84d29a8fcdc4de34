"""Check of exporting a detector to torch.export and ONNX."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from vmae_det.doctor.isolation import Problem, Stage
from vmae_det.doctor.report import FAILED, SKIPPED
from vmae_det.utils.errors import UserError, WeightsError


def check_export(stage: Stage, form: str) -> str:
    """Export a tiny detector, run the file and compare its scores with those of the model.

    Args:
        form: torch or onnx.

    Raises:
        Problem: the scores differ, or a package for ONNX is not installed.
    """
    from vmae_det.checkpoint import save_weights
    from vmae_det.doctor.tiny_models import tiny_config
    from vmae_det.inference.export.exporter import SUFFIXES, TOLERANCE, export_model
    from vmae_det.inference.onnx_session import import_onnx_packages
    from vmae_det.modeling import build_model

    if form == "onnx":
        stage("importing onnx, onnxscript and onnxruntime")
        try:
            import_onnx_packages("onnx", "onnxscript", "onnxruntime")
        except UserError as error:
            raise Problem(
                SKIPPED, str(error), "pip install 'vmae_det[onnx]', if you export to ONNX"
            ) from None
    with tempfile.TemporaryDirectory(prefix="vmae_det_doctor_") as folder:
        cfg = tiny_config("detection", "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", 1)
        weights = save_weights(build_model(cfg).state_dict(), cfg.dump(), Path(folder) / "weights.pt")
        cfg.MODEL.WEIGHTS = str(weights)
        stage(f"exporting to {form}")
        try:
            report = export_model(cfg, Path(folder) / f"model{SUFFIXES[form]}", form)
        except WeightsError as error:
            text = re.sub(r"^\S+: (deleted: )?", "", str(error))
            remedy = (
                "pip install --upgrade 'vmae_det[onnx]'"
                if form == "onnx"
                else "install another version of torch"
            )
            raise Problem(FAILED, text, remedy) from None
    return f"scores differ by {report.difference:.0e} (tolerance {TOLERANCE:.0e})"


def onnx_providers(stage: Stage) -> str:
    """Return the execution providers of onnxruntime."""
    stage("importing onnxruntime")
    import onnxruntime

    return ", ".join(onnxruntime.get_available_providers())
