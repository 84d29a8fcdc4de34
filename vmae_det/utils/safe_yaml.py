"""YAML of strangers: plain values alone, and no more of them than a config can need."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from vmae_det.utils.input_files import check_regular_file

_LONGEST = 2_000_000  # characters
_MOST_VALUES = 200_000
_DEEPEST = 50
_MERGE = "tag:yaml.org,2002:merge"  # of the key <<


class InvalidYAMLError(ValueError):
    """Text that cannot be read as YAML; `line` counts from 1 and is None where no line is to blame."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses repeated keys and bounds the depth and what aliases multiply."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = 0
        self.sizes: dict[int, int] = {}  # by the id of a node: values in it, aliases written out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self.sizes:
                raise yaml.YAMLError("an alias stands inside of what it names")
            return node
        self.depth += 1
        if self.depth > _DEEPEST:
            raise yaml.YAMLError(f"nested deeper than {_DEEPEST} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inside = [part for pair in node.value for part in pair]
            _refuse_repeated(key for key, _ in node.value)
        elif isinstance(node, yaml.SequenceNode):
            inside = node.value
        self.sizes[id(node)] = 1 + sum(self.sizes[id(part)] for part in inside)
        if self.sizes[id(node)] > _MOST_VALUES:
            raise yaml.YAMLError(f"more than {_MOST_VALUES} values, with its aliases written out")
        return node


def _refuse_repeated(keys: Iterable[yaml.Node]) -> None:
    """PyYAML takes the last of several values of a key, and loses the others."""
    seen = set()
    for key in keys:
        if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
            if (key.tag, key.value) in seen:
                problem = f"the key '{key.value[:50]}' is there twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add((key.tag, key.value))


def load_yaml(text: str) -> Any:
    """What YAML text holds.

    Raises:
        InvalidYAMLError: it is not valid, too long or too deep.
    """
    if len(text) > _LONGEST:
        raise InvalidYAMLError(f"{len(text)} characters are more than the {_LONGEST} that are read")
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or error
        raise InvalidYAMLError(f"not valid YAML: {problem}", mark.line + 1 if mark else None) from None
    except (ValueError, OverflowError) as error:  # a number of thousands of digits, a month 13
        raise InvalidYAMLError(f"a value that cannot be read: {error}") from None


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        InvalidYAMLError: it is not valid, too long, too deep, or not text.
        OSError: it cannot be read.
        DataError: it is a folder, a pipe or a device.
    """
    check_regular_file(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            return load_yaml(file.read(_LONGEST + 1))
    except UnicodeDecodeError:
        raise InvalidYAMLError("not UTF-8 text") from None
