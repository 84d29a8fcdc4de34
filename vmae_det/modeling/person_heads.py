"""Person heads: the boxes of the people in the keyframe of a clip, from the tokens of the backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.modeling.backbones.blocks import LAYER_NORM_EPS
from vmae_det.modeling.build import PERSON_HEAD_REGISTRY
from vmae_det.utils import distributed

# Scales of the maps, in cells per patch and side, as published.
_SCALES = (4, 2, 1, 0.5)
# Boxes of a clip that enter non-maximum suppression, as in torchvision.
MAX_CANDIDATES = 1000
# Initial distances to the sides, in cells. From 0, the ReLU behind them would stop half of the gradients.
_INITIAL_DISTANCE = 4.0
# Channels of a group of GroupNorm: those of torchvision's FCOS, which has 32 groups of 256 channels.
_CHANNELS_PER_GROUP, _MAX_GROUPS = 8, 32


class PersonPredictions(NamedTuple):
    """What the head computes for each of the A cells of its maps.

    Args:
        logits: (B, A), of a person.
        distances: (B, A, 4), from the center of the cell to the left, top, right and bottom side of the box,
            in cells.
        centerness: (B, A), logits of how central the cell is in the box.
        cells: (A, 4), the cells as xyxy boxes in pixels.
    """

    logits: torch.Tensor
    distances: torch.Tensor
    centerness: torch.Tensor
    cells: torch.Tensor


@PERSON_HEAD_REGISTRY.register()
class FcosPersonHead(nn.Module):
    """FCOS (Tian et al., 2019) for people, on a feature pyramid of the tokens of a plain vision transformer.

    After SE-STAD (Sui et al., 2022): the tokens of the keyframe's time slice after four blocks are resized by
    4, 2, 1 and 1/2, summed from the coarsest map to the finest, and convolved. Towers of convolutions, shared
    by the maps, compute the outputs of each cell.

    Args:
        in_dim: channels of a token.
        patch_size: pixels per side of a token.
        blocks: numbers of the blocks, from 1 on, whose tokens the head takes, one for each map.
        scales: of the maps, finest first: cells per patch and side. Each is half of the one before.
        channels: of the maps.
        num_convs: convolutions of each of the two towers.
        max_distance: a cell finds a person whose farthest side is up to this many cells away, and more than
            half of it. The finest map also finds nearer ones, and the coarsest map farther ones.
        score_threshold: boxes below this score are dropped.
        nms_threshold: of two boxes with an IoU above this, the one with the lower score is dropped.
        max_persons: largest number of boxes of a clip.
    """

    def __init__(
        self,
        in_dim: int,
        patch_size: int,
        *,
        blocks: Sequence[int],
        scales: Sequence[float] = _SCALES,
        channels: int = 256,
        num_convs: int = 4,
        max_distance: float = 16.0,
        score_threshold: float = 0.35,
        nms_threshold: float = 0.3,
        max_persons: int = 30,
    ) -> None:
        super().__init__()
        from torchvision.models.detection import fcos  # slow to import, and only detectors need it
        from torchvision.models.detection._utils import BoxLinearCoder

        self.blocks = tuple(blocks)
        self.strides = tuple(1 / scale for scale in scales)  # sides of the cells, as fractions of a patch
        self.patch_size = patch_size
        self.max_distance = max_distance
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_persons = max_persons
        self.box_coder = BoxLinearCoder(normalize_by_size=True)
        self.norms = nn.ModuleList(nn.LayerNorm(in_dim, eps=LAYER_NORM_EPS) for _ in self.strides)
        self.laterals = nn.ModuleList(nn.Linear(in_dim, channels) for _ in self.strides)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in self.strides)
        groups = math.gcd(channels, min(max(channels // _CHANNELS_PER_GROUP, 1), _MAX_GROUPS))
        norm = partial(nn.GroupNorm, groups)
        self.classification = fcos.FCOSClassificationHead(channels, 1, 1, num_convs, norm_layer=norm)
        self.regression = fcos.FCOSRegressionHead(channels, 1, num_convs, norm_layer=norm)
        nn.init.constant_(self.regression.bbox_reg.bias, _INITIAL_DISTANCE)
        for layer in (*self.laterals, *self.outputs):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_dim: int, patch_size: int) -> FcosPersonHead:
        """Build the head that MODEL.PERSON_HEAD describes. See the class for `in_dim` and `patch_size`."""
        node = cfg.MODEL.PERSON_HEAD
        return cls(
            in_dim,
            patch_size,
            blocks=node.BLOCKS or evenly_spread(cfg.MODEL.BACKBONE.DEPTH, len(node.SCALES)),
            scales=node.SCALES,
            channels=node.CHANNELS,
            num_convs=node.NUM_CONVS,
            max_distance=node.MAX_DISTANCE,
            score_threshold=node.SCORE_THRESHOLD,
            nms_threshold=node.NMS,
            max_persons=node.MAX_PERSONS,
        )

    def forward(self, tokens: Sequence[torch.Tensor], grid: tuple[int, int]) -> PersonPredictions:
        """Return the outputs of all cells.

        Args:
            tokens: of the keyframe's time slice after each of `blocks`, (B, h * w, C).
            grid: (h, w).
        """
        maps = self._pyramid(tokens, grid)
        distances, centerness = self.regression(maps)
        logits = self.classification(maps)
        cells = [
            _cells(features.shape[-2:], stride * self.patch_size, features.device)
            for features, stride in zip(maps, self.strides)
        ]
        return PersonPredictions(
            logits.squeeze(2).float(), distances.float(), centerness.squeeze(2).float(), torch.cat(cells)
        )

    def _pyramid(self, tokens: Sequence[torch.Tensor], grid: tuple[int, int]) -> list[torch.Tensor]:
        """Return the maps (B, channels, rows, columns), finest first."""
        sizes = [tuple(_length(side, stride) for side in grid) for stride in self.strides]
        maps = []
        for x, norm, lateral, size in zip(tokens, self.norms, self.laterals, sizes):
            x = lateral(norm(x)).transpose(1, 2).unflatten(2, grid)  # (B, channels, h, w)
            maps.append(_resize(x, size))
        for fine in reversed(range(len(maps) - 1)):
            coarse = F.interpolate(maps[fine + 1], size=sizes[fine], mode="nearest")
            maps[fine] = maps[fine] + coarse
        return [convolution(features) for convolution, features in zip(self.outputs, maps)]

    # ---------------------------------------------------------------- training

    def losses(
        self, predictions: PersonPredictions, boxes: Sequence[torch.Tensor], complete: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the losses: focal loss of the cells, and GIoU and centerness losses of cells with a person.

        They are sums over the cells of all processes, divided by the number of cells with a person.
        Data-parallel training averages the losses of the processes; that average equals the loss of one
        process.

        Args:
            boxes: the people of each clip, (N_i, 4) xyxy pixels.
            complete: bool (B,), whether these are all people. Other clips do not count.
        """
        from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

        cells = predictions.cells
        targets, has_person = self.assign(cells, boxes)  # (B, A, 4), (B, A)
        in_complete = complete[:, None].to(cells.dtype)  # (B, 1)
        positive = has_person * in_complete
        count = distributed.all_reduce_sum(positive.sum()).clamp(min=1)
        scale = distributed.get_world_size() / count

        focal = sigmoid_focal_loss(predictions.logits, has_person.to(cells.dtype))
        giou = generalized_box_iou_loss(self.box_coder.decode(predictions.distances, cells), targets)
        sides = self.box_coder.encode(cells, targets)  # (B, A, 4)
        centerness = F.binary_cross_entropy_with_logits(
            predictions.centerness, _centerness(sides), reduction="none"
        )
        return {
            "class": (focal * in_complete).sum() * scale,
            "box": (giou * positive).sum() * scale,
            "centerness": (centerness * positive).sum() * scale,
        }

    def assign(self, cells: torch.Tensor, boxes: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the box (B, A, 4) that each cell should find, and whether it should find one: bool (B, A).

        A cell finds a person if its center is in the box, and if the distance to the farthest side is in the
        range of its map. Of several people, it finds the smallest. The box of a cell without a person is the
        cell.

        As in the first version of FCOS, any cell in the box counts. With only those near the center, which
        later versions use, a small model learns more slowly.

        Args:
            cells: (A, 4) xyxy pixels.
            boxes: the people of each clip, (N_i, 4) xyxy pixels.
        """
        most = max(1, *map(len, boxes))
        # Empty boxes, which contain no cell, fill up the clips with fewer people.
        people = torch.stack([F.pad(own.to(cells), (0, 0, 0, most - len(own))) for own in boxes])[:, None]
        stride = (cells[:, 2] - cells[:, 0])[:, None]  # (A, 1)
        center = ((cells[:, :2] + cells[:, 2:]) / 2)[:, None]  # (A, 1, 2)
        sides = torch.cat([center - people[..., :2], people[..., 2:] - center], dim=-1)  # (B, A, N, 4)
        farthest, limit = sides.amax(dim=-1), self.max_distance * stride
        low = torch.where(stride > self.strides[0] * self.patch_size, limit / 2, 0)
        high = torch.where(stride < self.strides[-1] * self.patch_size, limit, torch.inf)
        finds = (sides.amin(dim=-1) > 0) & (farthest > low) & (farthest <= high)
        area = (people[..., 2:] - people[..., :2]).prod(dim=-1)  # (B, 1, N)
        smallest, person = torch.where(finds, area, torch.inf).min(dim=-1)  # (B, A)
        has_person = smallest < torch.inf
        found = people[:, 0].gather(1, person[..., None].expand(-1, -1, 4))
        return torch.where(has_person[..., None], found, cells), has_person

    # ---------------------------------------------------------------- testing

    def persons(
        self, predictions: PersonPredictions, sizes: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the boxes (N_i, 4), xyxy pixels, and the scores (N_i,) of the people of each clip.

        The scores are in [0, 1] and fall.

        Args:
            sizes: (B, 2), width and height of each frame without padding.
        """
        found = [self.suppress(*clip) for clip in zip(*self.candidates(predictions, sizes))]
        return [boxes for boxes, _ in found], [scores for _, scores in found]

    def candidates(
        self, predictions: PersonPredictions, sizes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the box of each cell (B, A, 4), clipped to the frame, and its score (B, A).

        The score is the geometric mean of the probabilities of a person and of centerness. It is 0 for a box
        that is less than a pixel wide or high, such as one in the padding.

        Args:
            sizes: (B, 2), width and height of each frame without padding.
        """
        boxes = self.box_coder.decode(predictions.distances, predictions.cells)
        limit = sizes.to(boxes).repeat(1, 2)[:, None]  # (B, 1, 4)
        boxes = boxes.clamp(min=0).minimum(limit)
        scores = (predictions.logits.sigmoid() * predictions.centerness.sigmoid()).sqrt()
        return boxes, scores * (boxes[..., 2:] - boxes[..., :2] >= 1).all(dim=-1)

    def suppress(self, boxes: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the boxes (N, 4) and scores (N,) of a clip that remain of its candidates (A, 4) and (A,)."""
        from torchvision.ops import nms

        scores, order = scores.topk(min(MAX_CANDIDATES, len(scores)))
        kept = scores >= max(self.score_threshold, torch.finfo(scores.dtype).tiny)
        scores, boxes = scores[kept], boxes[order[kept]]
        # Not batched_nms: its boxes are shifted by multiples of a number that depends on all clips.
        best = nms(boxes, scores, self.nms_threshold)[: self.max_persons]
        return boxes[best], scores[best]


def evenly_spread(depth: int, count: int) -> tuple[int, ...]:
    """Return the numbers, from 1 on, of `count` of `depth` blocks, the last one included.

    Of fewer than `count` blocks, some repeat.
    """
    return tuple(math.ceil(depth * part / count) for part in range(1, count + 1))


def _length(side: int, stride: float) -> int:
    """Return the cells along a side of the grid, by integer arithmetic, which torch.export can trace."""
    return side * round(1 / stride) if stride <= 1 else -(-side // round(stride))


def _resize(x: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Resize (B, C, h, w): bilinear to a larger size, or the mean of 2 x 2 values."""
    if size[0] > x.shape[2]:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    if size == tuple(x.shape[2:]):
        return x
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def _cells(shape: Sequence[int], side: float, device: torch.device) -> torch.Tensor:
    """Return the cells (rows * columns, 4) of a map as xyxy boxes in pixels."""
    rows, columns = (side * torch.arange(number, device=device).float() for number in shape)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y, x + side, y + side], dim=2).flatten(0, 1)


def _centerness(sides: torch.Tensor) -> torch.Tensor:
    """Return the centerness (...) of the distances (..., 4) to the sides: 1 at the center, 0 at a side."""
    horizontal, vertical = sides[..., 0::2], sides[..., 1::2]
    ratios = [pair.amin(dim=-1) / pair.amax(dim=-1) for pair in (horizontal, vertical)]
    return (ratios[0] * ratios[1]).sqrt()
