"""Compile a model with torch.compile: each transformer block, or the encoder, the decoder and the loss.

Random masks and box jitter are not compiled. With the 64-bit hashes of `modeling/seeded_random.py`, the CPU
code of inductor corrupts memory, or inductor fails because it multiplies their constants without wrap-around
(seen with torch 2.14). The detection head is not compiled either, so that another number of boxes compiles
nothing.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.modeling.backbones.blocks import find_blocks

logger = logging.getLogger(__name__)

# All blocks of the encoder and the decoder, in training and in evaluation, share one cache of compiled code.
# When it is full, torch.compile falls back to eager mode. PyTorch's default is 8.
_CACHE_SIZE = 64


def compile_model(cfg: CfgNode, model: nn.Module) -> None:
    """Compile the parts of a model that MODEL.COMPILE_SCOPE selects, in place.

    In training mode each shape is compiled, because the clips of a run have one size. In evaluation mode one
    version for all sizes is compiled, and a second one for batches of one clip.
    """
    regions = list(_regions(model, cfg.MODEL.COMPILE_SCOPE))
    if not regions:
        logger.warning(
            "MODEL.COMPILE: nothing is compiled: %s has no part of MODEL.COMPILE_SCOPE %s",
            type(model).__name__,
            cfg.MODEL.COMPILE_SCOPE,
        )
    _enlarge_cache()
    for module, method in regions:
        # The trainer keeps losses, which the model returns. CUDA graphs overwrite their outputs in each step.
        use_graphs = cfg.MODEL.CUDA_GRAPHS and module is not model
        _compile_method(module, method, "reduce-overhead" if use_graphs else None)
    if cfg.MODEL.CUDA_GRAPHS:
        model.register_forward_pre_hook(_mark_step)


def _regions(model: nn.Module, scope: str) -> Iterator[tuple[nn.Module, str]]:
    """Yield the modules and the names of their methods to compile.

    For the scope "stack", a module lists its methods in the attribute `compile_regions`.
    """
    if scope == "block":
        yield from ((block, "forward") for block in find_blocks(model))
        return
    for module in model.modules():
        yield from ((module, method) for method in getattr(module, "compile_regions", ()))


def _compile_method(module: nn.Module, name: str, training_mode: str | None) -> None:
    method: Callable[..., Any] = getattr(module, name)
    # Without False, the second shape of a method would be compiled for all sizes: that of decoder blocks.
    in_training = torch.compile(method, mode=training_mode, dynamic=False)
    in_evaluation = torch.compile(method, dynamic=True)

    @functools.wraps(method)
    def compiled(*args: Any, **kwargs: Any) -> Any:
        return (in_training if module.training else in_evaluation)(*args, **kwargs)

    setattr(module, name, compiled)


def _enlarge_cache() -> None:
    from torch._dynamo import config  # slow to import

    # Named cache_size_limit before torch 2.7.
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, limit, max(getattr(config, limit), _CACHE_SIZE))


def _mark_step(*_: Any) -> None:
    """Tell CUDA graphs that the outputs of the last step are no longer used."""
    torch.compiler.cudagraph_mark_step_begin()
