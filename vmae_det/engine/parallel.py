"""How processes share a model: each holds all of it (DDP), or a part of every tensor (FSDP2)."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from vmae_det.config import CfgNode
from vmae_det.modeling.backbone import Block
from vmae_det.utils import distributed


def is_sharded(cfg: CfgNode) -> bool:
    """Whether the processes of this run share a model's tensors; one process alone has nothing to share."""
    return cfg.SOLVER.PARALLEL == "fsdp" and distributed.get_world_size() > 1


def spread(cfg: CfgNode, model: nn.Module, device: torch.device) -> nn.Module:
    """A model on its device as this run's processes train it; what it holds may become shared in place.

    The optimizer is built afterwards.
    """
    if cfg.MODEL.COMPILE:
        compile_blocks(model)
    if is_sharded(cfg):
        return _shard(model, device)
    return model if distributed.get_world_size() == 1 else _replicate(model, device)


def compile_blocks(model: nn.Module) -> None:
    """Compile each transformer block: nearly all of the time, and of few shapes, so that it is done soon."""
    for module in model.modules():
        if isinstance(module, Block):
            module.compile()


def _shard(model: nn.Module, device: torch.device) -> nn.Module:
    """FSDP2 (after ZeRO's stage 3, Rajbhandari et al. 2020): a block is whole while it is computed."""
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def _replicate(model: nn.Module, device: torch.device) -> nn.Module:
    devices = [device.index] if device.type == "cuda" else None
    # The only buffers are constants. (The argument that says so has a new name from torch 2.15 on.)
    known = inspect.signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True, **{sync: False})


def no_gradient_sync(model: nn.Module) -> AbstractContextManager:
    """Backward passes in it leave gradients where they are; the first one after it exchanges all."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync()
    if hasattr(model, "set_requires_gradient_sync"):
        return _Unsynchronised(model)
    return nullcontext()


class _Unsynchronised(AbstractContextManager):
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.model.set_requires_gradient_sync(False)

    def __exit__(self, *_: object) -> None:
        self.model.set_requires_gradient_sync(True)
