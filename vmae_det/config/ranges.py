"""Types and ranges of config values. `defaults.py` assigns each key a default and one of these ranges."""

from __future__ import annotations

import importlib
import numbers
import os
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from vmae_det.utils.errors import did_you_mean
from vmae_det.utils.registry import lookup

AUTO = "auto"  # value of a key that is resolved before the model is built


class Range(Protocol):
    """The values that a key accepts.

    Attributes:
        kind: name of their Python type.
        is_text: values are strings, which are not parsed as literals.
    """

    kind: str
    is_text: bool

    def convert(self, value: Any) -> Any:
        """Convert a value to the type of the range, or raise TypeError."""

    def check(self, value: Any, key: str) -> None:
        """Raise ValueError with the problem, or ConfigError with the key and the problem."""


@dataclass(frozen=True)
class Key:
    """A config key: its default and its range."""

    default: Any
    range: Range

    def convert(self, value: Any) -> Any:
        """Convert a value to the type of the key.

        Raises:
            TypeError: the value has another type. The message has what was expected and what was got.
        """
        try:
            return self.range.convert(value)
        except (TypeError, OverflowError):
            example = self.default or {"tuple of str": ("name",)}.get(self.range.kind, self.default)
            problem = f"expected {self.range.kind} such as {example!r}, got {format_value(value)}"
            raise TypeError(problem) from None


class Group:
    """A group of keys and nested groups, as attributes."""

    def __setattr__(self, name: str, value: Key | Group) -> None:
        if not isinstance(value, (Key, Group)):
            raise TypeError(f"{name} = {value!r}: a key needs a range, Key({value!r}, RANGE)")
        super().__setattr__(name, value)

    def keys(self, prefix: str = "") -> Iterator[tuple[str, Key]]:
        """Yield the keys of this group and its nested groups with their dotted names."""
        for name, value in vars(self).items():
            if isinstance(value, Group):
                yield from value.keys(f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value


def format_value(value: Any) -> str:
    """Return the `repr` of a value for an error message, shortened if it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    try:
        return short.repr(value)
    except ValueError:  # Python refuses to format numbers of more than 4300 digits
        return "a number with thousands of digits"


# ---------------------------------------------------------------- ranges


@dataclass(frozen=True)
class _Interval:
    """Numbers of one type in an interval."""

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
            raise ValueError(f"must be in {self.text}, got {format_value(value)}")


def integer(interval: str) -> Range:
    """Integers in an interval such as "[1, 100]"."""
    return _Interval(interval, int, "int")


def number(interval: str) -> Range:
    """Floats in an interval such as "[0, 1)", which excludes 1."""
    return _Interval(interval, float, "float")


@dataclass(frozen=True)
class _IntegerOrAuto(_Interval):
    """Integers in an interval, or the word auto."""

    extra_choices: tuple[str, ...] = (AUTO,)

    def convert(self, value: Any) -> Any:
        return AUTO if value == AUTO else super().convert(value)

    def check(self, value: Any, key: str) -> None:
        if value != AUTO:
            super().check(value, key)


def integer_or_auto(interval: str) -> Range:
    """Integers in an interval such as "[1, 100]", or "auto"."""
    return _IntegerOrAuto(interval, int, "int")


@dataclass(frozen=True)
class _Flag:
    kind: str = field(default="bool", init=False)
    is_text: bool = field(default=False, init=False)

    def convert(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise TypeError
        return value

    def check(self, value: bool, key: str) -> None:
        """Accept both values."""


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
            got = f"{len(value)}: {format_value(value)}"
            raise ValueError(f"must have at most {self.LONGEST} characters, got {got}")
        if not value.isprintable() and any(ord(letter) < 32 for letter in value):
            raise ValueError(f"must not contain line breaks or control characters, got {format_value(value)}")
        if any(0xD800 <= ord(letter) < 0xE000 for letter in value):  # surrogates
            raise ValueError(f"must be valid UTF-8, got {format_value(value)}")
        if value != value.strip() or not (value or self.blank):
            problem = "be blank" if not value.strip() else "begin or end with whitespace"
            raise ValueError(f"must not {problem}, got {format_value(value)}")
        if value and self.pattern and not re.fullmatch(self.pattern, value):
            raise ValueError(f"got {format_value(value)}, expected the form {self.form}")


def text(blank: bool = True, pattern: str = "", form: str = "") -> Range:
    """One line of text.

    Args:
        blank: accept the empty string.
        pattern: regular expression that other strings must match; `form` describes it in words.
    """
    return _Text(blank, pattern, form)


@dataclass(frozen=True)
class _PathText(_Text):
    def convert(self, value: Any) -> str:
        return os.path.expanduser(super().convert(value))


def path_text(blank: bool = True) -> Range:
    """A path, a URL or a name. A leading `~` is expanded to the home folder, as a shell does.

    Args:
        blank: accept the empty string.
    """
    return _PathText(blank)


@dataclass(frozen=True)
class _Choice(_Text):
    choices: tuple[str, ...] = ()

    def check(self, value: str, key: str) -> None:
        if value not in self.choices:
            raise ValueError(f"got {format_value(value)}{did_you_mean(value, self.choices)}")


def choice(*choices: str) -> Range:
    """One of several words."""
    return _Choice(blank=False, choices=choices)


@dataclass(frozen=True)
class _Registered(_Text):
    registry: str = ""
    extra_choices: tuple[str, ...] = ()
    method: str = ""

    def check(self, value: str, key: str) -> None:
        if len(value) > 100:
            raise ValueError(f"must be a name, got {format_value(value)}")
        if value not in self.extra_choices:
            module, name = self.registry.split(":")
            found = lookup(getattr(importlib.import_module(module), name), value, key)
            if self.method and not callable(getattr(found, self.method, None)):
                raise ValueError(f"{value} has no class method '{self.method}' (docs/guides/extend.md)")


def registered(registry: str, extra_choices: tuple[str, ...] = (), method: str = "") -> Range:
    """A name in a registry, or one of `extra_choices`.

    Args:
        registry: "MODULE:NAME". The module is imported when a value is checked, not when the config is.
        method: class method that the registered class must have.
    """
    return _Registered(blank=False, registry=registry, extra_choices=extra_choices, method=method)


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
            raise ValueError(f"must have {wanted} values, got {len(value)}: {format_value(value)}")
        for item in value:
            try:
                self.item.check(item, key)
            except ValueError as error:
                raise ValueError(f"each value {error}") from None
        if self.ordered and list(value) != sorted(value):
            raise ValueError(f"must have the lower value first, got {format_value(value)}")


def several(item: Range, shortest: int, longest: int | None = None) -> Range:
    """A tuple of `shortest` to `longest` values; without `longest`, of exactly `shortest`."""
    return _Several(item, shortest, longest or shortest, ordered=False)


def low_and_high(item: Range) -> Range:
    """A tuple (lower bound, upper bound)."""
    return _Several(item, 2, 2, ordered=True)
