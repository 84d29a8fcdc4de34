"""Origin of each value of a config: the default, the config of the weights, a file, or the command line."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vmae_det.config.cfg_node import read_config_files
from vmae_det.config.defaults import KEYS
from vmae_det.utils.safe_yaml import read_key_lines


class Origin(NamedTuple):
    """Source that set a config key last.

    Args:
        kind: "default", "weights", "file" or "command line".
        source: the weights, or the path of the file; otherwise empty.
        line: line of the file, counted from 1.
        is_auto: the source has `auto`, which was resolved to the value.
    """

    kind: str
    source: str = ""
    line: int | None = None
    is_auto: bool = False

    def __str__(self) -> str:
        text = {"file": f"{self.source}:{self.line}", "weights": f"config of {self.source}"}
        return text.get(self.kind, self.kind) + (": auto" if self.is_auto else "")


def origins_in_files(path: str | Path) -> dict[str, Origin]:
    """Return the file and the line of each key that a config file or one of its `_BASE_` files sets.

    Args:
        path: a config file that `CfgNode.merge_from_file` accepts.
    """
    return {
        key: Origin("file", str(file), line)
        for file, _ in read_config_files(Path(path))
        for key, line in read_key_lines(file).items()
        if key in KEYS
    }
