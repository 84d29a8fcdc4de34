"""Losses of pre-training and detection. Classification uses cross-entropy (`classification.py`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from vmae_det.utils import distributed


def reconstruction_loss(
    prediction: torch.Tensor, target: torch.Tensor, kind: str, per_clip: bool = True
) -> torch.Tensor:
    """Return the mean loss of each clip (B,) over the values of its masked cubes.

    Args:
        prediction, target: (B, M, values).
        kind: "mse", "l1" or "smooth_l1".
        per_clip: False to average over all clips, which returns a scalar.
    """
    function = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}[kind]
    if not per_clip:
        return function(prediction.float(), target)
    return function(prediction.float(), target, reduction="none").mean(dim=(1, 2))


def box_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    reduction: str,
    class_weights: torch.Tensor | None = None,
    *,
    focal_gamma: float = 0.0,
    focal_alpha: float = 1.0,
) -> torch.Tensor:
    """Return the cross-entropy or focal loss of R boxes: mean over classes, "sum" or "mean" over boxes.

    Sum and mean are over the boxes of all processes. Data-parallel training averages the losses of the
    processes; that average equals the loss of one process with all of these boxes.

    Args:
        logits, labels: (R, classes).
        reduction: "sum" or "mean".
        class_weights: factor of each class (classes,), of labels that are 1 as well as 0.
        focal_gamma: exponent of the focal loss (Lin et al., 2017), which is the cross-entropy times
            alpha (1 - p)^gamma, where p is the predicted probability of the label, 0 or 1.
        focal_alpha: factor of all labels, as in MMAction2. Lin et al. have another one for labels that are 0.
    """
    logits, labels = logits.float(), labels.float()
    loss = F.binary_cross_entropy_with_logits(logits, labels, weight=class_weights, reduction="none")
    if focal_gamma:
        # 1 - p as a logarithm: its power would have an infinite slope at p = 1 if gamma is below 1.
        log_error = F.logsigmoid(logits * (1 - 2 * labels))
        loss = loss * (focal_gamma * log_error).exp()
    loss = loss.mean(dim=1).sum()
    loss = loss * (focal_alpha * distributed.get_world_size())
    if reduction == "mean":
        num_boxes = distributed.all_reduce_sum(loss.new_full((), len(logits)))
        loss = loss / num_boxes.clamp(min=1)
    return loss
