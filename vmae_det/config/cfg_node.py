"""`CfgNode`: fvcore's config node, restricted to known keys and to values of the right type."""

from __future__ import annotations

import os
from ast import literal_eval
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, NoReturn

from fvcore.common.config import BASE_KEY
from fvcore.common.config import CfgNode as FvcoreCfgNode

from vmae_det.config.defaults import KEYS
from vmae_det.config.other_toolkits import replacement_hint
from vmae_det.config.ranges import format_value
from vmae_det.utils.errors import ConfigError, DataError, did_you_mean
from vmae_det.utils.safe_yaml import InvalidYAMLError, load_yaml, read_yaml

_GROUPS = {key.rpartition(".")[0] for key in KEYS} | {
    key[:dot] for key in KEYS for dot in range(len(key)) if key[dot] == "."
}


def get_cfg() -> CfgNode:
    """Return a new config with all defaults."""
    return CfgNode(unflatten((key, entry.default) for key, entry in KEYS.items()))


class CfgNode(FvcoreCfgNode):
    """Nested config with attribute access, `_BASE_` inheritance in files and `KEY VALUE` overrides.

    Setting a value in any way raises ConfigError for an unknown key or a value of another type. An int is
    accepted for a float, and a list for a tuple. `check_config` checks the ranges.
    """

    def __init__(
        self, init_dict: Mapping | None = None, key_list: Sequence[str] = (), new_allowed: bool = False
    ) -> None:
        super().__init__(init_dict, list(key_list), new_allowed=False)
        self.__dict__["_path"] = tuple(key_list)

    @classmethod
    def _create_config_tree_from_dict(cls, dic: Mapping, key_list: Sequence[str]) -> dict[str, Any]:
        return {name: _validated((*key_list, name), value, "") for name, value in dic.items()}

    def __reduce__(self) -> tuple:
        return _rebuild, (dict(self), self._path, self.is_frozen())

    def __deepcopy__(self, memo: dict) -> CfgNode:
        items = {name: deepcopy(value, memo) for name, value in self.items() if isinstance(value, CfgNode)}
        return _rebuild({**self, **items}, self._path, self.is_frozen())

    # ------------------------------------------------------------ changes from Python

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if self.is_frozen():
            raise ConfigError(
                f"{'.'.join((*self._path, str(name)))}: the config is frozen; change a copy: "
                "cfg = cfg.clone(); cfg.defrost()"
            )
        self._set(name, value, "")

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set several keys. Groups are updated recursively."""
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def __ior__(self, other: Any) -> CfgNode:
        self.update(other)
        return self

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Return the value of a key. `default` is never used, because every key has a value."""
        if name not in self:
            raise _unknown_key((*self._path, name), "")
        return self[name]

    def merge_from_other_cfg(self, cfg_other: Mapping) -> None:
        """Merge the values of another config, or of a part of one."""
        self._merge(cfg_other, "")

    def _reject_removal(self, *_: Any, **__: Any) -> NoReturn:
        raise ConfigError(f"{'.'.join(self._path) or 'config'}: keys can be set, but not removed")

    __delitem__ = pop = popitem = clear = _reject_removal

    # ------------------------------------------------------------ files and the command line

    def merge_from_file(self, cfg_filename: str | Path) -> None:
        """Merge a YAML file, after the files that it lists under `_BASE_` (paths relative to the file)."""
        for path, content in read_config_files(Path(cfg_filename)):
            self._merge(content, f" (in {path})")

    def merge_from_text(self, text: str, source: str) -> None:
        """Merge the output of `dump`. Errors name its `source`."""
        try:
            content = load_yaml(text)
        except InvalidYAMLError as error:
            raise ConfigError(f"{source}: its config: {error}") from None
        if not isinstance(content, dict):
            raise ConfigError(f"{source}: its config is not a mapping of config keys to values")
        self._merge(content, f" (in {source})")

    def merge_from_list(self, cfg_list: list[str]) -> None:
        """Merge `[KEY, VALUE, KEY, VALUE, ...]`. Values are Python literals or plain strings."""
        for key in cfg_list[0::2]:
            if key.startswith("-"):
                raise ConfigError(f"{key}: not a config key; put options before the first KEY VALUE")
            if "=" in key:
                name, _, value = key.partition("=")
                hint = replacement_hint(name) or f"; write {name} {value}"
                raise ConfigError(f"{format_value(key)[1:-1]}: a key and its value are two arguments{hint}")
        if len(cfg_list) % 2:
            last = format_value(cfg_list[-1])[1:-1]
            hint = f"; pass a config as --config-file {last}" if last.endswith((".yaml", ".yml")) else ""
            raise ConfigError(
                f"{last}: a key without a value; write overrides in pairs: KEY VALUE KEY VALUE ...{hint}"
            )
        for key, value in zip(cfg_list[0::2], cfg_list[1::2]):
            self._set(key, value, " (on the command line)", literals=True)

    # ------------------------------------------------------------ setting values

    def _merge(self, tree: Mapping, source: str) -> None:
        for name, value in tree.items():
            self._set(name, value, source, literals=True)

    def _set(self, name: Any, value: Any, source: str, literals: bool = False) -> None:
        """Set a key or a group. The name may contain dots.

        Args:
            source: where the value comes from, for errors.
            literals: parse strings as Python literals. PyYAML reads 1e-4 as a string, and the command line
                has only strings.
        """
        first, _, rest = str(name).partition(".")
        path = (*self._path, first)
        if ".".join(path) not in _GROUPS:
            dict.__setitem__(self, first, _validated((*self._path, name), value, source, literals))
            return
        if first not in self:
            dict.__setitem__(self, first, CfgNode(key_list=path))
        if rest:
            self[first]._set(rest, value, source, literals)
            return
        if not isinstance(value, Mapping):
            problem = f"is a group of keys and cannot have a value, got {format_value(value)}"
            raise ConfigError(f"{'.'.join(path)}: {problem}{source}")
        for inner, inner_value in value.items():
            self[first]._set(inner, inner_value, source, literals)


