"""Evaluates exported models on datasets, as `engine.evaluation` evaluates weights."""

from __future__ import annotations

import torch
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.data.classes import ModelClasses
from vmae_det.engine.evaluation import run_evaluation
from vmae_det.engine.trainer import to_device
from vmae_det.inference.export.exported_model import is_exported
from vmae_det.inference.scorers import Scorer, load_scorer, read_stored_metadata


class ScorerModule(nn.Module):
    """A `Scorer` with the interface of a model in testing."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, batch: dict) -> dict:
        """Return {"scores": list of (N_i, classes)}; of a classifier (B, classes).

        If the scorer finds the persons of a batch without boxes, return `boxes` and `person_scores` too.
        """
        batch = to_device(batch, torch.device("cpu"))
        if self.scorer.finds_persons and "boxes" not in batch:
            found = self.scorer.find(batch)._asdict()
            return {name: list(map(torch.from_numpy, values)) for name, values in found.items()}
        scores = list(map(torch.from_numpy, self.scorer(batch)))
        return {"scores": scores if "boxes" in batch else torch.cat(scores)}


def evaluate(cfg: CfgNode) -> dict[str, float]:
    """Evaluate MODEL.WEIGHTS, weights or an exported model, on DATASETS.TEST. See `run_evaluation`."""
    if not is_exported(cfg.MODEL.WEIGHTS):
        return run_evaluation(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.AMP = "none"  # the precision is fixed in the file
    return run_evaluation(cfg, _load_exported)


def _load_exported(cfg: CfgNode) -> tuple[nn.Module, ModelClasses | None]:
    scorer = load_scorer(cfg, cfg.MODEL.META_ARCHITECTURE)
    stored = read_stored_metadata(cfg.MODEL.WEIGHTS)["label_map"]
    return ScorerModule(scorer), ModelClasses.from_checkpoint(stored, cfg.MODEL.WEIGHTS)
