"""The config system: `get_cfg()` returns all defaults; YAML files and `KEY VALUE` pairs are merged into it.

May import: utils.
"""

from vmae_det.config.cfg_node import CfgNode, get_cfg
from vmae_det.config.checks import check_config

__all__ = ["CfgNode", "check_config", "get_cfg"]
