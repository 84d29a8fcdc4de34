"""A dataset under examination: what it is, and what was found so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from vmae_det.data.catalog import DatasetSpec
from vmae_det.dataset_tools.check.classes import class_findings
from vmae_det.dataset_tools.check.findings import Example, Finding, finding_of_rows
from vmae_det.dataset_tools.check.persons import RecallRow
from vmae_det.dataset_tools.check.tables import Table, read_table
from vmae_det.dataset_tools.check.videos import probe_videos, unreadable_findings
from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.errors import DataError
from vmae_det.video.probe import VideoInfo


@dataclass
class Case:
    """Filled by the checks of the dataset's type.

    Args:
        spec: the dataset.
        against: the set that must share no video with it.
        training: whether it is for training.
        decode: how much of each video is decoded, of `probe.DECODE`.
        workers: processes that read videos; None takes one for each processor.
    """

    spec: DatasetSpec
    against: DatasetSpec | None
    training: bool
    decode: str
    workers: int | None
    found: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    class_rows: dict[str, int] = field(default_factory=dict)
    recall: list[RecallRow] = field(default_factory=list)
    keyframes: str = ""

    def read(self, path: Path | None, holds: str) -> Table | None:
        """A file's lines, with findings about them; None where there is no file, or none that can be read."""
        if path is None:
            return None
        try:
            table = read_table(path, holds)
        except DataError as error:
            self.add_broken(path, error)
            return None
        self.found += table.findings()
        return table

    def read_label_map(self) -> LabelMap | None:
        """The dataset's label map; None where it has none that can be read."""
        path = self.spec.label_map
        try:
            return LabelMap.from_file(path) if path else None
        except DataError as error:
            self.add_broken(path, error)
            return None

    def compare_classes(self, label_map: LabelMap | None) -> None:
        """Note the classes that differ in the other set's label map; models find them by name."""
        if label_map is None or self.against is None or self.against.label_map is None:
            return
        try:
            other = LabelMap.from_file(self.against.label_map)
        except DataError as error:
            self.add_broken(self.against.label_map, error)
            return
        self.found += class_findings(
            (label_map, self.spec.label_map), (other, self.against.label_map), self.training
        )

    def add_broken(self, path: Path | str, error: DataError) -> None:
        """Note a file that a reader refuses as a whole."""
        example = Example(str(path), error.line, error.problem)
        advice = "mend the file: nothing else of it is looked at"
        self.found.append(Finding("broken_file", 1, f"{path} cannot be used", (example,), advice))

    def probe(self, paths: Iterable[Path]) -> dict[Path, VideoInfo]:
        """Facts of video files, with findings about those that cannot be read."""
        facts = probe_videos(paths, self.decode, self.workers)
        self.found += unreadable_findings(facts)
        return facts

    def add_shared(
        self, rows: pl.DataFrame, path: Path | str, keys_of: Callable[[DatasetSpec], set[str]]
    ) -> set[str]:
        """Note the videos that `rows` (column `key`) share with the other set; gives their keys.

        Args:
            keys_of: the keys of all videos of a set; DataError where it cannot be read.
        """
        if self.against is None:
            return set()
        try:
            others = keys_of(self.against)
        except DataError as error:
            self.add_broken(self.against.annotations or str(self.against.videos), error)
            return set()
        shared = rows.filter(pl.col("key").is_in(list(others))).unique(
            "key", keep="first", maintain_order=True
        )
        advice = "a score on videos that were trained on says nothing: take them out of one of the two sets"
        what = f"of {rows['key'].n_unique()} videos are also in {self.against.name}"
        self.found += finding_of_rows("video_in_both_sets", shared, path, what, advice)
        return set(shared["key"])
