"""Label maps: which action id has which name, in the two pbtxt forms that AVA's files come in, or as a list
of lines `ID: NAME`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vmae_det.data.box_rows import shown
from vmae_det.utils.errors import DataError
from vmae_det.utils.files import write_text
from vmae_det.utils.inputs import decode, read_text

_MAX_ID = 10**6
_ID = re.compile("[0-9]{1,9}")
_MARKS = ("{", "}", ":")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"' + r"|'(?:[^'\\\n]|\\.)*'")
# Each alternative is linear in what it reads, and none is tried again from the middle of another.
_TOKEN = re.compile(
    rf"(?P<skip>[\s,;]+|\#[^\n]*|//[^\n]*)|(?P<string>{_STRING.pattern})|(?P<mark>[{{}}:])"
    r"|(?P<word>[\w.+-]+)|(?P<bad>.)"
)
_ESCAPE = re.compile(rb"""\\(?:([0-7]{1,3})|(["'\\]))""")  # text formats write UTF-8 in octal digits


@dataclass(frozen=True)
class LabelMap:
    """The actions of a dataset, in the order of its file, which is that of the columns of a score tensor.

    Args:
        ids: 1-based, gaps allowed.
        names: unique.
        kinds: AVA's label types, as PERSON_MOVEMENT; '' where the file gives none.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def columns(self, action_ids: np.ndarray) -> np.ndarray:
        """int32 column of each action id, of the same shape; -1 where the label map has no such id."""
        beyond = max(self.ids) + 1
        table = np.full(beyond + 1, -1, dtype=np.int32)
        table[list(self.ids)] = np.arange(len(self))
        return table[np.clip(action_ids, 0, beyond)]

    def select(self, columns: np.ndarray) -> LabelMap:
        """The entries of these columns (n,)."""
        parts = (tuple(part[column] for column in columns) for part in (self.ids, self.names, self.kinds))
        return LabelMap(*parts)

    @classmethod
    def from_file(cls, path: str | Path) -> LabelMap:
        """Read `item { name: "..." id: 1 }`, `label { name: "..." label_id: 1 label_type: OBJECT }`, or
        lines `1: NAME`.

        Strings may stand in single quotes; `#` and `//` begin comments.

        Raises:
            DataError: no such file; bad syntax; an entry without name or id; an id or name that comes twice.
        """
        path = Path(path)
        text = read_text(path, "a label map (pbtxt)")
        entries = _list_entries(text, path) if _is_list(text) else _pbtxt_entries(text, path)
        ids: dict[int, int] = {}
        names: dict[str, int] = {}
        kinds = []
        for line, entry in entries:
            number, name = entry.get("id", entry.get("label_id")), entry.get("name")
            if name is None or number is None:
                missing = "name" if name is None else "id"
                raise DataError(
                    f"an entry without {missing}; expected item {{ name: ... id: ... }}", path, line
                )
            if not _ID.fullmatch(number) or not 1 <= int(number) < _MAX_ID:
                raise DataError(f"id must be a whole number from 1 on, got {shown(number)}", path, line)
            for value, seen, what in ((int(number), ids, "id"), (name, names, "name")):
                if value in seen:
                    raise DataError(f"{what} {value!r} comes twice, first in line {seen[value]}", path, line)
                seen[value] = line
            kinds.append(entry.get("label_type", ""))
        if not ids:
            raise DataError('holds no entries; expected item { name: "..." id: 1 }', path)
        return cls(tuple(ids), tuple(names), tuple(kinds))


def write_label_map(path: str | Path, label_map: LabelMap) -> None:
    """Write AVA's form of pbtxt; names must hold no line breaks."""
    entries = []
    for number, name, kind in zip(label_map.ids, label_map.names, label_map.kinds):
        last = f"  label_type: {kind}\n" if kind else ""
        entries.append(f"label {{\n  name: {_quoted(name)}\n  label_id: {number}\n{last}}}\n")
    write_text(Path(path), "".join(entries))


def _pbtxt_entries(text: str, path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line, fields) of each block."""
    entries: list[tuple[int, dict[str, str]]] = []
    tokens = _tokens(text, path)
    inside, place = False, 0
    while place < len(tokens):
        line, token = tokens[place]
        after = [content for _, content in tokens[place + 1 : place + 3]]
        if after[:1] == ["{"] or after == [":", "{"]:
            if inside or token not in ("item", "label"):
                got = shown(f"{token} {{")
                raise DataError(f"expected item {{ ... }} or label {{ ... }}, got {got}", path, line)
            entries.append((line, {}))
            inside, place = True, place + 1 + len(after[: after.index("{") + 1])
        elif not inside:
            raise DataError(f"expected item {{ ... }} or lines ID: NAME, got {shown(token)}", path, line)
        elif token == "}":
            inside, place = False, place + 1
        elif len(after) == 2 and after[0] == ":" and _is_word(token) and after[1] not in _MARKS:
            if token in entries[-1][1]:
                raise DataError(f"{token} comes twice in one entry; is a brace missing?", path, line)
            entries[-1][1][token] = _value(after[1], path, line)
            place += 3
        else:
            raise DataError(f"expected KEY: VALUE, got {shown(' '.join([token, *after]))}", path, line)
    if inside:
        raise DataError("the entry has no closing brace", path, entries[-1][0])
    return entries


def _list_entries(text: str, path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line, fields) of each line `ID: NAME`."""
    entries = []
    for line, content in _list_lines(text):
        number, _, name = (part.strip() for part in content.partition(":"))
        if not number.isdecimal() or not name:
            raise DataError(f"expected ID: NAME as in the other lines, got {shown(content)}", path, line)
        entries.append((line, {"id": number, "name": _value(name, path, line)}))
    return entries


def _list_lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is neither blank nor a comment."""
    for number, line in enumerate(text.splitlines(), start=1):
        if (line := line.strip()) and not line.startswith(("#", "//")):
            yield number, line


def _is_list(text: str) -> bool:
    _, first = next(_list_lines(text), (0, ""))
    return first.partition(":")[0].strip().isdecimal()


def _tokens(text: str, path: Path) -> list[tuple[int, str]]:
    """Line and text of each word, string and mark."""
    tokens, line, position = [], 1, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", position, match.start())
        position = match.start()
        if match.lastgroup == "bad":
            got = shown(text[position : position + 60].partition("\n")[0])
            raise DataError(f"expected item {{ ... }} or label {{ ... }}, got {got}", path, line)
        if match.lastgroup != "skip":
            tokens.append((line, match[0]))
    return tokens


def _is_word(token: str) -> bool:
    return token not in _MARKS and token[0] not in "\"'"


def _value(text: str, path: Path, line: int) -> str:
    """A word as it stands, a string without its quotes and escapes."""
    if not _STRING.fullmatch(text):
        return text
    content = text[1:-1].encode()
    content = _ESCAPE.sub(lambda found: bytes([int(found[1], 8) & 0xFF]) if found[1] else found[2], content)
    return decode(content, path, "a name", line)


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
