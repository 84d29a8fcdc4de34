"""Data parallelism: DDP replicates the model on each process, FSDP2 shards every tensor."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from vmae_det.config import CfgNode
from vmae_det.engine.compilation import compile_model
from vmae_det.modeling.backbones.blocks import find_blocks
from vmae_det.utils import distributed


def is_sharded(cfg: CfgNode) -> bool:
    """Return whether this run shards the model. A single process never does."""
    return cfg.SOLVER.PARALLEL == "fsdp" and distributed.get_world_size() > 1


def parallelize(cfg: CfgNode, model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model as the processes of this run train it. FSDP2 shards its parameters in place.

    Build the optimizer afterwards.

    Args:
        model: on its device.
    """
    if cfg.MODEL.COMPILE:
        compile_model(cfg, model)
    if is_sharded(cfg):
        return _shard(model, device)
    return model if distributed.get_world_size() == 1 else _replicate(model, device)


def _shard(model: nn.Module, device: torch.device) -> nn.Module:
    """Shard with FSDP2 (after ZeRO stage 3, Rajbhandari et al. 2020): one block at a time is unsharded."""
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for block in find_blocks(model):
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def _replicate(model: nn.Module, device: torch.device) -> nn.Module:
    devices = [device.index] if device.type == "cuda" else None
    # Buffers are the same in all processes and need no broadcast. (The argument has another name from torch
    # 2.15 on.)
    known = inspect.signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True, **{sync: False})


def no_gradient_sync(model: nn.Module) -> AbstractContextManager:
    """Skip gradient synchronization inside the context. The next backward pass outside does all of it."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync()
    if hasattr(model, "set_requires_gradient_sync"):
        return _FSDPNoSync(model)
    return nullcontext()


class _FSDPNoSync(AbstractContextManager):
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.model.set_requires_gradient_sync(False)

    def __exit__(self, *_: object) -> None:
        self.model.set_requires_gradient_sync(True)
