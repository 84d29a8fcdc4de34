"""JSON and XML readers for untrusted annotation files. Every value has its location, for error messages.

JSON is parsed by the standard library; `JsonValue` adds the JSON path. XML is parsed by expat, which reports
line numbers. Entities make XML dangerous: a few lines can expand to gigabytes or include other files.
Entities can only be declared in a DOCTYPE, which no annotation tool writes, so a DOCTYPE is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from xml.parsers import expat

from vmae_det.utils.errors import DataError, quoted
from vmae_det.utils.input_files import open_input, read_text

_JSON_TYPES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    type(None): "null",
}
# Frame numbers and pixels are far below this. Larger numbers would overflow the arithmetic on them.
_MAX_NUMBER = 1e9
_CHUNK = 1 << 20  # bytes


class JsonValue:
    """A JSON value and its location, such as `$.images[3].width`."""

    def __init__(self, value: Any, location: str, path: Path) -> None:
        self.value = value
        self.location = location
        self.path = path

    def fail(self, expected: str) -> NoReturn:
        """Raise a DataError that names the location, what was expected and what was got."""
        kind = next((name for kind, name in _JSON_TYPES.items() if type(self.value) is kind), None)
        got = quoted(self.value) if isinstance(self.value, str) else kind or f"{self.value!r}"[:40]
        raise DataError(f"{self.location}: expected {expected}, got {got}", self.path)

    def located(self, error: DataError) -> DataError:
        """Return `error` with this value's file and location."""
        return DataError(f"{self.location}: {error.problem}", self.path)

    def get(self, *keys: str) -> JsonValue | None:
        """Return the value of the first of `keys` that exists and is not null, or None."""
        for key in keys:
            value = self.object().get(key)
            if value is not None:
                return JsonValue(value, f"{self.location}.{key}", self.path)
        return None

    def require(self, *keys: str) -> JsonValue:
        """Return the same as `get`; DataError if there is no such value."""
        found = self.get(*keys)
        if found is None:
            raise DataError(f"{self.location}: expected the key {' or '.join(map(repr, keys))}", self.path)
        return found

    def object(self) -> dict[str, Any]:
        """Return the value, which must be an object."""
        return self.value if isinstance(self.value, dict) else self.fail("an object")

    def entries(self) -> Iterator[tuple[str, JsonValue]]:
        """Yield keys and values of the object."""
        for key, value in self.object().items():
            yield key, JsonValue(value, f"{self.location}.{key}", self.path)

    def items(self) -> list[JsonValue]:
        """Return the values of the list."""
        if not isinstance(self.value, list):
            self.fail("a list")
        return [JsonValue(value, f"{self.location}[{i}]", self.path) for i, value in enumerate(self.value)]

    def text(self) -> str:
        """Return the value, which must be a string."""
        return self.value if isinstance(self.value, str) else self.fail("a string")

    def identifier(self) -> str:
        """Return the value, a string or an integer, as a string. Tools write ids both ways."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | str):
            self.fail("an id (string or integer)")
        return str(self.value) if isinstance(self.value, str) else str(self.integer(signed=True))

    def number(self) -> float:
        """Return the value, which must be a finite number."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            self.fail("a number")
        if not abs(self.value) <= _MAX_NUMBER or not math.isfinite(self.value):
            self.fail(f"a number of at most {_MAX_NUMBER:.0e}")
        return float(self.value)

    def positive(self) -> float:
        """Return the value, which must be a number above 0."""
        value = self.number()
        return value if value > 1e-6 else self.fail("a number above 0")

    def integer(self, signed: bool = False) -> int:
        """Return the value, which must be an integer, and not negative unless `signed`."""
        value = self.number()
        if value != int(value) or (value < 0 and not signed):
            self.fail("an integer" if signed else "a non-negative integer")
        return int(value)

    def boolean(self) -> bool:
        """Return the value, which must be true or false."""
        return self.value if isinstance(self.value, bool) else self.fail("true or false")

    def numbers(self, count: int, names: str) -> list[float]:
        """Return the value, which must be a list of `count` numbers."""
        items = self.items()
        if len(items) != count:
            raise DataError(f"{self.location}: expected [{names}], got {len(items)} values", self.path)
        return [item.number() for item in items]


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; KeyError for a duplicate key, of which one value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise KeyError(next(key for key, _ in pairs if key in seen or seen.add(key)))
    return found


