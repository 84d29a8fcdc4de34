"""The files of a dataset as lines: those of a changed video are replaced, all others keep their bytes.

`Lines` is a CSV file whose lines begin with a video id. The functions below convert between the lines of one
video and a `Document`:

- annotations: AVA's CSV. `video,second` is a keyframe that somebody has looked at.
- persons: boxes of all people in SlowFast's CSV, for people without an action. Only if the dataset's
  `person_boxes` is such a file.
- ids: `video,second,x1,y1,x2,y2,ORIGIN,person`, the ids that the other files do not state. ORIGIN is `idle`
  for a person without an action, else the person id in the annotations, which may be empty. Only this module
  reads it.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vmae_det.utils.errors import DataError
from vmae_det.utils.input_files import GZIP, decode
from vmae_det.web.annotate.document import Box, Cell, Document, milliseconds, new_document

_BOM = b"\xef\xbb\xbf"
_IDLE = "idle"
Group = tuple[int, Box, str]  # time, box, and the person id in the annotations, or `idle`


@dataclass(frozen=True)
class Lines:
    """A CSV file as bytes.

    Attributes:
        path: the file, which need not exist.
        content: its bytes.
        runs: first and last byte of each run of lines of one video, in the order of the file.
        stamp: identifies the state of the file on disk; None if it does not exist.
    """

    path: Path
    content: bytes
    runs: Mapping[str, Sequence[tuple[int, int]]] = field(repr=False)
    stamp: tuple[int, ...] | None

    @classmethod
    def read(cls, path: Path) -> Lines:
        """Read a file.

        Raises:
            DataError: it is gzipped or not UTF-8.
        """
        stamp = file_stamp(path)
        content = b"" if stamp is None else path.read_bytes()
        if content.startswith(GZIP):
            raise DataError("is gzipped, and cannot be edited; decompress it first (gunzip)", path)
        return cls(path, content, find_runs(content, path), stamp)

    def lines_of(self, video: str) -> list[bytes]:
        """Return the lines of a video, with their line breaks."""
        return [line for start, end in self.runs.get(video, ()) for line in _split(self.content[start:end])]

    def digest(self, video: str) -> str:
        """Return a hash of the lines of a video."""
        return digest(self.lines_of(video))

    @property
    def line_break(self) -> bytes:
        """The line break of the file."""
        return b"\r\n" if b"\r\n" in self.content[:10_000] else b"\n"

    def replaced(self, videos: Mapping[str, Sequence[bytes]]) -> bytes:
        """Return the content with other lines for some videos. New videos come last."""
        cuts = sorted(
            (start, end, video) for video in videos for start, end in self.runs.get(video, ())
        )  # the first run of a video gets all of its lines
        parts, position, written = [], 0, set()
        for start, end, video in cuts:
            parts.append(self.content[position:start])
            if video not in written:
                written.add(video)
                parts += videos[video]
            position = end
        parts.append(self.content[position:])
        tail = [line for video, lines in videos.items() if video not in written for line in lines]
        content = b"".join(parts)
        if tail and content and not content.endswith(b"\n"):
            content += self.line_break
        return content + b"".join(tail)

    def has_changed(self) -> bool:
        """Return whether another program has changed the file since it was read."""
        stamp = file_stamp(self.path)
        if stamp == self.stamp:
            return False
        return stamp is None or self.stamp is None or self.path.read_bytes() != self.content


def file_stamp(path: Path) -> tuple[int, ...] | None:
    """Return numbers that differ if a file was written or replaced; None if it does not exist."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def digest(lines: Sequence[bytes]) -> str:
    """Return a hash of lines, which ignores whether the last one has a line break."""
    return hashlib.sha256(b"".join(lines).rstrip(b"\r\n")).hexdigest()


def _split(content: bytes) -> list[bytes]:
    lines = [line + b"\n" for line in content.split(b"\n")]
    if lines[-1] == b"\n":
        lines.pop()
    elif not content.endswith(b"\n"):
        lines[-1] = lines[-1][:-1]
    return lines


def find_runs(content: bytes, path: Path) -> dict[str, list[tuple[int, int]]]:
    """Return the runs of lines of each video. Blank lines belong to the run before them."""
    runs: dict[bytes, list[tuple[int, int]]] = {}
    position = len(_BOM) if content.startswith(_BOM) else 0
    current, start = b"", position
    for line in content[position:].split(b"\n"):
        video = line.partition(b",")[0].strip()
        if video and video != current:
            if current:
                runs.setdefault(current, []).append((start, position))
                start = position
            current = video
        position += len(line) + 1
    if current:
        runs.setdefault(current, []).append((start, len(content)))
    return {decode(video, path, "a CSV file"): spans for video, spans in runs.items()}


