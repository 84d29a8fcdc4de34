"""Configs and published weights by name; `configs/` of the repository ships inside the package."""

from __future__ import annotations

from pathlib import Path

from vmae_det.config import CfgNode, get_cfg
from vmae_det.model_zoo.weights import WEIGHTS, Weights, get_weights
from vmae_det.utils.errors import ConfigError, did_you_mean

__all__ = [
    "WEIGHTS",
    "Weights",
    "config_folder",
    "config_names",
    "get_config",
    "get_config_file",
    "get_weights",
]


def config_folder() -> Path:
    """Where the configs lie: inside an installed package, at the top of a clone."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs"


def config_names() -> list[str]:
    """All configs that can be run, such as "MiniAVA/pretrain.yaml"."""
    folder = config_folder()
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*.yaml"))
    return [path.as_posix() for path in paths if not path.name.startswith("_")]


def get_config_file(name: str) -> Path:
    """The file of the config called `name`, with a leading `configs/` or without; ConfigError if there is
    none."""
    path = config_folder() / name.removeprefix("./").removeprefix("configs/")
    if not path.is_file():
        raise ConfigError(f"{name}: no such config in the model zoo{did_you_mean(name, config_names())}")
    return path


def get_config(name: str) -> CfgNode:
    """The config called `name`, all defaults filled in."""
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(name))
    return cfg
