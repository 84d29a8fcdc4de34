"""The config system: `get_cfg()` gives all defaults, files and `KEY VALUE` pairs are merged into it."""

from vmae_det.config.checks import check_config
from vmae_det.config.node import CfgNode, get_cfg

__all__ = ["CfgNode", "check_config", "get_cfg"]
