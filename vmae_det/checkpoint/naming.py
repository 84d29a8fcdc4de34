"""Tables of parameter names that are read from either side."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

# What a placeholder of a pattern stands for.
_PLACEHOLDERS = {"n": r"(?P<n>\d+)", "p": r"(?P<p>weight|bias)"}


class NameTable:
    """Pairs of patterns, theirs and ours, that turn names of one side into those of the other.

    A pattern is a whole name in which `{n}` stands for the number of a block, `{p}` for "weight" or "bias".
    Where several rows fit a name the first wins, so that a name which is read but never written comes last.
    """

    def __init__(self, rows: Iterable[tuple[str, str]]) -> None:
        self.rows = tuple(rows)

    @cached_property
    def _to_ours(self) -> list[tuple[re.Pattern, str]]:
        return [(_expression(theirs), ours) for theirs, ours in self.rows]

    @cached_property
    def _to_theirs(self) -> list[tuple[re.Pattern, str]]:
        return [(_expression(ours), theirs) for theirs, ours in self.rows]

    def to_ours(self, name: str) -> str | None:
        """Our name of their parameter `name`, or None if the table does not have it."""
        return _translate(name, self._to_ours)

    def to_theirs(self, name: str) -> str | None:
        """Their name of our parameter `name`, or None if the table does not have it."""
        return _translate(name, self._to_theirs)

    def part_of(self, name: str) -> str:
        """The part of our models, such as "backbone", that a name of theirs belongs to by its beginning.

        The name need not be in the table; '' if none there begins like it.
        """
        return self._parts.get(name.partition(".")[0], "")

    @cached_property
    def _parts(self) -> dict[str, str]:
        return {theirs.partition(".")[0]: part_of(ours) for theirs, ours in reversed(self.rows)}


def part_of(name: str) -> str:
    """The part of a model that a parameter of ours belongs to, such as backbone, decoder, head."""
    first = name.partition(".")[0]
    return "decoder" if first in ("encoder_to_decoder", "mask_token") else first


def blocks(theirs: str, ours: str, rows: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Rows of one transformer block as rows of all blocks under the prefixes `theirs` and `ours`."""
    return tuple((f"{theirs}.{{n}}.{their_name}", f"{ours}.{{n}}.{name}") for their_name, name in rows)


def _expression(pattern: str) -> re.Pattern:
    expression = re.escape(pattern).replace(r"\{", "{").replace(r"\}", "}").format(**_PLACEHOLDERS)
    return re.compile(expression)


def _translate(name: str, rows: list[tuple[re.Pattern, str]]) -> str | None:
    for expression, pattern in rows:
        match = expression.fullmatch(name)
        if match:
            return pattern.format(**match.groupdict())
    return None