def read_config_files(
    path: Path, included_from: tuple[Path, ...] = ()
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the files that make up a config with their content, in the order in which they are merged.

    The files that a file lists under `_BASE_` precede it.

    Args:
        included_from: the files whose `_BASE_` led to this file, for errors.

    Raises:
        ConfigError: a file does not exist, is not a YAML mapping, or includes itself.
    """
    included = f" (the _BASE_ of {included_from[-1]})" if included_from else ""
    if os.path.abspath(path) in map(os.path.abspath, included_from):
        raise ConfigError(f"{included_from[-1]}: its _BASE_ files include each other in a cycle")
    if path.suffix == ".py":
        raise ConfigError(
            f"{path}: expected a YAML file, got a Python config, as of mmaction2; start from a config of "
            f"the model zoo (docs/guides/coming_from.md){included}"
        )
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file{included}") from None
    except DataError as error:
        raise ConfigError(f"{error}{included}") from None
    except InvalidYAMLError as error:
        where = f"{path}:{error.line}" if error.line else path
        raise ConfigError(f"{where}: {error}{included}") from None
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read as a config file: {problem}{included}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a YAML mapping of config keys to values{included}")
    bases = content.pop(BASE_KEY, [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            got = format_value(base)
            raise ConfigError(f"{path}: {BASE_KEY}: expected a file or a list of files, got {got}")
        yield from read_config_files(path.parent / Path(base).expanduser(), (*included_from, path))
    yield path, content


def _rebuild(items: dict[str, Any], path: tuple[str, ...], frozen: bool) -> CfgNode:
    """Rebuild a copied or unpickled node. Its values have been checked before."""
    node = CfgNode(key_list=path)
    dict.update(node, items)
    node.__dict__[CfgNode.IMMUTABLE] = frozen
    return node


def _validated(path: Sequence[Any], value: Any, source: str, literals: bool = False) -> Any:
    """Return the value of a key in the type of the key, or a node for a group."""
    key = ".".join(map(str, path))
    if key in _GROUPS and isinstance(value, Mapping):
        return CfgNode(value, path)
    if key not in KEYS:
        while isinstance(value, Mapping) and value and len(path) < 9:  # another toolkit
            name, value = next(iter(value.items()))
            path = (*path, name)
        raise _unknown_key(path, source)
    if literals and isinstance(value, str) and not KEYS[key].range.is_text:
        value = _parse_literal(value)
    try:
        return KEYS[key].convert(value)
    except TypeError as error:
        raise ConfigError(f"{key}: {error}{source}") from None


def _parse_literal(text: str) -> Any:
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        with suppress(ValueError):
            return float(text)  # inf and nan are not literals
        return text


def _unknown_key(path: Sequence[Any], source: str) -> ConfigError:
    key = ".".join(map(str, path))
    hint = replacement_hint(key) or did_you_mean(key, KEYS)
    return ConfigError(f"{format_value(key)[1:-1]}: no such config key{source}{hint}")


def unflatten(values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Convert (dotted key, value) pairs to nested dicts."""
    tree: dict[str, Any] = {}
    for key, value in values:
        *groups, name = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    return tree


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) pairs of nested dicts."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def value_of(cfg: CfgNode, key: str) -> Any:
    """Return the value of a dotted key."""
    for name in key.split("."):
        cfg = cfg[name]
    return cfg
