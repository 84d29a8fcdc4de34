"""Test-time augmentation of detection: clips at several short sides and flipped, with averaged scores.

A batch of the test loader, or of a video stream, contains the clips at the first of TEST.SHORT_SIDES. Its
entry `views` contains them at the others. Flipped views are made when they are scored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from vmae_det.config import CfgNode
from vmae_det.data import transforms
from vmae_det.data.classes import sided_classes
from vmae_det.data.transforms import Clip
from vmae_det.formats.label_map import LabelMap
from vmae_det.modeling import model_class

logger = logging.getLogger(__name__)

Scores = TypeVar("Scores", torch.Tensor, np.ndarray)


def add_persons(batch: dict[str, Any], persons: dict[str, list[torch.Tensor]]) -> dict[str, Any]:
    """Return a batch with the people that a model found at its first short side, in all of its views.

    Args:
        batch: `size`, list of (2,) width and height without padding; and `views` with a `size` each.
        persons: `boxes`, list of (N_i, 4) xyxy pixels at the first short side, and `person_scores`.
    """
    views = []
    for view in batch.get("views", ()):
        factors = [(new / old).repeat(2) for new, old in zip(view["size"], batch["size"])]
        boxes = [own * factor.to(own) for own, factor in zip(persons["boxes"], factors)]
        views.append(view | {"boxes": boxes})
    own = {name: persons[name] for name in ("boxes", "person_scores")}
    return batch | own | ({"views": views} if views else {})


def views_of(batch: dict[str, Any], flip: bool = False) -> Iterator[dict[str, Any]]:
    """Yield a batch for each view of its clips: each short side, and after it the same clips flipped."""
    first = {key: value for key, value in batch.items() if key != "views"}
    for view in (first, *(first | further for further in batch.get("views", ()))):
        yield view
        if flip:
            yield flip_batch(view)


def flip_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch with its clips and boxes flipped horizontally. The padding stays on the right.

    Args:
        batch: `video` (B, 3, T, H, W); `boxes`, list of (N_i, 4) xyxy pixels; and `size`, list of (2,), width
            and height without padding (default: those of the video).
    """
    video = batch["video"].clone()
    sizes = batch.get("size") or [(video.shape[-1], video.shape[-2])] * len(video)
    boxes = []
    for frames, own_boxes, size in zip(video, batch["boxes"], sizes):
        width = round(float(size[0]))
        flipped = transforms.flip(Clip(frames[..., :width], own_boxes))
        frames[..., :width] = flipped.frames
        boxes.append(flipped.boxes)
    return batch | {"video": video, "boxes": boxes}


def average_scores(views: Sequence[Sequence[Scores]]) -> list[Scores]:
    """Return the mean over views of the scores (N_i, classes) of each clip. A single view is unchanged."""
    if len(views) == 1:
        return list(views[0])
    return [sum(scores) / len(views) for scores in zip(*views)]


def has_several_views(cfg: CfgNode) -> bool:
    """Return whether a keyframe is scored in several views."""
    detects = model_class(cfg).task == "detection"
    return detects and len(transforms.detection_short_sides(cfg)) * (1 + cfg.TEST.FLIP) > 1


def describe_views(cfg: CfgNode) -> str:
    """Return the number of views of a keyframe and what they are."""
    sides = transforms.detection_short_sides(cfg)
    several = len(sides) > 1
    text = f"{len(sides) * (1 + cfg.TEST.FLIP)} views: short side{'s' * several} {', '.join(map(str, sides))}"
    return f"{text}, {'each ' * several}also flipped" if cfg.TEST.FLIP else text


def log_views(cfg: CfgNode) -> None:
    """Log the views of a keyframe if there are several."""
    if has_several_views(cfg):
        logger.info("test-time augmentation: scores are means over %s", describe_views(cfg))


def warn_about_flip(cfg: CfgNode, label_map: LabelMap | None) -> None:
    """Log a warning if left and right matter to the classes or to the model, for a run with TEST.FLIP."""
    sided = sided_classes(label_map)
    if sided:
        logger.warning("TEST.FLIP: True, but a flip turns '%s' into another class; set it to False", sided[0])
    elif cfg.INPUT.FLIP == 0:
        logger.warning("TEST.FLIP: True, but INPUT.FLIP is 0: the model was trained without flipped clips")
