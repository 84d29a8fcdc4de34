"""The config that belongs to weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vmae_det import model_zoo
from vmae_det.config import CfgNode, get_cfg


def stored_config(content: dict[str, Any], source: str | Path) -> CfgNode | None:
    """The config in the content of a file of weights, else the model zoo's for them; None if there is none.

    Args:
        source: where the content was read from.

    Raises:
        ConfigError: the config in the file is damaged.
    """
    text = content.get("config")
    if isinstance(text, str) and text:
        cfg = get_cfg()
        cfg.merge_from_text(text, str(source))
        return cfg
    known = model_zoo.WEIGHTS.get(str(source))
    return model_zoo.get_config(known.config) if known else None
