"""Keeps the documents of a dataset, and writes them to its files.

An edit is durable when it is acknowledged: the changed documents are in a journal, a file of their own. The
files of the dataset are rewritten soon after it, in a thread, and then the journal is removed. A journal that
is found at the start is what a killed process had not written yet.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.output_files import atomic_write, remove_leftovers, sync_folder
from vmae_det.web.annotate.dataset import (
    AnnotatedDataset,
    add_person_boxes,
    has_added_person_boxes,
    remove_person_boxes,
)
from vmae_det.web.annotate.document import (
    Document,
    Patch,
    document_from_json,
    document_to_json,
)
from vmae_det.web.annotate.lines import (
    Lines,
    annotation_lines,
    digest,
    file_stamp,
    find_runs,
    person_lines,
    read_document,
)

logger = logging.getLogger(__name__)

QUIET = 0.5  # seconds without an edit after which the files are rewritten
LONGEST_WAIT = 3.0  # seconds after an edit at which they are rewritten anyway
_FORMAT = 1  # of the journal
_LEFTOVER_AGE = 60.0  # seconds; the dataset is locked, but other commands may write its files
_FILES = ("annotations", "persons", "ids")


@dataclass
class _Video:
    """A document in memory.

    Attributes:
        original: the document that was read from the files.
        revision: increases with each edit, also over restarts.
    """

    document: Document
    original: Document
    revision: int


class Store:
    """The documents of a dataset. Its methods can be called from any thread.

    Attributes:
        problem: why edits are refused: another program has changed a file; '' if they are not.
        failure: why the files could not be rewritten the last time; '' if they were. Edits are kept in the
            journal.

    Raises:
        DataError: the files are invalid, or another program has changed lines that unsaved edits change, too.
    """

    def __init__(self, dataset: AnnotatedDataset) -> None:
        self.dataset = dataset
        self.problem = ""
        self.failure = ""
        self._lock = threading.RLock()
        self._rewrite_lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._videos: dict[str, _Video] = {}
        self._dirty: dict[str, Document] = {}
        self._bases: dict[str, set[str]] = {}  # hashes of lines that the edits of a dirty video replace
        self._last_edit = self._first_edit = 0.0
        self._is_closed = False
        self._is_rewriting = False
        paths = (dataset.annotations, dataset.persons, dataset.ids)
        self._files = {name: Lines.read(path) for name, path in zip(_FILES, paths) if path is not None}
        for path in (dataset.journal, *filter(None, paths)):
            remove_leftovers(path, older_than=_LEFTOVER_AGE)
        self._recover()
        self._thread = threading.Thread(target=self._rewrite_after_edits, daemon=True)
        self._thread.start()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is not written, and stop."""
        with self._lock:
            self._is_closed = True
            self._wake.notify_all()
        self._thread.join()
        self.rewrite()

    def document(self, video: str) -> tuple[Document, int]:
        """Return a document and its revision."""
        with self._lock:
            state = self._state(video)
            return state.document, state.revision

    def original(self, video: str) -> Document:
        """Return a document as it was before the edits since the start."""
        with self._lock:
            return self._state(video).original

    def annotated_videos(self) -> list[str]:
        """Return the videos that the files or the edits name."""
        with self._lock:
            return list(dict.fromkeys([*self._files["annotations"].runs, *self._videos]))

    def counts(self, video: str) -> tuple[int, int]:
        """Return the number of keyframes that were looked at, and of boxes. Parses no unchanged lines."""
        with self._lock:
            state = self._videos.get(video)
            if state is not None:
                return len(state.document.looked), len(state.document.cells)
            fields = [line.split(b",", 6) for line in self._files["annotations"].lines_of(video)]
        keyframes = {parts[1].strip() for parts in fields if len(parts) > 1 and parts[0].strip()}
        boxes = {tuple(parts[1:6]) for parts in fields if len(parts) > 6}
        return len(keyframes), len(boxes)

    def apply(self, video: str, make_patch: Callable[[Document], Patch]) -> tuple[int, Patch]:
        """Change a document, durably.

        Args:
            make_patch: returns what changes in the present document.

        Returns:
            the new revision, and what has changed.

        Raises:
            EditConflictError: someone else has changed a value.
            UserError: the edit is invalid, or a file was changed by another program or cannot be written.
        """
        with self._lock:
            self._check_files()
            state = self._state(video)
            patch = make_patch(state.document)
            if not patch:
                return state.revision, patch
            document = state.document.apply(patch)
            self._bases.setdefault(video, set()).update(self._digests(video))
            self._write_journal(self._dirty | {video: document})
            state.document, state.revision = document, state.revision + 1
            self._last_edit = time.monotonic()
            self._first_edit = self._first_edit if self._dirty else self._last_edit
            self._dirty[video] = document
            self._wake.notify_all()
            return state.revision, patch

    def rewrite(self) -> None:
        """Write the changed documents to the files of the dataset, then remove the journal.

        Raises:
            UserError: a file cannot be written, or another program has changed it.
        """
        with self._rewrite_lock:
            with self._lock:
                dirty = dict(self._dirty)
                if not dirty:
                    return
                self._check_files()
                contents = self._new_contents(dirty)
                is_redundant = self._are_persons_redundant()
                self._is_rewriting = True
            try:
                self._write(contents)
                if is_redundant:
                    self._remove_persons()
            finally:
                self._is_rewriting = False
            with self._lock:
                for video, document in dirty.items():
                    if self._dirty[video] is document:
                        del self._dirty[video], self._bases[video]
                self._finish_journal()
                self.failure = ""

    # ------------------------------------------------------------ files

    def _check_files(self) -> None:
        """Raise UserError if another program has changed a file."""
        if not self.problem and not self._is_rewriting:
            for lines in self._files.values():
                if lines.has_changed():
                    self.problem = (
                        f"{lines.path} was changed by another program; stop and start vmae-det annotate "
                        "again. Nothing that this page saved is lost"
                    )
        if self.problem:
            raise UserError(self.problem)

    def _state(self, video: str) -> _Video:
        state = self._videos.get(video)
        if state is None:
            document = read_document(*self._lines_of(video))
            state = self._videos[video] = _Video(document, document, _first_revision())
        return state

    def _lines_of(self, video: str) -> tuple[list[bytes], list[bytes] | None, list[bytes]]:
        """Return the lines of annotations, persons and ids."""
        annotations, persons, ids = (
            self._files[name].lines_of(video) if name in self._files else None for name in _FILES
        )
        return annotations, persons, ids

    def _digests(self, video: str) -> set[str]:
        annotations, persons, _ = self._lines_of(video)
        return _digests(annotations, persons)

    def _render(self, video: str, document: Document) -> tuple[list[bytes], list[bytes] | None, list[bytes]]:
        """Return the new lines of annotations, persons and ids."""
        annotations, persons, ids = self._lines_of(video)
        line_break = self._files["annotations"].line_break
        new, new_ids = annotation_lines(video, document, annotations, persons, ids, line_break)
        if persons is not None:
            persons = person_lines(video, document, persons, self._files["persons"].line_break)
        return new, persons, new_ids

    def _new_contents(self, dirty: Mapping[str, Document]) -> dict[str, bytes]:
        """Return the new content of the files that change, in the order in which they are written."""
        changed: dict[str, dict[str, list[bytes]]] = {"ids": {}, "persons": {}, "annotations": {}}
        for video, document in dirty.items():
            lines, persons, ids = self._render(video, document)
            changed["annotations"][video], changed["ids"][video] = lines, ids
            if persons is not None:
                changed["persons"][video] = persons
            self._bases[video] |= _digests(lines, persons) | _digests(lines, None)
        self._write_journal(self._dirty)  # with the hashes of what is about to be written
        if "persons" in self._files and self._files["persons"].stamp is None:
            changed["persons"] = self._first_persons(dirty, changed["persons"])
        contents = {
            name: self._files[name].replaced(videos)
            for name, videos in changed.items()
            if name in self._files
        }
        return {name: content for name, content in contents.items() if content != self._files[name].content}

    def _first_persons(
        self, dirty: Mapping[str, Document], rendered: dict[str, list[bytes]]
    ) -> dict[str, list[bytes]]:
        """Return all lines of persons, once someone has no action; until then, there is no such file."""
        if all(cell.actions for document in dirty.values() for cell in document.cells.values()):
            return {}
        others = [video for video in self._files["annotations"].runs if video not in rendered]
        line_break = self._files["persons"].line_break
        return rendered | {
            video: person_lines(video, self._state(video).document, [], line_break) for video in others
        }

    def _write(self, contents: Mapping[str, bytes]) -> None:
        """Write files. `dataset.yaml` names the persons as soon as their file exists."""
        for name, content in contents.items():
            path = self._files[name].path
            write_bytes(path, content)
            lines = Lines(path, content, find_runs(content, path), file_stamp(path))
            with self._lock:
                self._files[name] = lines
            if name == "persons":
                add_person_boxes(self.dataset.file, path)

    def _are_persons_redundant(self) -> bool:
        """Return whether everybody has an action, and person boxes were added because somebody had none.

        A new box has no action until the annotator presses its key. That must not leave a dataset that lacks
        people, on which a person head would not be trained.
        """
        persons = self._files.get("persons")
        if persons is None or persons.stamp is None:
            return False
        if not has_added_person_boxes(self.dataset.file, persons.path):
            return False
        return all(
            cell.actions
            for video in dict.fromkeys([*self._dirty, *persons.runs])
            for cell in self._state(video).document.cells.values()
        )

    def _remove_persons(self) -> None:
        path = self._files["persons"].path
        remove_person_boxes(self.dataset.file, path)
        path.unlink()
        with self._lock:
            self._files["persons"] = Lines.read(path)

    def _rewrite_after_edits(self) -> None:
        while True:
            with self._lock:
                while not self._is_closed and not (self._dirty and not self.problem):
                    self._wake.wait()
                if self._is_closed:
                    return
                due = min(self._last_edit + QUIET, self._first_edit + LONGEST_WAIT)
                remaining = due - time.monotonic()
                if remaining > 0:
                    self._wake.wait(remaining)
                    continue
            try:
                self.rewrite()
            except Exception as error:  # the journal keeps the edits
                with self._lock:
                    self.failure = "" if self.problem else f"the dataset could not be written: {error}"
                    self._first_edit = self._last_edit = time.monotonic() + LONGEST_WAIT
                if not isinstance(error, UserError):
                    logger.exception("rewriting the dataset failed")

    # ------------------------------------------------------------ journal

    def _write_journal(self, documents: Mapping[str, Document]) -> None:
        content = {
            "format": _FORMAT,
            "videos": {
                video: {
                    **document_to_json(document),
                    "next_person": document.next_person,
                    "replaces": sorted(self._bases[video]),
                }
                for video, document in documents.items()
            },
        }
        write_bytes(self.dataset.journal, json.dumps(content).encode())

    def _finish_journal(self) -> None:
        if self._dirty:
            self._write_journal(self._dirty)
        else:
            self.dataset.journal.unlink(missing_ok=True)
            sync_folder(self.dataset.journal.parent)

    def _recover(self) -> None:
        """Write the edits that a killed process left in the journal."""
        path = self.dataset.journal
        if not path.exists():
            return
        entries = _read_journal(path)
        changed = []
        for video, entry in entries.items():
            document = document_from_json(entry, entry["next_person"])
            self._bases[video] = set(entry["replaces"])
            if not self._digests(video) <= self._bases[video]:
                changed.append(video)
            self._videos[video] = _Video(document, document, _first_revision())
            self._dirty[video] = document
        if changed:
            raise DataError(
                f"its edits of {', '.join(changed[:5])} were made to other lines than "
                f"{self.dataset.annotations.name} has now; restore these to keep the edits, or delete this "
                "file to drop them",
                path,
            )
        self.rewrite()
        logger.info("recovered edits of %d videos from %s", len(entries), path)


def _digests(annotations: list[bytes], persons: list[bytes] | None) -> set[str]:
    """Return hashes of the lines of a video, which tell the files apart."""
    return {f"annotations {digest(annotations)}", f"persons {digest(persons or [])}"}


def _first_revision() -> int:
    return time.time_ns() // 1_000_000


def _read_journal(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != _FORMAT:
            raise DataError("was written by another version of vmae_det; use that one", path)
        return content["videos"]
    except (ValueError, KeyError, TypeError):
        raise DataError("is damaged; it has the last edits of an annotation page", path) from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically and durably."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
