"""Values of a JSON file that know where they stand, so that a wrong one is named by its place."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from vmae_det.utils.errors import DataError, shown
from vmae_det.utils.inputs import read_text

_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
# Frame numbers and pixels lie far below; larger ones would not fit the arithmetic on them.
_MAX_NUMBER = 1e9


class Json:
    """A value and its place, such as `$.images[3].width`."""

    def __init__(self, value: Any, place: str, path: Path) -> None:
        self.value = value
        self.place = place
        self.path = path

    def fail(self, expected: str) -> NoReturn:
        """Raise the DataError that says what was expected here and what is."""
        kind = next((name for kind, name in _KINDS.items() if type(self.value) is kind), None)
        got = shown(self.value) if isinstance(self.value, str) else kind or f"{self.value!r}"[:40]
        raise DataError(f"{self.place}: expected {expected}, got {got}", self.path)

    def named(self, error: DataError) -> DataError:
        """An error about this value, with its place and file."""
        return DataError(f"{self.place}: {error.problem}", self.path)

    def get(self, *keys: str) -> Json | None:
        """The value under the first of the keys that is there and not null."""
        for key in keys:
            value = self.object().get(key)
            if value is not None:
                return Json(value, f"{self.place}.{key}", self.path)
        return None

    def need(self, *keys: str) -> Json:
        """As `get`; DataError if there is none."""
        found = self.get(*keys)
        if found is None:
            raise DataError(f"{self.place}: expected the key {' or '.join(map(repr, keys))}", self.path)
        return found

    def object(self) -> dict[str, Any]:
        """The value, an object."""
        return self.value if isinstance(self.value, dict) else self.fail("an object")

    def entries(self) -> Iterator[tuple[str, Json]]:
        """Keys and values of an object."""
        for key, value in self.object().items():
            yield key, Json(value, f"{self.place}.{key}", self.path)

    def items(self) -> list[Json]:
        """The values of a list."""
        if not isinstance(self.value, list):
            self.fail("a list")
        return [Json(value, f"{self.place}[{i}]", self.path) for i, value in enumerate(self.value)]

    def text(self) -> str:
        """The value, a text."""
        return self.value if isinstance(self.value, str) else self.fail("a text")

    def key(self) -> str:
        """The value, a text or a whole number, as a text: tools write ids both ways."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | str):
            self.fail("an id (text or whole number)")
        return str(self.value) if isinstance(self.value, str) else str(self.whole(signed=True))

    def number(self) -> float:
        """The value, a finite number."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            self.fail("a number")
        if not abs(self.value) <= _MAX_NUMBER or not math.isfinite(self.value):
            self.fail(f"a number of at most {_MAX_NUMBER:.0e}")
        return float(self.value)

    def positive(self) -> float:
        """The value, a number above 0."""
        value = self.number()
        return value if value > 1e-6 else self.fail("a number above 0")

    def whole(self, signed: bool = False) -> int:
        """The value, a whole number, from 0 on unless `signed`."""
        value = self.number()
        if value != int(value) or (value < 0 and not signed):
            self.fail("a whole number" if signed else "a whole number from 0 on")
        return int(value)

    def flag(self) -> bool:
        """The value, true or false."""
        return self.value if isinstance(self.value, bool) else self.fail("true or false")

    def numbers(self, count: int, names: str) -> list[float]:
        """The value, a list of so many numbers."""
        items = self.items()
        if len(items) != count:
            raise DataError(f"{self.place}: expected [{names}], got {len(items)} values", self.path)
        return [item.number() for item in items]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; KeyError where a key occurs twice, of which one value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise KeyError(next(key for key, _ in pairs if key in seen or seen.add(key)))
    return found


def read_json(path: Path) -> Json:
    """The root of a JSON file; DataError where it is none."""
    try:
        return Json(json.loads(read_text(path, "JSON"), object_pairs_hook=_object), "$", path)
    except KeyError as error:
        raise DataError(f"the key {shown(error.args[0])} occurs twice in one object", path) from None
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg} (column {error.colno})", path, error.lineno) from None
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise DataError(f"not JSON that can be read: {error}", path) from None
