"""Loading of untrusted YAML: plain values only, with limits on length, depth and number of values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from vmae_det.utils.input_files import check_regular_file

_MAX_CHARACTERS = 2_000_000
_MAX_VALUES = 200_000
_MAX_DEPTH = 50
_MERGE_TAG = "tag:yaml.org,2002:merge"  # of the key <<


class InvalidYAMLError(ValueError):
    """Invalid YAML text. `line` counts from 1, and is None if the error has no line."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with limits on the depth and on the number of values. Rejects duplicate keys."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = 0
        self.sizes: dict[int, int] = {}  # number of values by id of the node, with aliases expanded

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self.sizes:
                raise yaml.YAMLError("an alias refers to a node that contains it")
            return node
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise yaml.YAMLError(f"expected at most {_MAX_DEPTH} nested levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
            _reject_duplicates(key for key, _ in node.value)
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        self.sizes[id(node)] = 1 + sum(self.sizes[id(part)] for part in children)
        if self.sizes[id(node)] > _MAX_VALUES:
            raise yaml.YAMLError(f"expected at most {_MAX_VALUES} values, with aliases expanded")
        return node


def _reject_duplicates(keys: Iterable[yaml.Node]) -> None:
    """Raise YAMLError for duplicate keys. PyYAML would silently keep the last value."""
    seen = set()
    for key in keys:
        if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE_TAG:
            if (key.tag, key.value) in seen:
                problem = f"duplicate key '{key.value[:50]}'"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add((key.tag, key.value))


def load_yaml(text: str) -> Any:
    """Parse YAML text.

    Raises:
        InvalidYAMLError: the text is not valid YAML, too long, or nested too deeply.
    """
    if len(text) > _MAX_CHARACTERS:
        raise InvalidYAMLError(f"expected at most {_MAX_CHARACTERS} characters, got {len(text)}")
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or error
        raise InvalidYAMLError(f"not valid YAML: {problem}", mark.line + 1 if mark else None) from None
    except (ValueError, OverflowError) as error:  # such as a number of thousands of digits, or month 13
        raise InvalidYAMLError(f"invalid value: {error}") from None


def read_yaml(path: Path) -> Any:
    """Parse a YAML file.

    Raises:
        InvalidYAMLError: see `load_yaml`; or the file is not UTF-8 text.
        OSError: the file cannot be read.
        DataError: it is a folder, a pipe or a device.
    """
    return load_yaml(_read_text(path))


def read_key_lines(path: Path) -> dict[str, int]:
    """Return the line of each key and each item of a list of a YAML file, by the names joined with dots.

    The name of an item is its number, from 0. `path` is a file that `read_yaml` accepts. A value that is set
    through an alias or a merge key has the line at which it is written.
    """
    loader = _Loader(_read_text(path))
    try:
        return dict(_key_lines(loader, loader.get_single_node(), ""))
    finally:
        loader.dispose()


def _key_lines(loader: _Loader, node: yaml.Node, prefix: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)  # resolves merge keys
        children = [(key.value, key, value) for key, value in node.value]
    else:
        items = node.value if isinstance(node, yaml.SequenceNode) else []
        children = [(number, item, item) for number, item in enumerate(items)]
    for name, place, value in children:
        yield f"{prefix}{name}", place.start_mark.line + 1
        yield from _key_lines(loader, value, f"{prefix}{name}.")


def _read_text(path: Path) -> str:
    check_regular_file(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(_MAX_CHARACTERS + 1)
    except UnicodeDecodeError:
        raise InvalidYAMLError("not UTF-8 text") from None
