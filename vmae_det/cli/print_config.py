"""`vmae-det print-config`: print a resolved config as YAML, with the origin of each value."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from vmae_det.cli.arguments import output_file, refuse_overwriting
from vmae_det.cli.config_arguments import ResolvedConfig, add_config_arguments, resolve_config
from vmae_det.config import CfgNode
from vmae_det.config.cfg_node import value_of
from vmae_det.config.defaults import KEYS
from vmae_det.config.origins import Origin
from vmae_det.config.ranges import format_value
from vmae_det.utils.errors import ConfigError, did_you_mean, one_line
from vmae_det.utils.output_files import write_json

# Comments are aligned at this column. Longer lines have theirs after two spaces.
_COMMENT_COLUMN = 44


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the selection of keys, the JSON file, the config and its overrides."""
    parser.epilog = (
        "The output is a config file. The comment of a value is its origin: a file and a line, the command\n"
        "line, the config of the weights in MODEL.WEIGHTS, or the default."
    )
    parser.add_argument(
        "--diff", action="store_true", help="print only the keys that differ from their defaults"
    )
    parser.add_argument(
        "--key",
        action="append",
        metavar="PREFIX",
        help="print only the keys that start with PREFIX, such as SOLVER or INPUT.CROP_SIZE; repeatable",
    )
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="also write the values and their origins as JSON"
    )
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the config; return the exit status."""
    prefixes = tuple(args.key or [""])
    for prefix in prefixes:
        _check_prefix(prefix)
    resolved = resolve_config(args.config_file, args.opts, _find_config)
    if args.json:
        sources = {origin.source for origin in resolved.origins.values()}
        refuse_overwriting(args.json, resolved.cfg.MODEL.WEIGHTS, *sorted(sources))
    keys = [
        key for key in KEYS if key.startswith(prefixes) and not (args.diff and _is_redundant(key, resolved))
    ]
    values = {key: value_of(resolved.cfg, key) for key in keys}
    origins = {key: resolved.origins.get(key, Origin("default")) for key in keys}
    print(config_as_yaml(values, origins))
    if args.json:
        entries = {
            key: {
                "value": values[key],
                "default": KEYS[key].default,
                "origin": origins[key].kind,
                "source": origins[key].source or None,
                "line": origins[key].line,
                "auto": origins[key].is_auto,
            }
            for key in keys
        }
        write_json(args.json, {"config_file": args.config_file or None, "keys": entries})
    return 0


def config_as_yaml(values: Mapping[str, Any], origins: Mapping[str, Origin]) -> str:
    """Return a config file in ASCII with one line for each key, and its origin as a comment.

    Args:
        values: values by dotted key; the keys of a group are consecutive.
        origins: origins by key.
    """
    if not values:
        return "{}  # all keys have their defaults"
    lines: list[str] = []
    before: Sequence[str] = ()
    for key, value in values.items():
        *groups, name = key.split(".")
        common = next((depth for depth, pair in enumerate(zip(groups, before)) if pair[0] != pair[1]), None)
        common = min(len(groups), len(before)) if common is None else common
        lines += [f"{'  ' * depth}{groups[depth]}:" for depth in range(common, len(groups))]
        before = groups
        line = f"{'  ' * len(groups)}{name}: {_value_as_yaml(value)}"
        lines.append(f"{line:{_COMMENT_COLUMN}}  # {one_line(origins[key])}")
    return "\n".join(lines)


def _value_as_yaml(value: Any) -> str:
    """Return a value as YAML in one line."""
    items = [list(value) if isinstance(value, tuple) else value]
    text = yaml.safe_dump(items, default_flow_style=True, width=math.inf).strip()
    if "\n" in text:  # only double quotes can escape line breaks
        text = yaml.safe_dump(items, default_style='"', default_flow_style=True, width=math.inf).strip()
    return text[1:-1]


def _is_redundant(key: str, resolved: ResolvedConfig) -> bool:
    """Return whether a config file without the key results in the same config.

    A default must be written where the config of the weights would replace it.
    """
    return value_of(resolved.cfg, key) == KEYS[key].default == value_of(resolved.base, key)


def _check_prefix(prefix: str) -> None:
    if not any(key.startswith(prefix) for key in KEYS):
        groups = {key.rpartition(".")[0] for key in KEYS} - {""}
        hint = did_you_mean(prefix, [*KEYS, *sorted(groups)])
        raise ConfigError(f"--key {format_value(prefix)[1:-1]}: no config key starts with it{hint}")


def _find_config(weights: str) -> CfgNode | None:
    from vmae_det.inference.predictor import find_config  # imports torch

    return find_config(weights)
