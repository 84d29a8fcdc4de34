"""Saves a model as a folder for Hugging Face Transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmae_det.checkpoint.convert import write_huggingface_folder
from vmae_det.checkpoint.huggingface_config import ARCHITECTURES
from vmae_det.config import CfgNode
from vmae_det.engine.weights import build_model_with_weights


@dataclass(frozen=True)
class PretrainedReport:
    """Summary of a saved folder.

    Args:
        folder: path of the folder.
        architecture: Transformers' class of the model.
        parameters: number of parameter tensors.
        named: whether `id2label` has the names of a label map.
    """

    folder: Path
    architecture: str
    parameters: int
    named: bool

    def __str__(self) -> str:
        text = f"{self.folder}: {self.parameters} parameters, for {self.architecture}.from_pretrained"
        return text + (", with class names" if self.named else "")


def save_pretrained(cfg: CfgNode, folder: str | Path, label_map: dict[str, Any] | None) -> PretrainedReport:
    """Save the model of a config, with the weights of MODEL.WEIGHTS, as Transformers' `save_pretrained` does.

    Args:
        label_map: fields of a LabelMap, or None.

    Raises:
        WeightsError: the weights do not fit or are incomplete, or Transformers has no such model.
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    weights = build_model_with_weights(cfg, complete=True).state_dict()
    write_huggingface_folder(weights, cfg, label_map, folder)
    architecture = ARCHITECTURES[cfg.MODEL.META_ARCHITECTURE]
    return PretrainedReport(folder, architecture, len(weights), label_map is not None)
