"""Spatio-temporal action detection: the actions of each person in a clip at its keyframe."""

from __future__ import annotations

import torch
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.modeling.boxes import clip_indices, jitter_boxes, scale_boxes, to_rois
from vmae_det.modeling.build import (
    META_ARCHITECTURE_REGISTRY,
    PERSON_HEAD_REGISTRY,
    ROI_HEAD_REGISTRY,
    build_backbone,
)
from vmae_det.modeling.losses import box_loss
from vmae_det.modeling.normalization import PixelNormalization
from vmae_det.modeling.person_heads import PersonPredictions
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.registry import lookup


@META_ARCHITECTURE_REGISTRY.register()
class ActionDetector(nn.Module):
    """A backbone, the mean or maximum of its tokens over time, and an RoI head on the region of each person.

    The head is called with the feature map and the boxes. If it has an attribute `takes_tokens` that is true,
    the third argument is the tokens (B, t, h, w, C).

    With a person head, the detector has one stage: it finds the people in the clips of a batch without boxes.

    Args:
        person_head: its `blocks` are the numbers of the blocks whose tokens it takes.
        person_loss_weight: factor of its losses.
        train_persons_alone: train only the person head. The rest is frozen and in evaluation mode.
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
        person_head: nn.Module | None = None,
        person_loss_weight: float = 1.0,
        train_persons_alone: bool = False,
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
        self.person_loss_weight = person_loss_weight
        self.train_persons_alone = train_persons_alone
        if train_persons_alone:
            self.requires_grad_(False)
        self.person_head = person_head

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
            person_head=_build_person_head(cfg, backbone),
            person_loss_weight=cfg.MODEL.PERSON_HEAD.LOSS_WEIGHT,
            train_persons_alone=cfg.MODEL.PERSON_HEAD.TRAIN_ALONE,
        )

    def set_class_weights(self, weights: torch.Tensor) -> None:
        """Set the factor of each class (classes,) in the loss."""
        self.class_weights = weights.float()

    def train(self, mode: bool = True) -> ActionDetector:
        """Set the training mode. Frozen parts stay in evaluation mode."""
        super().train(mode)
        if self.train_persons_alone:
            for name, module in self.named_children():
                module.train(mode and name == "person_head")
        return self

    def forward(self, batch: dict) -> dict:
        """Return the losses while training, else the scores of each person.

        Args:
            batch: `video` uint8 (B, 3, T, H, W); `boxes`, list of (N_i, 4) xyxy pixels. For training also
                `labels`, list of (N_i, classes), and `seed` (B,); for a person head also `complete_persons`,
                bool (B,): whether the boxes are all people of the keyframe (default: they are). For testing
                also `person_scores`, list of (N_i,), and optionally `size`, list of (2,) width and height of
                each frame without padding. Without `boxes`, the person head finds the people.

        Returns:
            While training {"loss": scalar}; with a person head {"action_loss", "person_class_loss",
            "person_box_loss", "person_centerness_loss"}. Else {"scores": list of (N_i, classes)} in [0, 1];
            and without `boxes` in the batch also the people found, `boxes` and `person_scores`, in the form
            of the batch.
        """
        video = self.normalization(batch["video"])  # float (B, 3, T, H, W)
        if self.training:
            return self._losses(batch, video)
        if "boxes" not in batch:
            return self._find_and_score(batch, video)
        clips, boxes = clip_indices(batch["boxes"]), torch.cat(batch["boxes"])  # (R,), (R, 4)
        sizes = _frame_sizes(batch)[clips]
        scores = self.scores(video, boxes, clips, torch.cat(batch["person_scores"]), sizes)
        return {"scores": list(scores.split([len(boxes) for boxes in batch["boxes"]]))}

    def _losses(self, batch: dict, video: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the losses of a normalized video."""
        if self.person_head is None:
            return {"loss": self._action_loss(batch, self.tokens(video))}
        tokens, predictions = self.tokens_and_persons(video)
        losses = {} if self.train_persons_alone else {"action_loss": self._action_loss(batch, tokens)}
        complete = batch.get("complete_persons", video.new_ones(len(video), dtype=torch.bool))
        for name, value in self.person_head.losses(predictions, batch["boxes"], complete).items():
            losses[f"person_{name}_loss"] = self.person_loss_weight * value
        return losses

    def _action_loss(self, batch: dict, tokens: torch.Tensor) -> torch.Tensor:
        clips, boxes = clip_indices(batch["boxes"]), torch.cat(batch["boxes"])  # (R,), (R, 4)
        if self.box_jitter:
            boxes = jitter_boxes(boxes, clips, batch["seed"], *batch["video"].shape[-2:])
        logits, labels = self.head_logits(tokens, to_rois(boxes, clips)), torch.cat(batch["labels"])
        return box_loss(logits, labels, self.loss, self.class_weights, **self.focal)

    def _find_and_score(self, batch: dict, video: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        """Return the people that the person head finds in a normalized video, and their scores."""
        tokens, predictions = self.tokens_and_persons(video)
        sizes = _frame_sizes(batch)  # (B, 2)
        boxes, person_scores = self.person_head.persons(predictions, sizes)
        clips = clip_indices(boxes)  # (R,)
        scores = self.token_scores(tokens, torch.cat(boxes), clips, torch.cat(person_scores), sizes[clips])
        return {
            "scores": list(scores.split([len(own) for own in boxes])),
            "boxes": boxes,
            "person_scores": person_scores,
        }

    def find_persons(self, batch: dict) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the boxes (N_i, 4), xyxy pixels, and the scores (N_i,) of the people that the model finds.

        Args:
            batch: `video`, and optionally `size`, as for `forward`.
        """
        _, predictions = self.tokens_and_persons(self.normalization(batch["video"]))
        return self.person_head.persons(predictions, _frame_sizes(batch))

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
        return self.token_scores(self.tokens(video), boxes, clips, person_scores, sizes)

    def token_scores(
        self,
        tokens: torch.Tensor,
        boxes: torch.Tensor,
        clips: torch.Tensor,
        person_scores: torch.Tensor,
        sizes: torch.Tensor,
    ) -> torch.Tensor:
        """Return the scores (R, classes) of R persons in clips with tokens (B, t, h, w, C). See `scores`."""
        boxes = scale_boxes(boxes, self.test_box_scale, sizes)
        scores = self.head_logits(tokens, to_rois(boxes, clips)).float().sigmoid()
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

    def find_person_features(self, batch: dict) -> dict[str, list[torch.Tensor]]:
        """Return the people that the person head finds, and their features, from one pass of the backbone.

        Args:
            batch: `video`, and optionally `size`, as for `forward`.

        Returns:
            `boxes` and `person_scores` as `forward` returns them, and `features`, list of (N_i, C).
        """
        tokens, predictions = self.tokens_and_persons(self.normalization(batch["video"]))
        boxes, person_scores = self.person_head.persons(predictions, _frame_sizes(batch))
        rois = self._test_rois(batch | {"boxes": boxes})
        pooled = self.roi_head.pool(self._pool_time(tokens), rois)
        features = list(pooled.split([len(own) for own in boxes]))
        return {"boxes": boxes, "person_scores": person_scores, "features": features}

    def person_logits(self, batch: dict) -> torch.Tensor:
        """Return the logits (R, classes) of all persons. See `person_features` for the argument."""
        return self.logits(self.normalization(batch["video"]), self._test_rois(batch))

    def _test_rois(self, batch: dict) -> torch.Tensor:
        """Return the boxes (R, 5) at which testing pools features, with the index of their clip."""
        clips, boxes = clip_indices(batch["boxes"]), torch.cat(batch["boxes"])
        boxes = scale_boxes(boxes, self.test_box_scale, _frame_sizes(batch)[clips])
        return to_rois(boxes, clips)

    def logits(self, video: torch.Tensor, boxes: list[torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """Return the logits (R, classes) of a normalized video (B, 3, T, H, W), pooled at the given boxes.

        Args:
            boxes: list of (N_i, 4) xyxy pixels, or (R, 5) with the index of the clip in the first column.
        """
        return self.head_logits(self.tokens(video), boxes)

    def head_logits(self, tokens: torch.Tensor, boxes: list[torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """Return the logits (R, classes) of tokens (B, t, h, w, C). See `logits` for the boxes."""
        extra = (tokens,) if getattr(self.roi_head, "takes_tokens", False) else ()
        return self.roi_head(self._pool_time(tokens), boxes, *extra)

    def features(self, video: torch.Tensor) -> torch.Tensor:
        """Return the feature map (B, C, h, w) of a normalized video: its tokens, pooled over time."""
        return self._pool_time(self.tokens(video))

    def tokens(self, video: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, t, h, w, C) of a normalized video."""
        return self.backbone(video).unflatten(1, self.backbone.grid(video))

    def tokens_and_persons(self, video: torch.Tensor) -> tuple[torch.Tensor, PersonPredictions]:
        """Return the tokens (B, t, h, w, C) of a normalized video, and the outputs of the person head."""
        frames, grid = video.shape[2], self.backbone.grid(video)
        # A keyframe is at position T // 2 of its clip (see `video.sampling.keyframe_clip`).
        keyframe_slice = frames // 2 // self.backbone.tubelet_size
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.train_persons_alone):
            tokens, blocks = self.backbone.forward_blocks(video, self.person_head.blocks, keyframe_slice)
        return tokens.unflatten(1, grid), self.person_head(blocks, grid[1:])

    def _pool_time(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens.amax(dim=1) if self.temporal_pool == "max" else tokens.mean(dim=1)
        return tokens.permute(0, 3, 1, 2)


def _frame_sizes(batch: dict) -> torch.Tensor:
    """Return width and height (B, 2) of each frame without padding."""
    if batch.get("size"):
        return torch.stack(batch["size"])
    video = batch["video"]
    sides = [torch.full((len(video),), float(side), device=video.device) for side in video.shape[-1:-3:-1]]
    return torch.stack(sides, dim=1)


def _build_person_head(cfg: CfgNode, backbone: nn.Module) -> nn.Module | None:
    """Build the person head that MODEL.PERSON_HEAD describes; None if it names none.

    Raises:
        ConfigError: the backbone does not return the tokens of its blocks.
    """
    name = cfg.MODEL.PERSON_HEAD.NAME
    if not name:
        return None
    if not getattr(backbone, "returns_blocks", False):
        raise ConfigError(
            f"MODEL.PERSON_HEAD.NAME: {name} takes the tokens of several blocks, which "
            f"{type(backbone).__name__} does not return; use a plain vision transformer (VideoViT, "
            "VJepa2ViT, VJepa21ViT), or set it to '' and use person boxes"
        )
    head = lookup(PERSON_HEAD_REGISTRY, name, "MODEL.PERSON_HEAD.NAME")
    return head.from_config(cfg, in_dim=backbone.embed_dim, patch_size=backbone.patch_size)
