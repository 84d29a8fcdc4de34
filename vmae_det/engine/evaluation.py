"""The evaluation loop: a model over a test set, its predictions to an evaluator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from vmae_det.engine.trainer import AMP_TYPES, to_device
from vmae_det.evaluation.evaluators import Evaluator
from vmae_det.utils import distributed
from vmae_det.utils.watchdog import heartbeat


@torch.no_grad()
def run_inference(
    model: nn.Module,
    loader: Iterable[list[dict[str, Any]]],
    evaluator: Evaluator,
    device: torch.device,
    amp: str = "none",
) -> dict[str, float]:
    """Metrics of `model` on all batches of all processes; the model is left in evaluation mode."""
    model.eval()
    evaluator.reset()
    amp_type = AMP_TYPES[amp]
    main = distributed.is_main_process()
    for batches in tqdm(loader, desc="evaluating", unit="batch", disable=None if main else True, leave=False):
        heartbeat()
        for batch in batches:
            with torch.autocast(device.type, amp_type, enabled=amp_type is not None):
                predictions = model(to_device(batch, device))
            evaluator.process(batch, predictions)
    heartbeat()
    return evaluator.evaluate()
