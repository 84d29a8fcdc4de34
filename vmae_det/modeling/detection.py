"""Spatio-temporal action detection: the actions of each person in a clip at its keyframe."""

from __future__ import annotations

import torch
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.modeling.boxes import clip_indices, jitter_boxes, scale_boxes, to_rois
from vmae_det.modeling.build import META_ARCHITECTURE_REGISTRY, ROI_HEAD_REGISTRY, build_backbone
from vmae_det.modeling.losses import box_loss
from vmae_det.modeling.normalization import PixelNormalization
from vmae_det.utils.registry import lookup


@META_ARCHITECTURE_REGISTRY.register()
class ActionDetector(nn.Module):
    """A backbone, the mean or maximum of its tokens over time, and an RoI head on the region of each person.

    The head is called with the feature map and the boxes. If it has an attribute `takes_tokens` that is true,
    the third argument is the tokens (B, t, h, w, C).
    """

    task = "detection"

    def __init__(
        self,
        backbone: nn.Module,
        normalization: PixelNormalization,
        roi_head: nn.Module,
        *,
        box_jitter: bool = True,
        test_box_scale: tuple[float, float] = (1.1, 1.05),
        use_person_score: bool = True,
        loss: str = "sum",
        focal_gamma: float = 0.0,
        focal_alpha: float = 1.0,
        temporal_pool: str = "mean",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.normalization = normalization
        self.roi_head = roi_head
        self.box_jitter = box_jitter
        self.test_box_scale = test_box_scale
        self.use_person_score = use_person_score
        self.loss = loss
        self.focal = {"focal_gamma": focal_gamma, "focal_alpha": focal_alpha}
        self.temporal_pool = temporal_pool
        self.register_buffer("class_weights", None, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ActionDetector:
        """Build the detector that MODEL describes."""
        node = cfg.MODEL.ROI_HEAD
        backbone = build_backbone(cfg)
        head = lookup(ROI_HEAD_REGISTRY, node.NAME, "MODEL.ROI_HEAD.NAME")
        return cls(
            backbone,
            PixelNormalization(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD),
            head.from_config(cfg, in_dim=backbone.embed_dim, scale=1 / backbone.patch_size),
            box_jitter=node.BOX_JITTER,
            test_box_scale=node.TEST_BOX_SCALE,
            use_person_score=node.USE_PERSON_SCORE,
            loss=node.LOSS,
            focal_gamma=node.FOCAL_GAMMA,
            focal_alpha=node.FOCAL_ALPHA,
            temporal_pool=node.TEMPORAL_POOL,
        )

    def set_class_weights(self, weights: torch.Tensor) -> None:
        """Set the factor of each class (classes,) in the loss."""
        self.class_weights = weights.float()

    def forward(self, batch: dict) -> dict:
        """Return the loss while training, else the scores of each person.

        Args:
            batch: `video` uint8 (B, 3, T, H, W); `boxes`, list of (N_i, 4) xyxy pixels. For training also
                `labels`, list of (N_i, classes), and `seed` (B,). For testing also `person_scores`, list of
                (N_i,), and optionally `size`, list of (2,) width and height of each frame without padding.

        Returns:
            {"loss": scalar} while training, else {"scores": list of (N_i, classes)} in [0, 1].
        """
        video, counts = batch["video"], [len(boxes) for boxes in batch["boxes"]]
        height, width = video.shape[-2:]
        clips, boxes = clip_indices(batch["boxes"]), torch.cat(batch["boxes"])  # (R,), (R, 4)
        video = self.normalization(video)  # float (B, 3, T, H, W)
        if self.training:
            if self.box_jitter:
                boxes = jitter_boxes(boxes, clips, batch["seed"], height, width)
            logits = self.logits(video, to_rois(boxes, clips))
            labels = torch.cat(batch["labels"])
            return {"loss": box_loss(logits, labels, self.loss, self.class_weights, **self.focal)}
        sizes = _frame_sizes(batch, boxes, clips)
        scores = self.scores(video, boxes, clips, torch.cat(batch["person_scores"]), sizes)
        return {"scores": list(scores.split(counts))}

    def scores(
        self,
        video: torch.Tensor,
        boxes: torch.Tensor,
        clips: torch.Tensor,
        person_scores: torch.Tensor,
        sizes: torch.Tensor,
    ) -> torch.Tensor:
        """Return the scores (R, classes) in [0, 1] of R persons.

        Args:
            video: normalized float (B, 3, T, H, W).
            boxes: (R, 4) xyxy pixels from the person detector. They are scaled here.
            clips: (R,), the index in the batch of each person's clip.
            person_scores: (R,).
            sizes: (R, 2), width and height of the frame of each person's clip without padding.
        """
        boxes = scale_boxes(boxes, self.test_box_scale, sizes)
        scores = self.logits(video, to_rois(boxes, clips)).float().sigmoid()
        return scores * person_scores[:, None] if self.use_person_score else scores

    def person_features(self, batch: dict) -> list[torch.Tensor]:
        """Return the pooled features (N_i, C) of each clip's persons: the input of the head's layers.

        C is the head's `feature_dim`. It includes the context of the whole frame if the head uses it.

        Args:
            batch: as for `forward` in testing, without `person_scores`.
        """
        features = self.features(self.normalization(batch["video"]))
        pooled = self.roi_head.pool(features, self._test_rois(batch))
        return list(pooled.split([len(boxes) for boxes in batch["boxes"]]))

    def person_logits(self, batch: dict) -> torch.Tensor:
        """Return the logits (R, classes) of all persons. See `person_features` for the argument."""
        return self.logits(self.normalization(batch["video"]), self._test_rois(batch))

    def _test_rois(self, batch: dict) -> torch.Tensor:
        """Return the boxes (R, 5) at which testing pools features, with the index of their clip."""
        clips, boxes = clip_indices(batch["boxes"]), torch.cat(batch["boxes"])
        boxes = scale_boxes(boxes, self.test_box_scale, _frame_sizes(batch, boxes, clips))
        return to_rois(boxes, clips)

    def logits(self, video: torch.Tensor, boxes: list[torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """Return the logits (R, classes) of a normalized video (B, 3, T, H, W), pooled at the given boxes.

        Args:
            boxes: list of (N_i, 4) xyxy pixels, or (R, 5) with the index of the clip in the first column.
        """
        tokens = self.tokens(video)
        extra = (tokens,) if getattr(self.roi_head, "takes_tokens", False) else ()
        return self.roi_head(self._pool_time(tokens), boxes, *extra)

    def features(self, video: torch.Tensor) -> torch.Tensor:
        """Return the feature map (B, C, h, w) of a normalized video: its tokens, pooled over time."""
        return self._pool_time(self.tokens(video))

    def tokens(self, video: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, t, h, w, C) of a normalized video."""
        return self.backbone(video).unflatten(1, self.backbone.grid(video))

    def _pool_time(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens.amax(dim=1) if self.temporal_pool == "max" else tokens.mean(dim=1)
        return tokens.permute(0, 3, 1, 2)


def _frame_sizes(batch: dict, boxes: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
    """Return width and height (R, 2) without padding of the frame of each of the boxes (R, 4)."""
    if batch.get("size"):
        return torch.stack(batch["size"])[clips]
    height, width = batch["video"].shape[-2:]
    return torch.stack([boxes.new_full((len(boxes),), side) for side in (width, height)], dim=1)
