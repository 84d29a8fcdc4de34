"""Registries of networks, and the model that a config describes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.config.size_bounds import FLOAT_BYTES, min_parameters
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.memory import in_gb, machine_memory
from vmae_det.utils.registry import Registry, lookup

META_ARCHITECTURE_REGISTRY = Registry("META_ARCHITECTURE")
BACKBONE_REGISTRY = Registry("BACKBONE")
ROI_HEAD_REGISTRY = Registry("ROI_HEAD")


def model_class(cfg: CfgNode) -> Any:
    """The class that MODEL.META_ARCHITECTURE names; its `task` names the dataset and evaluator it works
    with."""
    return lookup(META_ARCHITECTURE_REGISTRY, cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")


def build_model(cfg: CfgNode) -> nn.Module:
    """The network, by MODEL.META_ARCHITECTURE, with random weights that follow from SEED, on the CPU.

    Raises:
        ConfigError: it is larger than this machine's memory.
    """
    if torch.empty(0).device.type != "meta":
        _check_size(cfg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.SEED)
        model = model_class(cfg).from_config(cfg)
        if cfg.MODEL.INIT == "published":
            for module in model.modules():
                if hasattr(module, "init_as_published"):
                    module.init_as_published()
        return model


def build_backbone(cfg: CfgNode, final_norm: bool = True) -> nn.Module:
    """The backbone, by MODEL.BACKBONE.NAME."""
    backbone = lookup(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
    return backbone.from_config(cfg, final_norm=final_norm)


def _check_size(cfg: CfgNode) -> None:
    needed, there_is = FLOAT_BYTES * min_parameters(cfg), machine_memory()
    if needed > there_is:
        raise ConfigError(
            f"MODEL.BACKBONE: its EMBED_DIM and DEPTH, with the decoder's, make weights of at least "
            f"{in_gb(needed)}; this machine has {in_gb(there_is)} of memory"
        )
