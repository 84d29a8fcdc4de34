"""Contribution of each token of a clip to the score of a person's class, by gradient x activation."""

from __future__ import annotations

import torch

from vmae_det.modeling.backbones.token_dropout import TokenDropoutBlock, kept_index
from vmae_det.modeling.backbones.vit import VideoViT
from vmae_det.modeling.boxes import clip_indices
from vmae_det.modeling.detection import ActionDetector
from vmae_det.utils.errors import ConfigError


@torch.enable_grad()
def token_contributions(model: ActionDetector, batch: dict, classes: list[torch.Tensor]) -> torch.Tensor:
    """Return the signed contribution of each token to one logit of each person, (R, t, h, w).

    It is the sum over channels of the input of the last block times the gradient of the logit with respect to
    it: Grad-CAM's product (Selvaraju et al., 2017), with one weight for each token instead of their mean. The
    last block mixes the tokens, so tokens outside of the person's box contribute too. The sum of a map is the
    derivative of the logit when these activations are scaled. It is a first-order approximation. Tokens that
    were dropped before the last block contribute 0.

    Args:
        model: in evaluation mode, with parameters that require no gradient. It has a VideoViT.
        batch: as for `ActionDetector.forward`, with `size`, on the device of the model.
        classes: for each clip, the class (N_i,) of each person.

    Raises:
        ConfigError: the backbone is not a VideoViT.
    """
    if not isinstance(model.backbone, VideoViT):
        raise ConfigError(
            "MODEL.BACKBONE.NAME: the contributions of tokens require VideoViT, got "
            f"{type(model.backbone).__name__}"
        )
    *blocks, last = model.backbone.blocks
    extra = model.backbone.num_extra_tokens
    activations: list[torch.Tensor] = []
    rows: list[torch.Tensor] = []  # that the blocks with token dropout keep

    def record(_: torch.nn.Module, args: tuple) -> tuple:
        activations.append(args[0].detach().requires_grad_())
        return (activations[-1], *args[1:])

    hooks = [last.register_forward_pre_hook(record)]
    for block in blocks:
        if isinstance(block, TokenDropoutBlock):
            hooks.append(block.register_forward_hook(lambda _, args, output: rows.append(output[1])))
    try:
        logits = model.person_logits(batch)
    finally:
        for hook in hooks:
            hook.remove()
    t, h, w = grid = model.backbone.grid(batch["video"])
    index = model.backbone.token_order(grid, logits.device).expand(len(batch["video"]), -1)  # (B, N)
    for kept in rows:
        index = kept_index(index, kept, extra)  # of the input of the last block
    clips = clip_indices(classes).tolist()
    chosen = logits.gather(1, torch.cat(classes).to(logits.device)[:, None])[:, 0]
    maps = []
    for row, clip in enumerate(clips):
        (gradient,) = torch.autograd.grad(chosen[row], activations, retain_graph=row + 1 < len(clips))
        products = activations[0][clip].detach().float() * gradient[clip].float()  # (N, C)
        contributions = products[extra:].sum(dim=-1)
        maps.append(contributions.new_zeros(t * h * w).scatter(0, index[clip], contributions))
    return torch.stack(maps).unflatten(1, (t, h, w))
