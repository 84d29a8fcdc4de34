"""MoCo v3 on video: two clips of a video get similar features, and clips of other videos different ones."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.modeling.backbones.base import mean_token
from vmae_det.modeling.batch_norm import SyncBatchNorm
from vmae_det.modeling.build import META_ARCHITECTURE_REGISTRY, build_backbone
from vmae_det.modeling.normalization import PixelNormalization
from vmae_det.utils import distributed
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.sharded_tensors import local_shard

PROJECTOR_LAYERS, PREDICTOR_LAYERS = 3, 2  # of the published ViT models


@META_ARCHITECTURE_REGISTRY.register()
class MoCoV3(nn.Module):
    """MoCo v3 (Chen, Xie and He, 2021): contrastive learning with a momentum encoder.

    The base encoder, `backbone` and `projector`, and then the predictor make a query of each view of a video.
    The momentum encoder makes a key of it. The loss compares the query of each view with the key of the other
    view, and with the keys of all other videos of the batch, on all processes. A feature is the mean over the
    tokens, after the last norm. The published image model takes its class token.

    Call `before_step` before each optimizer step.

    Args:
        hidden_dim, out_dim: width of the hidden layers, and of queries and keys.
        temperature: of the softmax.
        momentum: momentum of the momentum encoder in the first step. It increases to 1 in the last.
        freeze_patch_embedding: keep the patch embedding as it is initialized, which makes training stable.
    """

    task = "contrastive"
    evaluated_parts = ("backbone.",)

    def __init__(
        self,
        backbone: nn.Module,
        normalization: PixelNormalization,
        *,
        hidden_dim: int = 4096,
        out_dim: int = 256,
        temperature: float = 0.2,
        momentum: float = 0.99,
        freeze_patch_embedding: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.normalization = normalization
        self.temperature = temperature
        self.momentum = momentum
        self.projector = mlp(PROJECTOR_LAYERS, backbone.embed_dim, hidden_dim, out_dim)
        self.predictor = mlp(PREDICTOR_LAYERS, out_dim, hidden_dim, out_dim)
        if freeze_patch_embedding:
            backbone.patch_embed.requires_grad_(False)
        copies = {"backbone": copy.deepcopy(backbone), "projector": copy.deepcopy(self.projector)}
        self.momentum_encoder = nn.ModuleDict(copies).requires_grad_(False)
        self._has_momentum_weights = False  # else they become those of the base encoder at the first step
        self.register_load_state_dict_post_hook(_find_momentum_weights)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MoCoV3:
        """Build the model that MODEL describes."""
        node, backbone = cfg.MODEL.MOCO, build_backbone(cfg)
        if node.FREEZE_PATCH_EMBEDDING and not isinstance(getattr(backbone, "patch_embed", None), nn.Module):
            raise ConfigError(
                f"MODEL.MOCO.FREEZE_PATCH_EMBEDDING: True, but {cfg.MODEL.BACKBONE.NAME} has no module "
                "`patch_embed`; set it to False"
            )
        return cls(
            backbone,
            PixelNormalization(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD),
            hidden_dim=node.HIDDEN_DIM,
            out_dim=node.OUT_DIM,
            temperature=node.TEMPERATURE,
            momentum=node.MOMENTUM,
            freeze_patch_embedding=node.FREEZE_PATCH_EMBEDDING,
        )

    @torch.no_grad()
    def before_step(self, progress: float) -> None:
        """Update the momentum encoder for an optimizer step: first its weights, then the keys.

        All passes of a step that accumulates gradients use the same momentum encoder.

        Args:
            progress: fraction of the optimizer steps of the run that are done, in [0, 1).
        """
        momentum = momentum_at(progress, self.momentum)
        if progress == 0 and not self._has_momentum_weights:
            momentum = 0.0  # a copy, also of weights that were loaded into the backbone alone
        base = [*self.backbone.parameters(), *self.projector.parameters()]
        torch._foreach_lerp_(
            [local_shard(weight.detach()) for weight in self.momentum_encoder.parameters()],
            [local_shard(weight.detach()) for weight in base],
            1 - momentum,
        )
        if "positions" in self.backbone._buffers:  # a fixed table, which a file may have replaced
            self.momentum_encoder["backbone"].positions = self.backbone.positions

    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        """Return the loss while training, else the features.

        Args:
            batch: `video` uint8 (B, 3, T, H, W). For training also `video2`, the second view of each video.

        Returns:
            {"loss": scalar} while training, else {"features": (B, C)}.
        """
        if not self.training:
            return {"features": mean_token(self.backbone, self.normalization(batch["video"]))}
        views = torch.cat([batch["video"], batch["video2"]])  # (2B, 3, T, H, W)
        queries, keys = self.queries_and_keys(self.normalization(views))
        pairs = (queries[0], keys[1]), (queries[1], keys[0])
        return {"loss": sum(contrastive_loss(*pair, self.temperature) for pair in pairs)}

    def queries_and_keys(self, views: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the queries and the keys of the first and the second views, (B, D) each.

        Args:
            views: normalized float (2B, 3, T, H, W), the first views and then the second ones. The backbone
                encodes them together. The batch norms have separate statistics for each.
        """
        with torch.no_grad():
            keys = _project(*self.momentum_encoder.values(), views)
        queries = [self.predictor(view) for view in _project(self.backbone, self.projector, views)]
        return queries, keys


def _project(backbone: nn.Module, projector: nn.Module, views: torch.Tensor) -> list[torch.Tensor]:
    return [projector(view) for view in mean_token(backbone, views).chunk(2)]


def mlp(num_layers: int, in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Return linear layers without bias, each with a batch norm, and ReLU between them.

    The last batch norm has no weight and bias.
    """
    dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
    layers: list[nn.Module] = []
    for number in range(1, num_layers + 1):
        last = number == num_layers
        layers += [nn.Linear(dims[number - 1], dims[number], bias=False)]
        layers += [SyncBatchNorm(dims[number], affine=not last)]
        layers += [] if last else [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def momentum_at(progress: float, start: float) -> float:
    """Return the momentum at a progress in [0, 1]: from `start` to 1 by half a cosine."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * progress)) / 2


def contrastive_loss(queries: torch.Tensor, keys: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return 2 x temperature x the cross-entropy of cosine similarities to the keys of all processes.

    The loss is the mean over the queries of this process. Keys have no gradient.

    Args:
        queries: (B, D).
        keys: (B, D). The key of the same row is that of the query.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries = F.normalize(queries.float(), dim=1)
        keys = distributed.all_gather_rows(F.normalize(keys.float(), dim=1))  # (processes * B, D), by rank
        labels = torch.arange(len(queries), device=queries.device) + len(queries) * distributed.get_rank()
        return 2 * temperature * F.cross_entropy(queries @ keys.T / temperature, labels)


def _find_momentum_weights(model: MoCoV3, result: Any) -> None:
    """Record whether weights that were loaded contain the momentum encoder."""
    missing = any(name.startswith("momentum_encoder.") for name in result.missing_keys)
    model._has_momentum_weights = not missing