# ---------------------------------------------------------------- lines to a document


class _Line(NamedTuple):
    time: int
    box: Box | None
    action: int | None
    person: int | None


def _parse_annotation(line: bytes) -> _Line | None:
    """Return the fields of a valid line; None for a blank one."""
    fields = [part.strip() for part in line.decode("utf-8-sig").split(",")]
    if not any(fields):
        return None
    time = milliseconds(float(fields[1]))
    if not any(fields[2:]):
        return _Line(time, None, None, None)
    person = int(fields[7]) if len(fields) > 7 else -1
    return _Line(time, _box(fields[2:6]), int(fields[6]), person if person >= 0 else None)


def _box(fields: Sequence[str]) -> Box:
    return tuple(round(float(value), 6) for value in fields)


def _group(line: _Line) -> Group:
    """Return what lines of one person at one keyframe have in common: time, box and stated id."""
    return line.time, line.box, "" if line.person is None else str(line.person)


def _read_ids(lines: Sequence[bytes]) -> dict[Group, list[int]]:
    """Return the ids of the file of ids, in its order, by time, box and origin."""
    ids: dict[Group, list[int]] = defaultdict(list)
    for line in lines:
        fields = line.decode().strip().split(",")
        if len(fields) == 8:
            ids[milliseconds(float(fields[1])), _box(fields[2:6]), fields[6]].append(int(fields[7]))
    return ids


def read_document(
    annotations: Sequence[bytes], persons: Sequence[bytes] | None, ids: Sequence[bytes]
) -> Document:
    """Return the document of a video. People whose id no file states are linked to tracks.

    Args:
        annotations, persons, ids: lines of the video; `persons` is None if the dataset has no such file. Then
            the people without an action are those of `ids`.
    """
    return _resolve(annotations, persons, ids)[1]


def _resolve(
    annotations: Sequence[bytes], persons: Sequence[bytes] | None, ids: Sequence[bytes]
) -> tuple[dict[Group, int], Document]:
    """Return the person of each group of annotation lines, and the document."""
    known = _read_ids(ids)
    actions: dict[Group, set[int]] = defaultdict(set)
    looked = set()
    for line in filter(None, map(_parse_annotation, annotations)):
        looked.add(line.time)
        if line.box is not None:
            actions[_group(line)].add(line.action)
    groups = _stated_persons(actions, known)
    cells = {
        (group[0], person): Cell(group[1], tuple(sorted(actions[group]))) for group, person in groups.items()
    }
    idle = {(time, box) for time, box, origin in known if origin == _IDLE}
    anonymous: list[Group] = [group for group in actions if group not in groups]
    if persons is not None:
        active = {(time, box) for time, box, _ in actions}
        listed = dict.fromkeys(_person_box(line) for line in persons if line.strip(b", \t\r\n"))
        idle &= listed.keys()
        anonymous += [(*key, _IDLE) for key in listed if key not in active | idle]
    for time, box in idle:
        for person in known[time, box, _IDLE]:
            cells.setdefault((time, person), Cell(box))
    for group, person in _linked_persons(anonymous, cells).items():
        cells[group[0], person] = Cell(group[1], tuple(sorted(actions.get(group, ()))))
        groups[group] = person
    return groups, new_document(cells, looked)


def _stated_persons(groups: Iterable[Group], known: Mapping[Group, list[int]]) -> dict[Group, int]:
    """Return the ids of the file of ids, else of the annotations if no other box has that id there."""
    persons, used = {}, set()
    for group in groups:
        if group in known:
            persons[group] = known[group][0]
            used.add((group[0], persons[group]))
    for group in groups:
        if group not in persons and group[2] and (group[0], int(group[2])) not in used:
            persons[group] = int(group[2])
            used.add((group[0], persons[group]))
    return persons


def _linked_persons(anonymous: Sequence[Group], cells: Mapping[tuple[int, int], Cell]) -> dict[Group, int]:
    """Return ids of people without one: new ones, the same along a track."""
    if not anonymous:
        return {}
    from vmae_det.inference.tracking import link  # imports torch, which most datasets do not need

    ordered = sorted(anonymous)
    times = np.array([time / 1000 for time, _, _ in ordered])
    tracks = link(times, np.array([box for _, box, _ in ordered]))  # from 1 on
    highest = max((person for _, person in cells), default=-1)
    return {group: highest + track for group, track in zip(ordered, tracks.tolist())}


