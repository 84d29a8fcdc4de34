"""The config that belongs to weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vmae_det import model_zoo
from vmae_det.config import CfgNode, check_config, get_cfg
from vmae_det.config.cfg_node import flatten, value_of
from vmae_det.utils.safe_yaml import load_yaml


def stored_config(content: dict[str, Any], source: str | Path) -> CfgNode | None:
    """The config in the content of a file of weights, else the model zoo's for them; None if there is none.

    Args:
        source: where the content was read from.

    Raises:
        ConfigError: the config in the file is damaged, or a value is out of range.
    """
    text = content.get("config")
    if isinstance(text, str) and text:
        cfg = get_cfg()
        cfg.merge_from_text(text, str(source))
        check_config(cfg)
        return cfg
    known = model_zoo.WEIGHTS.get(str(source))
    return model_zoo.get_config(known.config) if known else None


def stored_values(content: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """The values of the keys that `stored_config` decides, without those that it leaves at their defaults."""
    cfg = stored_config(content, source)
    if cfg is None:
        return {}
    keys = (key for key, _ in flatten(load_yaml(content.get("config") or cfg.dump())))
    return {key: value_of(cfg, key) for key in keys}
