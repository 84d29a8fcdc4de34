"""Model zoo: the configs in `configs/`, which are installed with the package, and published weights, by name.

May import: config and utils.
"""

from __future__ import annotations

from pathlib import Path

from vmae_det.config import CfgNode, get_cfg
from vmae_det.model_zoo.weights import WEIGHTS, Weights, get_weights
from vmae_det.utils.errors import ConfigError, did_you_mean

__all__ = [
    "STUDIES",
    "WEIGHTS",
    "Weights",
    "config_folder",
    "config_names",
    "get_config",
    "get_config_file",
    "get_weights",
]

STUDIES = "studies"  # folder of study files, which are not configs


def config_folder() -> Path:
    """Return the folder of the configs: inside an installed package, or at the top level of a clone."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs"


def config_names() -> list[str]:
    """Return the names of all configs that can be run, such as "MiniAVA/pretrain.yaml"."""
    folder = config_folder()
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*.yaml"))
    return [path.as_posix() for path in paths if not path.name.startswith("_") and path.parts[0] != STUDIES]


def get_config_file(name: str) -> Path:
    """Return the file of a config by name, with or without a leading `configs/`.

    Raises:
        ConfigError: there is no such config.
    """
    path = config_folder() / name.removeprefix("./").removeprefix("configs/")
    if not path.is_file():
        raise ConfigError(f"{name}: no such config in the model zoo{did_you_mean(name, config_names())}")
    return path


def get_config(name: str) -> CfgNode:
    """Return a config by name, with the default values of all other keys."""
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(name))
    return cfg