def _person_box(line: bytes) -> tuple[int, Box]:
    fields = line.decode("utf-8-sig").split(",")
    return milliseconds(float(fields[1])), _box(fields[2:6])


# ---------------------------------------------------------------- a document to lines


def annotation_lines(
    video: str,
    document: Document,
    old: Sequence[bytes],
    persons: Sequence[bytes] | None,
    ids: Sequence[bytes],
    line_break: bytes,
) -> tuple[list[bytes], list[bytes]]:
    """Return the lines of annotations and of ids of a document. Lines that are still true are kept.

    Args:
        old, persons, ids: lines of the video in the files (see `read_document`).
    """
    groups, _ = _resolve(old, persons, ids)
    active = document.active_times()
    kept: list[tuple[int, bytes]] = []
    boxless: dict[int, tuple[int, bytes]] = {}  # by time
    stated: dict[tuple[int, int], set[int]] = defaultdict(set)  # actions of the kept lines of a cell
    origins: dict[tuple[int, int], str] = {}  # of cells whose kept lines state another id, or none
    for text in old:
        line = _parse_annotation(text)
        if line is None:
            kept.append((kept[-1][0] if kept else 0, text))
        elif line.box is None:
            if line.time in document.looked:
                boxless[line.time] = line.time, text
                kept.append(boxless[line.time])
        else:
            key = line.time, groups[_group(line)]
            cell = document.cells.get(key)
            if cell is not None and cell.box == line.box and line.action in cell.actions:
                stated[key].add(line.action)
                if line.person != key[1]:
                    origins[key] = _group(line)[2]
                kept.append((line.time, text))
    new: list[tuple[int, bytes]] = []
    id_lines = []
    for (time, person), cell in sorted(document.cells.items(), key=lambda item: item[0]):
        keyframe = f"{keyframe_text(video, time)},{box_text(cell.box)}"
        for action in cell.actions:
            if action not in stated[time, person]:
                new.append((time, f"{keyframe},{action},{person}".encode() + line_break))
        origin = origins.get((time, person)) if cell.actions else _IDLE
        if origin is not None:
            id_lines.append(f"{keyframe},{origin},{person}\n".encode())
    for time, _ in new:  # its keyframe needs no line of its own any more
        if time in boxless:
            kept.remove(boxless.pop(time))
    new += [
        (time, keyframe_text(video, time).encode() + line_break)
        for time in document.looked - active - boxless.keys()
    ]
    return _merge(kept, sorted(new, key=lambda item: item[0]), line_break), id_lines


def person_lines(video: str, document: Document, old: Sequence[bytes], line_break: bytes) -> list[bytes]:
    """Return the lines of the boxes of all people."""
    boxes = dict.fromkeys(
        (time, cell.box) for (time, _), cell in sorted(document.cells.items(), key=lambda item: item[0])
    )
    kept: list[tuple[int, bytes]] = []
    for text in old:
        if not text.strip(b", \t\r\n"):
            continue
        key = _person_box(text)
        if key in boxes:
            kept.append((key[0], text))
            del boxes[key]
    new = [
        (time, f"{keyframe_text(video, time)},{box_text(box)},,1.000000".encode() + line_break)
        for time, box in boxes
    ]
    return _merge(kept, new, line_break)


def _merge(
    kept: Sequence[tuple[int, bytes]], new: Sequence[tuple[int, bytes]], line_break: bytes
) -> list[bytes]:
    """Insert new lines, ordered by time, after the last kept line that is not later."""
    texts = [text if text.endswith(b"\n") else text + line_break for _, text in kept]
    if not new:
        return [text for _, text in kept]
    earliest, low = [], 2**63
    for time, _ in reversed(kept):  # the earliest time from each line on
        low = min(low, time)
        earliest.append(low)
    earliest.reverse()
    merged, position = [], 0
    for time, text in new:
        end = max(bisect_right(earliest, time), position)
        merged += [*texts[position:end], text]
        position = end
    return merged + texts[position:]


def keyframe_text(video: str, time: int) -> str:
    """Return video id and seconds as AVA writes them: integers with four digits."""
    if time % 1000 == 0:
        return f"{video},{time // 1000:04d}"
    return f"{video},{time / 1000:.3f}".rstrip("0")


def box_text(box: Box) -> str:
    """Return coordinates with at most six decimals."""
    return ",".join(
        f"{value:.6f}".rstrip("0").ljust(3, "0") if value >= 0 else f"{value:.6f}" for value in box
    )
