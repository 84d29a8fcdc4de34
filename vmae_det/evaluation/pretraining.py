"""Reconstruction loss of a masked autoencoder on videos that it was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.evaluation.evaluator import EVALUATOR_REGISTRY, Evaluator, gather
from vmae_det.utils.errors import DataError
from vmae_det.utils.output_files import write_json


@EVALUATOR_REGISTRY.register_as("pretraining")
class ReconstructionEvaluator(Evaluator):
    """Mean loss over clips. A batch holds index (B,), predictions hold loss (B,)."""

    metrics = ("reconstruction_loss",)
    lower_is_better = True

    def reset(self) -> None:
        """Forget all losses."""
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._metrics: dict[str, float] = {}

    def process(self, batch: dict[str, Any], predictions: dict[str, Any]) -> None:
        """Keep the loss of each clip."""
        loss = predictions["loss"].detach().double().cpu().numpy()
        self._parts.append((np.asarray(batch["index"]), loss))

    def evaluate(self) -> dict[str, float]:
        """reconstruction_loss, in units of MODEL.RECONSTRUCTION."""
        parts = [part for parts in gather(self._parts) for part in parts]
        if not parts:
            raise DataError("no video was reconstructed; is the dataset empty?", str(self.spec.videos))
        index, loss = (np.concatenate(column) for column in zip(*parts))
        _, once = np.unique(index, return_index=True)
        self._metrics = {"reconstruction_loss": float(loss[once].mean())}
        return self._metrics

    def write(self, folder: Path) -> None:
        """Save metrics.json."""
        if not self._metrics:
            return
        write_json(folder / "metrics.json", self._metrics)
