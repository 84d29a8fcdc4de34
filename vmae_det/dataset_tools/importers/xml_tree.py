"""XML elements with their lines, read without risk.

The standard library's expat does the parsing. Entities are where XML is dangerous (a few lines that unfold
into gigabytes, other files drawn into the document), and they can only be declared in a DOCTYPE, which no
tool's export has: a DOCTYPE is refused, so that no further package is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from vmae_det.utils.errors import DataError, shown
from vmae_det.utils.inputs import open_plain

_MAX_NUMBER = 1e9
_CHUNK = 1 << 20


class Element:
    """An XML element: tag, attributes, children, text, and the line on which it begins."""

    def __init__(self, tag: str, attributes: dict[str, str], path: Path, line: int) -> None:
        self.tag = tag
        self.attributes = attributes
        self.path = path
        self.line = line
        self.children: list[Element] = []
        self.text = ""

    def fail(self, problem: str) -> NoReturn:
        """Raise a DataError about this element."""
        raise DataError(f"<{self.tag}>: {problem}", self.path, self.line)

    def named(self, error: DataError) -> DataError:
        """An error about this element, with file and line."""
        return DataError(f"<{self.tag}>: {error.problem}", self.path, self.line)

    def all(self, tag: str) -> list[Element]:
        """The children of that tag."""
        return [child for child in self.children if child.tag == tag]

    def find(self, *tags: str) -> Element | None:
        """The first child of the first child ... of these tags."""
        found: Element | None = self
        for tag in tags:
            found = next((child for child in found.children if child.tag == tag), None) if found else None
        return found

    def attribute(self, name: str) -> str:
        """An attribute that must be there."""
        value = self.attributes.get(name)
        return self.fail(f"expected the attribute {name}=") if value is None else value

    def number(self, name: str) -> float:
        """An attribute that must be a finite number."""
        return self._number(self.attribute(name), f"{name}=")

    def whole(self, name: str) -> int:
        """An attribute that must be a whole number from 0 on."""
        return self._whole(self.attribute(name), f"{name}=")

    def whole_text(self) -> int:
        """The text, a whole number from 0 on."""
        return self._whole(self.text, "")

    def _whole(self, text: str, what: str) -> int:
        value = self._number(text, what)
        if value < 0 or value != int(value):
            self.fail(f"{what}expected a whole number from 0 on, got {shown(text)}")
        return int(value)

    def _number(self, text: str, what: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not abs(value) <= _MAX_NUMBER:
            self.fail(f"{what}expected a number, got {shown(text)}")
        return value


def read_xml(path: Path) -> Iterator[Element]:
    """The root, without children, then each of its children as it ends, so that few are in memory at a time.

    Raises:
        DataError: the file is missing or not XML, or has a DOCTYPE.
    """
    parser = expat.ParserCreate()
    stack: list[Element] = []
    texts: list[list[str]] = []
    done: list[Element] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        stack.append(Element(tag, attributes, path, parser.CurrentLineNumber))
        texts.append([])
        if len(stack) == 1:
            done.append(stack[0])

    def end(tag: str) -> None:
        element = stack.pop()
        element.text = "".join(texts.pop()).strip()
        if len(stack) == 1:
            done.append(element)
        elif stack:
            stack[-1].children.append(element)

    def text(data: str) -> None:
        if len(stack) > 1:
            texts[-1].append(data)

    def refuse(*_: object) -> NoReturn:
        raise DataError("a DOCTYPE is not read; exports have none", path, parser.CurrentLineNumber)

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, refuse
    parser.buffer_text = True
    try:
        with open_plain(path) as file:
            while chunk := file.read(_CHUNK):
                parser.Parse(chunk, False)
                yield from done
                done.clear()
            parser.Parse(b"", True)
            yield from done
    except expat.ExpatError as error:
        problem = expat.errors.messages.get(error.code, "syntax error")
        raise DataError(f"not valid XML: {problem}", path, error.lineno) from None
    except (LookupError, ValueError) as error:  # an encoding that nobody knows
        raise DataError(f"not XML that can be read: {error}", path) from None