def read_json(path: Path) -> JsonValue:
    """Return the root of a JSON file; DataError if it is not valid JSON."""
    try:
        return JsonValue(json.loads(read_text(path, "JSON"), object_pairs_hook=_unique_keys), "$", path)
    except KeyError as error:
        raise DataError(f"duplicate key {quoted(error.args[0])} in an object", path) from None
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg} (column {error.colno})", path, error.lineno) from None
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise DataError(f"JSON cannot be parsed: {error}", path) from None


class XmlElement:
    """An XML element: tag, attributes, children, text, and the line where it begins."""

    def __init__(self, tag: str, attributes: dict[str, str], path: Path, line: int) -> None:
        self.tag = tag
        self.attributes = attributes
        self.path = path
        self.line = line
        self.children: list[XmlElement] = []
        self.text = ""

    def fail(self, problem: str) -> NoReturn:
        """Raise a DataError about this element."""
        raise DataError(f"<{self.tag}>: {problem}", self.path, self.line)

    def located(self, error: DataError) -> DataError:
        """Return `error` with this element's file and line."""
        return DataError(f"<{self.tag}>: {error.problem}", self.path, self.line)

    def all(self, tag: str) -> list[XmlElement]:
        """Return the children with this tag."""
        return [child for child in self.children if child.tag == tag]

    def find(self, *tags: str) -> XmlElement | None:
        """Follow `tags` downwards, to the first child with each tag; None if there is none."""
        found: XmlElement | None = self
        for tag in tags:
            found = next((child for child in found.children if child.tag == tag), None) if found else None
        return found

    def attribute(self, name: str) -> str:
        """Return an attribute, which must exist."""
        value = self.attributes.get(name)
        return self.fail(f"expected the attribute {name}=") if value is None else value

    def number(self, name: str) -> float:
        """Return an attribute, which must be a finite number."""
        return self._number(self.attribute(name), f"{name}: ")

    def integer(self, name: str) -> int:
        """Return an attribute, which must be a non-negative integer."""
        return self._integer(self.attribute(name), f"{name}: ")

    def integer_text(self) -> int:
        """Return the text, which must be a non-negative integer."""
        return self._integer(self.text, "")

    def _integer(self, text: str, prefix: str) -> int:
        value = self._number(text, prefix)
        if value < 0 or value != int(value):
            self.fail(f"{prefix}expected a non-negative integer, got {quoted(text)}")
        return int(value)

    def _number(self, text: str, prefix: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not abs(value) <= _MAX_NUMBER:
            self.fail(f"{prefix}expected a number, got {quoted(text)}")
        return value


def read_xml(path: Path) -> Iterator[XmlElement]:
    """Yield the root without its children, then each child when it is complete, to keep few in memory.

    Raises:
        DataError: the file is missing, is not valid XML, or has a DOCTYPE.
    """
    parser = expat.ParserCreate()
    stack: list[XmlElement] = []
    texts: list[list[str]] = []
    complete: list[XmlElement] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        stack.append(XmlElement(tag, attributes, path, parser.CurrentLineNumber))
        texts.append([])
        if len(stack) == 1:
            complete.append(stack[0])

    def end(tag: str) -> None:
        element = stack.pop()
        element.text = "".join(texts.pop()).strip()
        if len(stack) == 1:
            complete.append(element)
        elif stack:
            stack[-1].children.append(element)

    def text(data: str) -> None:
        if len(stack) > 1:
            texts[-1].append(data)

    def refuse_doctype(*_: object) -> NoReturn:
        raise DataError("a DOCTYPE is not allowed; remove it", path, parser.CurrentLineNumber)

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, refuse_doctype
    parser.buffer_text = True
    try:
        with open_input(path) as file:
            while chunk := file.read(_CHUNK):
                parser.Parse(chunk, False)
                yield from complete
                complete.clear()
            parser.Parse(b"", True)
            yield from complete
    except expat.ExpatError as error:
        problem = expat.errors.messages.get(error.code, "syntax error")
        raise DataError(f"not valid XML: {problem}", path, error.lineno) from None
    except (LookupError, ValueError) as error:  # an unknown encoding
        raise DataError(f"XML cannot be parsed: {error}", path) from None
