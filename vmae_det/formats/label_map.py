"""Label maps: action ids and names.

Reads the two pbtxt forms in which AVA publishes them, and lists of lines `ID: NAME` (a comma or spaces may
replace the colon). Writes pbtxt. The files in `label_maps/` are built in: their names are accepted instead of
a path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.utils.errors import DataError, did_you_mean, quoted
from vmae_det.utils.input_files import decode, read_text
from vmae_det.utils.output_files import write_text

_BUILTIN = {path.stem: path for path in sorted(Path(__file__).with_name("label_maps").glob("*.*"))}
_SUFFIXES = (".pbtxt", ".txt")  # of files, in contrast to names of built-in label maps
_MAX_ID = 10**6
_ID = re.compile("[0-9]{1,9}")
_PUNCTUATION = ("{", "}", ":")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"' + r"|'(?:[^'\\\n]|\\.)*'")
# Takes linear time: each alternative is linear in its match, and matches never overlap.
_TOKEN = re.compile(
    rf"(?P<skip>[\s,;]+|\#[^\n]*|//[^\n]*)|(?P<string>{_STRING.pattern})|(?P<punctuation>[{{}}:])"
    r"|(?P<word>[\w.+-]+)|(?P<bad>.)"
)
# Escapes of protobuf's text format, which writes UTF-8 bytes in octal or hexadecimal digits.
_ESCAPE = re.compile(rb"""\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|([nrt])|(["'\\]))""")
_LIST_LINE = re.compile(r"""([0-9]+)(?:\s*:|[\s,](?=\s*(?:["']|[^\W\d])))\s*(.+)""")


@dataclass(frozen=True)
class LabelMap:
    """The actions of a dataset, in the order of its file. Columns of score tensors have the same order.

    Args:
        ids: 1-based; gaps are allowed.
        names: unique.
        kinds: AVA's label types, such as PERSON_MOVEMENT; '' if the file has none.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def columns(self, action_ids: np.ndarray) -> np.ndarray:
        """Return the int32 column of each action id, in the same shape; -1 for ids outside the label map."""
        beyond = max(self.ids) + 1
        table = np.full(beyond + 1, -1, dtype=np.int32)
        table[list(self.ids)] = np.arange(len(self))
        return table[np.clip(action_ids, 0, beyond)]

    def select(self, columns: np.ndarray) -> LabelMap:
        """Return a label map of the given columns (n,)."""
        parts = (tuple(part[column] for column in columns) for part in (self.ids, self.names, self.kinds))
        return LabelMap(*parts)

    @classmethod
    def numbered(cls, count: int) -> LabelMap:
        """Return a label map for classes without names: "class 0", "class 1", ..., with ids from 1 on."""
        names = tuple(f"class {number}" for number in range(count))
        return cls(tuple(range(1, count + 1)), names, ("",) * count)

    @classmethod
    def builtin(cls, name: str) -> LabelMap:
        """Return a built-in label map, such as "ava_v2.2" or "kinetics400". See `builtin_label_maps`.

        Raises:
            DataError: there is none with this name.
        """
        if name not in _BUILTIN:
            raise DataError(f"no such built-in label map{did_you_mean(name, _BUILTIN)}", name)
        return cls.from_file(_BUILTIN[name])

    @classmethod
    def from_file(cls, path: str | Path) -> LabelMap:
        """Read a label map file.

        A path that does not exist may be the name of a built-in label map.

        Entries are `item { name: "..." id: 1 }`, `label { name: "..." label_id: 1 label_type: OBJECT }`, or
        lines `1: NAME`. Strings may have single quotes. `#` and `//` start comments.

        Raises:
            DataError: the file does not exist; a syntax error; an entry without a name or an id; a duplicate
                id or name.
        """
        path = label_map_file(path)
        text = read_text(path, "a label map (pbtxt)")
        entries = _list_entries(text, path) if _is_list(text) else _pbtxt_entries(text, path)
        fields = []
        for line, entry in entries:
            number, name = entry.get("id", entry.get("label_id")), entry.get("name")
            if name is None or number is None:
                missing = "name" if name is None else "id"
                raise DataError(
                    f"expected item {{ name: ... id: ... }}, got an entry without {missing}", path, line
                )
            if not _ID.fullmatch(number):
                raise DataError(f"id must be an integer of 1 or more, got {quoted(number)}", path, line)
            fields.append((line, int(number), name, entry.get("label_type", "")))
        return cls._checked(fields, path)

    @classmethod
    def from_fields(cls, content: Any, source: str | Path) -> LabelMap:
        """Build a label map from the dict stored in checkpoints, with lists `ids`, `names` and `kinds`.

        Args:
            source: path of the checkpoint, for error messages.

        Raises:
            DataError: the dict has another form, or the entries are invalid (see `from_file`).
        """
        columns = (
            [content.get(name) for name in ("ids", "names", "kinds")] if isinstance(content, dict) else []
        )
        if not columns or not all(isinstance(column, (list, tuple)) for column in columns):
            raise DataError("label map: expected lists of ids, names and kinds", source)
        if len({len(column) for column in columns}) > 1:
            raise DataError(
                "label map: expected ids, names and kinds of equal length, got "
                f"{', '.join(str(len(c)) for c in columns)} entries",
                source,
            )
        for number, *texts in zip(*columns):
            if type(number) is not int or not all(isinstance(text, str) for text in texts):
                raise DataError("label map: expected integers as ids, strings as names and kinds", source)
        try:
            return cls._checked([(None, *entry) for entry in zip(*columns)], source)
        except DataError as error:
            raise DataError(f"label map: {error.problem}", source) from None

    @classmethod
    def _checked(cls, fields: list[tuple[int | None, int, str, str]], source: str | Path) -> LabelMap:
        """Build a label map from (line, id, name, kind) of each entry; raise DataError for invalid ones."""
        ids: dict[int, int | None] = {}
        names: dict[str, int | None] = {}
        for line, number, name, _ in fields:
            if not 1 <= number < _MAX_ID:
                raise DataError(
                    f"id must be an integer from 1 to {_MAX_ID - 1}, got {number:.9g}", source, line
                )
            if not name.strip():
                raise DataError("the name is empty", source, line)
            for value, seen, what in ((number, ids, "id"), (name, names, "name")):
                if value in seen:
                    first = f", first used in line {seen[value]}" if line else ""
                    raise DataError(f"duplicate {what} {value!r:.80}{first}", source, line)
                seen[value] = line
        if not ids:
            raise DataError('expected entries item { name: "..." id: 1 }, got none', source)
        return cls(tuple(ids), tuple(names), tuple(kind for *_, kind in fields))


def builtin_label_maps() -> list[str]:
    """Return the names of the built-in label maps."""
    return list(_BUILTIN)


def label_map_file(source: str | Path) -> Path:
    """Return a path unchanged, or the file of the built-in label map with this name.

    An existing file has precedence over a name.

    Raises:
        DataError: `source` is neither an existing file nor a built-in label map.
    """
    path, is_folder = Path(source), os.path.isdir(source)
    if is_folder or not os.path.exists(source):  # which do not raise OSError, unlike those of Path
        if str(source) in _BUILTIN:
            return _BUILTIN[str(source)]
        if path.name == str(source) and path.suffix not in _SUFFIXES and not is_folder:
            raise DataError(f"no such file or built-in label map{did_you_mean(path.name, _BUILTIN)}", path)
    return path


def suggest_label_map(number: int) -> str:
    """Return ", such as NAME" for the built-in label map with this number of classes, or "" without one."""
    fitting = [name for name in _BUILTIN if len(LabelMap.builtin(name)) == number]
    return f", such as {' or '.join(fitting)}" if fitting else ""


def write_label_map(path: str | Path, label_map: LabelMap) -> None:
    """Write AVA's form of pbtxt. Names must not contain line breaks."""
    entries = []
    for number, name, kind in zip(label_map.ids, label_map.names, label_map.kinds):
        last = f"  label_type: {kind}\n" if kind else ""
        entries.append(f"label {{\n  name: {_quote(name)}\n  label_id: {number}\n{last}}}\n")
    write_text(Path(path), "".join(entries))


def _pbtxt_entries(text: str, path: Path) -> list[tuple[int, dict[str, str]]]:
    """Parse pbtxt into (line, fields) of each entry."""
    entries: list[tuple[int, dict[str, str]]] = []
    tokens = _tokens(text, path)
    inside, position = False, 0
    while position < len(tokens):
        line, token = tokens[position]
        after = [content for _, content in tokens[position + 1 : position + 3]]
        if after[:1] == ["{"] or after == [":", "{"]:
            if inside or token not in ("item", "label"):
                got = quoted(f"{token} {{")
                raise DataError(f"expected item {{ ... }} or label {{ ... }}, got {got}", path, line)
            entries.append((line, {}))
            inside, position = True, position + 1 + len(after[: after.index("{") + 1])
        elif not inside:
            raise DataError(f"expected item {{ ... }} or lines ID: NAME, got {quoted(token)}", path, line)
        elif token == "}":
            inside, position = False, position + 1
        elif len(after) == 2 and after[0] == ":" and _is_word(token) and after[1] not in _PUNCTUATION:
            if token in entries[-1][1]:
                raise DataError(f"duplicate key {token} in one entry; is a brace missing?", path, line)
            entries[-1][1][token] = _value(after[1], path, line)
            position += 3
        else:
            raise DataError(f"expected KEY: VALUE, got {quoted(' '.join([token, *after]))}", path, line)
    if inside:
        raise DataError(
            "expected a closing brace of this entry, got the end of the file", path, entries[-1][0]
        )
    return entries


def _list_entries(text: str, path: Path) -> list[tuple[int, dict[str, str]]]:
    """Parse lines `ID: NAME` into (line, fields)."""
    entries = []
    for line, content in _list_lines(text):
        match = _LIST_LINE.fullmatch(content)
        if not match:
            raise DataError(f"expected ID: NAME as in the other lines, got {quoted(content)}", path, line)
        entries.append((line, {"id": match[1], "name": _value(match[2], path, line)}))
    return entries


def _list_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that is neither blank nor a comment."""
    for number, line in enumerate(text.splitlines(), start=1):
        if (line := line.strip()) and not line.startswith(("#", "//")):
            yield number, line


def _is_list(text: str) -> bool:
    _, first = next(_list_lines(text), (0, ""))
    return bool(_LIST_LINE.fullmatch(first))


def _tokens(text: str, path: Path) -> list[tuple[int, str]]:
    """Return line and text of each word, string and punctuation token."""
    tokens, line, position = [], 1, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", position, match.start())
        position = match.start()
        if match.lastgroup == "bad":
            got = quoted(text[position : position + 60].partition("\n")[0])
            raise DataError(f"expected item {{ ... }} or label {{ ... }}, got {got}", path, line)
        if match.lastgroup != "skip":
            tokens.append((line, match[0]))
    return tokens


def _is_word(token: str) -> bool:
    return token not in _PUNCTUATION and token[0] not in "\"'"


def _value(text: str, path: Path, line: int) -> str:
    """Return a word unchanged, or the content of a string without quotes and escapes."""
    if not _STRING.fullmatch(text):
        return text
    content = text[1:-1].encode()
    return decode(_ESCAPE.sub(_unescape, content), path, "a name", line)


def _unescape(match: re.Match[bytes]) -> bytes:
    octal, hexadecimal, blank, other = match.groups()
    if octal or hexadecimal:
        return bytes([(int(octal, 8) if octal else int(hexadecimal, 16)) & 0xFF])
    return b" " if blank else other


def _quote(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
