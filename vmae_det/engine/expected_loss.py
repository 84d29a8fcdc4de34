"""The loss of a model that has learned nothing, and the smallest possible one, to judge a training loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from vmae_det.config import CfgNode
from vmae_det.config.checks import num_classes
from vmae_det.data.mixup import GROUP_SIZE, BatchMixing
from vmae_det.modeling import model_class
from vmae_det.modeling.classification import mix_labels, smooth_labels

_MIXED_BATCHES = 400  # whose mean entropy is computed; its standard error is then below 0.01


@dataclass(frozen=True)
class ExpectedLoss:
    """Values to compare a training loss with.

    Args:
        constant: loss of the best prediction that does not depend on the clip, or of equal scores.
        smallest: loss of perfect predictions.
        per: what the loss is per, if not a mean over the batch, such as "box".
    """

    constant: float
    smallest: float = 0.0
    per: str = ""


def expected_loss(cfg: CfgNode) -> ExpectedLoss | None:
    """Return the values for a config; None if they depend on the data or the model is a custom one."""
    if cfg.SOLVER.CLASS_BALANCE != "none":
        return None
    functions = {
        "pretraining": _pretraining_loss,
        "contrastive": _contrastive_loss,
        "classification": _classification_loss,
        "detection": _detection_loss,
    }
    function = functions.get(model_class(cfg).task)
    return function(cfg) if function else None


def _pretraining_loss(cfg: CfgNode) -> ExpectedLoss | None:
    """Predict the mean of each cube: normalized values are 0 then, and their unbiased variance is 1."""
    node, backbone = cfg.MODEL.RECONSTRUCTION, cfg.MODEL.BACKBONE
    if not node.NORMALIZE or node.LOSS != "mse" or node.NUM_FRAMES not in (0, cfg.INPUT.NUM_FRAMES):
        return None
    pixels = backbone.TUBELET_SIZE * backbone.PATCH_SIZE**2
    return ExpectedLoss(1 - 1 / pixels)


def _contrastive_loss(cfg: CfgNode) -> ExpectedLoss:
    """Predict equal similarities of all pairs.

    The smallest loss has equal features of the views of a video, and those of N videos in the corners of a
    simplex: a cosine of -1 / (N - 1) with each other. It needs N - 1 dimensions.
    """
    clips = cfg.SOLVER.BATCH_SIZE * cfg.DATALOADER.REPEATED_AUG // cfg.SOLVER.ACCUMULATE
    temperature = cfg.MODEL.MOCO.TEMPERATURE
    difference = 1 + 1 / (clips - 1)
    smallest = math.log1p((clips - 1) * math.exp(-difference / temperature))
    return ExpectedLoss(4 * temperature * math.log(clips), 4 * temperature * smallest)


def _classification_loss(cfg: CfgNode) -> ExpectedLoss:
    """Predict equal scores, and, as the smallest loss, the smoothed and mixed labels themselves.

    The cross-entropy of a prediction that equals the label is the entropy of the label.
    """
    classes, smoothing = num_classes(cfg, "CLASSIFIER"), cfg.MODEL.CLASSIFIER.LABEL_SMOOTHING
    size, mixing = cfg.INPUT.CROP_SIZE, BatchMixing.from_config(cfg)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (_MIXED_BATCHES, GROUP_SIZE), generator=generator)
    if mixing is None:
        targets = smooth_labels(labels[:1], classes, smoothing).flatten(0, 1)
    else:
        mixing.copies = 1
        targets = torch.cat(
            [
                mix_labels(
                    label,
                    mixing(number, GROUP_SIZE),
                    num_classes=classes,
                    smoothing=smoothing,
                    size=(size, size),
                )
                for number, label in enumerate(labels)
            ]
        )
    return ExpectedLoss(math.log(classes), float(torch.special.entr(targets).sum(1).mean()))


def _detection_loss(cfg: CfgNode) -> ExpectedLoss | None:
    """Predict a score of 0.5 for all classes; a model that predicts the frequency of each class has less."""
    if cfg.MODEL.PERSON_HEAD.NAME:
        return None
    head = cfg.MODEL.ROI_HEAD
    value = head.FOCAL_ALPHA * 0.5**head.FOCAL_GAMMA * math.log(2)
    return ExpectedLoss(value, per="box" if head.LOSS == "sum" else "")
