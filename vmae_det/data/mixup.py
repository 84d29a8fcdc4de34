"""Random parameters of MixUp (Zhang et al., 2018) and CutMix (Yun et al., 2019) for training batches.

The model applies them to the clips and labels on its device, see vmae_det.modeling.classification.
"""

from __future__ import annotations

import numpy as np
import torch

from vmae_det.config import CfgNode

CUTMIX_PROBABILITY = 0.5  # of each group, if MixUp is enabled as well
# Videos with common parameters: the batch of one process in the published runs (64 processes of 8 videos).
GROUP_SIZE = 8
_RANDOM_STREAM = 1  # separates these random numbers from those of sample orders and clips


class BatchMixing:
    """Draws the parameters of MixUp or CutMix for each group of videos in a batch.

    A group is GROUP_SIZE consecutive videos, with all their copies, in the batch of one forward pass over all
    processes. Therefore the parameters do not depend on the number of processes.

    Args:
        mixup: alpha of the distribution Beta(alpha, alpha) of the weight of the first clip; 0 disables MixUp.
        cutmix: alpha for the area that the first clip keeps; 0 disables CutMix.
        size: side of the clips in pixels.
        copies: number of consecutive clips from the same video, which are not mixed with each other.
        seed: random seed. Parameters depend on it, the batch number and the group number only.
    """

    def __init__(self, mixup: float, cutmix: float, *, size: int, copies: int, seed: int) -> None:
        self.mixup = mixup
        self.cutmix = cutmix
        self.size = size
        self.copies = copies
        self.seed = seed

    @classmethod
    def from_config(cls, cfg: CfgNode) -> BatchMixing | None:
        """Build from INPUT.MIXUP and INPUT.CUTMIX; None if both are 0."""
        node = cfg.INPUT
        if not (node.MIXUP or node.CUTMIX):
            return None
        return cls(
            node.MIXUP,
            node.CUTMIX,
            size=node.CROP_SIZE,
            copies=cfg.DATALOADER.REPEATED_AUG,
            seed=cfg.SEED,
        )

    def __call__(self, number: int, num_clips: int, first: int = 0) -> dict[str, torch.Tensor]:
        """Draw the parameters for `num_clips` clips of batch `number` of the run.

        Args:
            number: number of the batch.
            num_clips: number of clips of this process.
            first: position in the batch of the first of these clips, if other processes have earlier ones.

        Returns:
            `partner` (B,): the clip that each clip is mixed with.
            `box` (B, 4): rows and columns (top, bottom, left, right) of a rectangle.
            `weight` (B,): weight of the clip itself inside the rectangle. Outside it is 1.
        """
        groups = (first + torch.arange(num_clips)) // (GROUP_SIZE * self.copies)
        numbers, members = groups.unique(return_inverse=True)
        boxes, weights = zip(*(self._draw(number, group) for group in numbers.tolist()))
        return {
            "partner": mixing_partners(num_clips, self.copies),
            "box": torch.tensor(boxes)[members],
            "weight": torch.tensor(weights, dtype=torch.float32)[members],
        }

    def _draw(self, number: int, group: int) -> tuple[tuple[int, int, int, int], float]:
        """Draw the rectangle and the weight of a group."""
        entropy = np.random.SeedSequence((self.seed, number, group), spawn_key=(_RANDOM_STREAM,))
        rng = np.random.default_rng(entropy)
        is_cutmix = self.cutmix > 0 and (self.mixup == 0 or rng.random() < CUTMIX_PROBABILITY)
        alpha = self.cutmix if is_cutmix else self.mixup
        weight = rng.beta(alpha, alpha)
        return (
            (self._random_square(1 - weight, rng), 0.0)
            if is_cutmix
            else ((0, self.size, 0, self.size), weight)
        )

    def _random_square(self, area: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Return a square with this fraction of the area around a random pixel, clipped to the frame."""
        side = int(self.size * area**0.5)
        top, left = rng.integers(self.size, size=2) - side // 2
        edges = np.clip([top, top + side, left, left + side], 0, self.size)
        return tuple(edges.tolist())


def mixing_partners(batch_size: int, copies: int) -> torch.Tensor:
    """Return the clip (B,) that each clip of a batch is mixed with.

    Consecutive videos form a pair, copy by copy. Each process has a contiguous part of the batch, so pairs do
    not depend on the number of processes if each has an even number of videos. The last one of an odd
    number is mixed with the video before it, a single one with itself.
    """
    videos = np.arange(batch_size // copies)
    other = np.where(videos ^ 1 < len(videos), videos ^ 1, max(len(videos) - 2, 0))
    return torch.from_numpy((other[:, None] * copies + np.arange(copies)).reshape(-1))
