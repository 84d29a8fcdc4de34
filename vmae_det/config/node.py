"""The config node: fvcore's, with errors that name the key and suggest the right one."""

from __future__ import annotations

import contextlib
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode as FvcoreCfgNode

from vmae_det.utils.errors import ConfigError, did_you_mean


class CfgNode(FvcoreCfgNode):
    """Nested config with attribute access, `_BASE_` inheritance in files and `KEY VALUE` overrides.

    Merging raises ConfigError for an unknown key, a value of another type than the default's, and an
    unreadable file. An int is taken where a float is expected, a list where a tuple is.
    """

    def merge_from_file(self, cfg_filename: str | Path) -> None:
        """Merge a YAML file and the files that it names under `_BASE_` (paths relative to the file)."""
        try:
            loaded = self.load_yaml_with_base(str(cfg_filename))
            values = list(flatten(loaded))
        except FileNotFoundError as error:
            missing = error.filename or cfg_filename
            asked = "" if str(missing) == str(cfg_filename) else f" (the _BASE_ of {cfg_filename})"
            raise ConfigError(f"{missing}: no such config file{asked}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{cfg_filename}: not valid YAML: {' '.join(str(error).split())}") from None
        except RecursionError:
            raise ConfigError(f"{cfg_filename}: its _BASE_ files name each other in a circle") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{cfg_filename}: cannot be read as a config file: {error}") from None
        except (TypeError, AttributeError, AssertionError):
            raise ConfigError(f"{cfg_filename}: expected a YAML mapping of config keys to values") from None
        for key, value in values:
            self._merge_value(key, value, source=f" (in {cfg_filename})")

    def merge_from_text(self, text: str, source: str) -> None:
        """Merge what `dump` gave; `source` names where it comes from in errors."""
        try:
            values = list(flatten(yaml.safe_load(text)))
        except (yaml.YAMLError, AttributeError):
            raise ConfigError(f"{source}: its config is not valid YAML") from None
        for key, value in values:
            self._merge_value(key, value, source=f" (in {source})")

    def merge_from_list(self, cfg_list: list[str]) -> None:
        """Merge `[KEY, VALUE, KEY, VALUE, ...]`; values are Python literals, or plain strings."""
        for key in cfg_list[0::2]:
            if key.startswith("-"):
                raise ConfigError(f"{key}: no config key; options come before the first KEY VALUE")
        if len(cfg_list) % 2:
            raise ConfigError(
                f"{cfg_list[-1]}: a key without a value; overrides come in pairs: KEY VALUE KEY VALUE ..."
            )
        for key, value in zip(cfg_list[0::2], cfg_list[1::2]):
            self._merge_value(key, value, source=" (on the command line)")

    def _merge_value(self, key: str, value: Any, source: str) -> None:
        node: CfgNode = self
        *parents, name = key.split(".")
        for parent in parents:
            if not isinstance(node.get(parent), CfgNode):
                raise self._unknown(key, source)
            node = node[parent]
        if name not in node:
            raise self._unknown(key, source)
        if isinstance(node[name], CfgNode):
            raise ConfigError(
                f"{key}: is a group of keys and takes no value of its own, got {value!r}{source}"
            )
        node[name] = _coerce(key, value, node[name], source)

    def _unknown(self, key: str, source: str) -> ConfigError:
        known = [name for name, _ in flatten(self)]
        return ConfigError(f"{key}: no such config key{source}{did_you_mean(key, known)}")


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dicts under their dotted keys."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _coerce(key: str, value: Any, default: Any, source: str) -> Any:
    if isinstance(value, str) and not isinstance(default, str):
        # PyYAML reads 1e-4 as a string, and the command line has only strings.
        with contextlib.suppress(ValueError, SyntaxError):
            value = literal_eval(value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    if isinstance(default, str) and value is None:
        return ""
    if isinstance(default, tuple) and isinstance(value, tuple):
        kinds = {type(item) for item in default} or {
            str
        }  # the tuples that are empty by default name datasets
        if kinds == {float}:
            value = tuple(float(item) if type(item) is int else item for item in value)
        if {type(item) for item in value} <= kinds:
            return value
        wanted = f"a tuple of {' or '.join(sorted(kind.__name__ for kind in kinds))}"
    elif type(value) is type(default):
        return value
    else:
        example = default or ("name",) if isinstance(default, tuple) else default
        wanted = f"{type(default).__name__} such as {example!r}"
    raise ConfigError(f"{key}: expected {wanted}, got {value!r}{source}")
