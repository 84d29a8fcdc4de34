"""The losses of the three tasks."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from vmae_det.utils import distributed


def reconstruction_loss(
    prediction: torch.Tensor, target: torch.Tensor, kind: str, per_clip: bool = True
) -> torch.Tensor:
    """Mean loss of each clip (B,) over the values of its masked cubes; both arguments (B, M, values).

    Args:
        kind: "mse", "l1" or "smooth_l1".
        per_clip: False for the mean of all clips, a scalar.
    """
    function = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}[kind]
    if not per_clip:
        return function(prediction.float(), target)
    return function(prediction.float(), target, reduction="none").mean(dim=(1, 2))


def box_loss(logits: torch.Tensor, labels: torch.Tensor, reduction: str) -> torch.Tensor:
    """Binary cross-entropy of boxes (R, classes), mean over classes; over boxes the "sum" or the "mean".

    Both are over the boxes of all processes: their average over processes, which is what data-parallel
    training takes, equals the loss that one process would have had with all of these boxes.
    """
    loss = (
        F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none").mean(dim=1).sum()
    )
    loss = loss * distributed.get_world_size()
    if reduction == "mean":
        loss = loss / distributed.all_reduce_sum(logits.new_tensor(float(len(logits)))).clamp(min=1)
    return loss
