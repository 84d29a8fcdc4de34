"""What a config key may hold. `defaults.py` gives each key a default and one of these ranges."""

from __future__ import annotations

import importlib
import numbers
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from vmae_det.utils.errors import did_you_mean
from vmae_det.utils.registry import lookup


class Range(Protocol):
    """The values of a key.

    Attributes:
        kind: what Python type they are, in words.
        is_text: whether a string is a value itself, rather than the literal of one.
    """

    kind: str
    is_text: bool

    def convert(self, value: Any) -> Any:
        """The value in the range's type; TypeError where it is of another one."""

    def check(self, value: Any, key: str) -> None:
        """ValueError, which says what is wrong, or ConfigError, which names the key as well."""


@dataclass(frozen=True)
class Key:
    """A config key: its default and its range."""

    default: Any
    range: Range

    def convert(self, value: Any) -> Any:
        """The value in the key's type.

        Raises:
            TypeError: it is of another type; the message says what was expected and what was got.
        """
        try:
            return self.range.convert(value)
        except (TypeError, OverflowError):
            example = self.default or {"tuple of str": ("name",)}.get(self.range.kind, self.default)
            problem = f"expected {self.range.kind} such as {example!r}, got {shown(value)}"
            raise TypeError(problem) from None


class Group:
    """A table of keys and further groups, under their names."""

    def __setattr__(self, name: str, value: Key | Group) -> None:
        if not isinstance(value, (Key, Group)):
            raise TypeError(f"{name} = {value!r}: give the key its range, Key({value!r}, RANGE)")
        super().__setattr__(name, value)

    def keys(self, prefix: str = "") -> Iterator[tuple[str, Key]]:
        """All keys below under their dotted names."""
        for name, value in vars(self).items():
            if isinstance(value, Group):
                yield from value.keys(f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value


def shown(value: Any) -> str:
    """`repr` of a value, cut where it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    try:
        return short.repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"


# ---------------------------------------------------------------- ranges


@dataclass(frozen=True)
class _Interval:
    """Numbers of one type between two ends."""

    text: str
    type: type
    kind: str
    is_text: bool = field(default=False, init=False)

    def convert(self, value: Any) -> Any:
        wanted = numbers.Integral if self.type is int else numbers.Real
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise TypeError
        return self.type(value)

    def check(self, value: Any, key: str) -> None:
        left, low, high, right = re.fullmatch(r"([\[(])(\S+), (\S+)([\])])", self.text).groups()
        low, high = float(low), float(high)
        above = value >= low if left == "[" else value > low
        below = value <= high if right == "]" else value < high
        if not (above and below):  # NaN is neither
            raise ValueError(f"must lie in {self.text}, got {shown(value)}")


def integer(interval: str) -> Range:
    """Whole numbers in an interval such as "[1, 100]"."""
    return _Interval(interval, int, "int")


def number(interval: str) -> Range:
    """Numbers in an interval such as "[0, 1)", which 1 is outside of."""
    return _Interval(interval, float, "float")


@dataclass(frozen=True)
class _Flag:
    kind: str = field(default="bool", init=False)
    is_text: bool = field(default=False, init=False)

    def convert(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise TypeError
        return value

    def check(self, value: bool, key: str) -> None:
        """Both values are good."""


def flag() -> Range:
    """True or False."""
    return _Flag()


@dataclass(frozen=True)
class _Text:
    blank: bool
    pattern: str = ""
    form: str = ""
    kind: str = field(default="str", init=False)
    is_text: bool = field(default=True, init=False)
    LONGEST = 4096

    def convert(self, value: Any) -> str:
        if value is None:  # YAML's empty value
            return ""
        if not isinstance(value, str):
            raise TypeError
        return str(value)

    def check(self, value: str, key: str) -> None:
        if len(value) > self.LONGEST:
            raise ValueError(f"takes at most {self.LONGEST} characters, got {len(value)}: {shown(value)}")
        if not value.isprintable() and any(ord(letter) < 32 for letter in value):
            raise ValueError(f"takes no line breaks and control characters, got {shown(value)}")
        if any(0xD800 <= ord(letter) < 0xE000 for letter in value):  # how Python keeps other bytes
            raise ValueError(f"takes text in UTF-8, got {shown(value)}")
        if value != value.strip() or not (value or self.blank):
            raise ValueError(
                f"must not {'be blank' if not value.strip() else 'begin or end blank'}, got {shown(value)}"
            )
        if value and self.pattern and not re.fullmatch(self.pattern, value):
            raise ValueError(f"got {shown(value)}, expected the form {self.form}")


def text(blank: bool = True, pattern: str = "", form: str = "") -> Range:
    """One line of text.

    Args:
        blank: whether it may be empty.
        pattern: regular expression of all that is not empty; `form` describes it.
    """
    return _Text(blank, pattern, form)


@dataclass(frozen=True)
class _Choice(_Text):
    choices: tuple[str, ...] = ()

    def check(self, value: str, key: str) -> None:
        if value not in self.choices:
            raise ValueError(f"got {shown(value)}{did_you_mean(value, self.choices)}")


def choice(*choices: str) -> Range:
    """One of a few words."""
    return _Choice(blank=False, choices=choices)


@dataclass(frozen=True)
class _Registered(_Text):
    registry: str = ""
    besides: tuple[str, ...] = ()

    def check(self, value: str, key: str) -> None:
        if len(value) > 100:
            raise ValueError(f"takes a name, got {shown(value)}")
        if value not in self.besides:
            module, name = self.registry.split(":")
            lookup(getattr(importlib.import_module(module), name), value, key)


def registered(registry: str, besides: tuple[str, ...] = ()) -> Range:
    """A name of a registry, or one of `besides`.

    Args:
        registry: "MODULE:NAME". The module is imported by the first check of a value, not by the config.
    """
    return _Registered(blank=False, registry=registry, besides=besides)


@dataclass(frozen=True)
class _Several:
    """A tuple."""

    item: Range
    shortest: int
    longest: int
    ordered: bool
    is_text: bool = field(default=False, init=False)

    @property
    def kind(self) -> str:
        return f"tuple of {self.item.kind}"

    def convert(self, value: Any) -> tuple:
        if not isinstance(value, (tuple, list)):
            raise TypeError
        return tuple(self.item.convert(item) for item in value)

    def check(self, value: tuple, key: str) -> None:
        if not self.shortest <= len(value) <= self.longest:
            wanted = f"{self.shortest} to {self.longest}" if self.shortest < self.longest else self.longest
            raise ValueError(f"takes {wanted} values, got {len(value)}: {shown(value)}")
        for item in value:
            try:
                self.item.check(item, key)
            except ValueError as error:
                raise ValueError(f"each value {error}") from None
        if self.ordered and list(value) != sorted(value):
            raise ValueError(f"takes the lower value first, got {shown(value)}")


def several(item: Range, shortest: int, longest: int | None = None) -> Range:
    """A tuple of `shortest` to `longest` values; without `longest` exactly so many."""
    return _Several(item, shortest, longest or shortest, ordered=False)


def low_and_high(item: Range) -> Range:
    """A tuple of a lower and an upper bound."""
    return _Several(item, 2, 2, ordered=True)
