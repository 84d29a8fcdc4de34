"""Mixup and CutMix parameters of training batches."""

from __future__ import annotations

import numpy as np
import torch

from vmae_det.config import CfgNode

CUTMIX_SHARE = 0.5  # of the groups, where mixup is on as well
GROUP_SIZE = 8  # videos that are mixed alike: those of one process in the published runs (64 processes of 8)
_MIXING_STREAM = 1  # keeps the draws of batches apart from those of orders and clips


class BatchMixing:
    """What mixup (Zhang et al., 2018) or cutmix (Yun et al., 2019) does to each batch, drawn group by group.

    A group is GROUP_SIZE videos in a row, with all their copies, of the batch of one forward pass over all
    processes. So the draws are the same for any number of processes.

    Args:
        mixup: alpha of the Beta(alpha, alpha) of the share of the first clip; 0: no mixup.
        cutmix: alpha of that of the area that the first clip keeps; 0: no cutmix.
        size: side of the clips in pixels.
        copies: clips in a row that come from one video; they are not mixed with each other.
        seed: of all draws, which follow from it, the number of the batch and that of the group.
    """

    def __init__(self, mixup: float, cutmix: float, *, size: int, copies: int, seed: int) -> None:
        self.mixup = mixup
        self.cutmix = cutmix
        self.size = size
        self.copies = copies
        self.seed = seed

    @classmethod
    def from_config(cls, cfg: CfgNode) -> BatchMixing | None:
        """What INPUT.MIXUP and INPUT.CUTMIX describe; None where both are 0."""
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
        """For `num_clips` clips of batch `number` of the run: what vmae_det.modeling.classification takes.

        `partner` (B,), the clip that each is mixed with; `box` (B, 4), rows and columns top, bottom, left,
        right of a rectangle; `weight` (B,), the share of a clip itself inside of it. Outside it is alone.

        Args:
            first: place in the batch of the first of these clips, where other processes hold those before it.
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
        """The rectangle and the weight of a group."""
        entropy = np.random.SeedSequence((self.seed, number, group), spawn_key=(_MIXING_STREAM,))
        rng = np.random.default_rng(entropy)
        cut = self.cutmix > 0 and (self.mixup == 0 or rng.random() < CUTMIX_SHARE)
        alpha = self.cutmix if cut else self.mixup
        share = rng.beta(alpha, alpha)
        return (self._rectangle(1 - share, rng), 0.0) if cut else ((0, self.size, 0, self.size), share)

    def _rectangle(self, area: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """A square of this share of the area around a random pixel, cut at the borders of the frame."""
        side = int(self.size * area**0.5)
        top, left = rng.integers(self.size, size=2) - side // 2
        edges = np.clip([top, top + side, left, left + side], 0, self.size)
        return tuple(edges.tolist())


def mixing_partners(batch_size: int, copies: int) -> torch.Tensor:
    """The clip (B,) that each clip of a batch is mixed with.

    Videos that follow each other make a pair, copy by copy. Processes hold successive parts of a batch, so a
    pair is the same in any number of them as long as each holds an even number of videos. An odd one out is
    mixed with the video before it, a single one with itself.
    """
    videos = np.arange(batch_size // copies)
    other = np.where(videos ^ 1 < len(videos), videos ^ 1, max(len(videos) - 2, 0))
    return torch.from_numpy((other[:, None] * copies + np.arange(copies)).reshape(-1))
