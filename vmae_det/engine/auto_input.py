"""Choose size, stride and number of clips of `vmae-det train --data` by the videos."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.config.cfg_node import value_of
from vmae_det.data.loader import ConcatClipDataset
from vmae_det.engine.auto_choices import Choices
from vmae_det.video.probe import probe_video

_PROBED = 16  # videos whose header is read
_FEW_CLIPS = 5000


@dataclass(frozen=True)
class VideoFacts:
    """Medians over some videos of a dataset: frames per second, seconds, frames, short side in pixels."""

    rate: float
    seconds: float
    frames: int
    short_side: int


def choose_input(choices: Choices, dataset: ConcatClipDataset) -> None:
    """Choose size and stride of clips by the videos."""
    facts = probe_dataset(dataset)
    node, patch = choices.cfg.INPUT, choices.cfg.MODEL.BACKBONE.PATCH_SIZE
    if facts is None:
        return
    fps = 12 if choices.is_tiny else 30  # of the videos that the recipes are for
    span = node.NUM_FRAMES * node.SAMPLING_RATE / fps
    stride = max(round(span * facts.rate / node.NUM_FRAMES), 1)
    if choices.task == "classification":
        stride = max(min(stride, facts.frames // node.NUM_FRAMES), 1)
    covered = node.NUM_FRAMES * stride / facts.rate
    reason = f"{node.NUM_FRAMES} frames in {covered:.3g} s at {facts.rate:.4g} fps"
    choices.set("INPUT.SAMPLING_RATE", stride, reason)
    crop = max(min(choices.recipe_crop, facts.short_side // patch * patch), 2 * patch)
    choices.set("INPUT.CROP_SIZE", crop, f"the short side of the videos is {facts.short_side} pixels")
    for key, ratio in choices.side_ratios.items():
        side = round(ratio * node.CROP_SIZE)
        if value_of(choices.cfg, key) != side:
            choices.set(key, side, f"{ratio:.3g} x CROP_SIZE, as in the recipe")
    covered = node.NUM_FRAMES * node.SAMPLING_RATE / facts.rate
    reason = f"videos of {facts.seconds:.3g} s, clips of {covered:.3g} s"
    if choices.task == "pretraining":
        choices.set("DATALOADER.CLIPS_PER_VIDEO", max(min(round(facts.seconds / covered), 100), 1), reason)
    if choices.task == "classification":
        choices.set("TEST.NUM_CLIPS", max(min(math.ceil(facts.seconds / covered - 0.25), 5), 1), reason)
        if len(dataset) < _FEW_CLIPS and not choices.is_tiny:
            off = {"INPUT.MIXUP": 0.0, "INPUT.CUTMIX": 0.0, "DATALOADER.REPEATED_AUG": 1}
            for key, value in off.items():
                choices.set(key, value, f"fewer than {_FEW_CLIPS} clips, so a short run")


def probe_dataset(dataset: ConcatClipDataset) -> VideoFacts | None:
    """Return the medians over up to 16 videos of a dataset; None if none of them can be read."""
    files = [path for part in dataset.datasets for path in _some(part.files)]
    infos = [probe_video(str(path), decode="none") for path in files]
    infos = [info for info in infos if not info.problem and info.frames and info.rate]
    if not infos:
        return None

    def median(values: list[float]) -> float:
        return float(np.median(values))

    return VideoFacts(
        rate=median([info.rate for info in infos]),
        seconds=median([info.seconds for info in infos]),
        frames=int(median([info.frames for info in infos])),
        short_side=int(median([min(info.width, info.height) for info in infos])),
    )


def _some(files: Any) -> list[Path]:
    positions = np.unique(np.linspace(0, len(files) - 1, min(len(files), _PROBED)).astype(int))
    return [files[int(position)] for position in positions]
