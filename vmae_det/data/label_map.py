"""Label maps: which action id has which name, in the two pbtxt forms that AVA's files come in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vmae_det.data.box_rows import shown, unreadable
from vmae_det.utils.errors import DataError
from vmae_det.utils.files import write_text

_MAX_ID = 10**6
_ID = re.compile("[0-9]{1,9}")
_PBTXT = re.compile(
    r"""(?P<open>(?P<block>\w+)\s*:?\s*\{) | (?P<close>\})
    | (?P<key>\w+)\s*:\s*(?P<value>"(?:[^"\\\n]|\\.)*"|[\w.+-]+)
    | (?P<skip>\#[^\n]*|[\s,;]+) | (?P<bad>[^\n]+)""",
    re.VERBOSE,
)


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
        """Read `item { name: "..." id: 1 }` or `label { name: "..." label_id: 1 label_type: OBJECT }`.

        Raises:
            DataError: no such file; bad syntax; an entry without name or id; an id or name that comes twice.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise DataError("expected a label map (pbtxt) in UTF-8, got other bytes", path) from None
        except OSError as error:
            raise unreadable(path, error) from None
        ids: dict[int, int] = {}
        names: dict[str, int] = {}
        kinds = []
        for line, entry in _pbtxt_entries(text, path):
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
    """Write AVA's form of pbtxt; names must hold no double quotes and no line breaks."""
    entries = []
    for number, name, kind in zip(label_map.ids, label_map.names, label_map.kinds):
        last = f"  label_type: {kind}\n" if kind else ""
        entries.append(f'label {{\n  name: "{name}"\n  label_id: {number}\n{last}}}\n')
    write_text(Path(path), "".join(entries))


def _pbtxt_entries(text: str, path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line, fields) of each block."""
    entries: list[tuple[int, dict[str, str]]] = []
    inside, line, position = False, 1, 0
    for token in _PBTXT.finditer(text):
        line += text.count("\n", position, token.start())
        position = token.start()
        key = token["key"]
        if token["bad"] or (token["open"] and (inside or token["block"] not in ("item", "label"))):
            raise DataError(f"expected item {{ ... }} or label {{ ... }}, got {shown(token[0])}", path, line)
        if (key or token["close"]) and not inside:
            raise DataError(f"{shown(token[0])} stands outside of item {{ ... }}", path, line)
        if token["open"]:
            entries.append((line, {}))
        elif key:
            if key in entries[-1][1]:
                raise DataError(f"{key} comes twice in one entry; is a brace missing?", path, line)
            entries[-1][1][key] = token["value"].strip('"')
        inside = bool(token["open"]) or (inside and not token["close"])
    if inside:
        raise DataError("the entry has no closing brace", path, entries[-1][0])
    return entries
