"""The context of a dataset check: the dataset, the options, and the findings so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from vmae_det.data.catalog import DatasetSpec
from vmae_det.dataset_tools.check.classes import compare_label_maps
from vmae_det.dataset_tools.check.report import Example, Finding, RecallRow, rows_finding
from vmae_det.dataset_tools.check.tables import Table, read_table
from vmae_det.dataset_tools.check.videos import probe_videos, unreadable_findings
from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.errors import DataError
from vmae_det.video.probe import VideoInfo


@dataclass
class CheckContext:
    """Passed to the check of the dataset's type, which fills it.

    Args:
        spec: the dataset.
        against: the dataset that must not share videos with it.
        training: whether it is a training set.
        decode: how much of each video to decode, a value of `probe.DECODE_MODES`.
        workers: number of processes that read videos. None: one for each CPU.
    """

    spec: DatasetSpec
    against: DatasetSpec | None
    training: bool
    decode: str
    workers: int | None
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    class_rows: dict[str, int] = field(default_factory=dict)
    recall: list[RecallRow] = field(default_factory=list)
    keyframes: str = ""

    def read_table(self, path: Path | None, content: str) -> Table | None:
        """Read the lines of a file and add findings about them; None if there is no file or it is broken."""
        if path is None:
            return None
        try:
            table = read_table(path, content)
        except DataError as error:
            self.add_broken_file(path, error)
            return None
        self.findings += table.findings()
        return table

    def read_label_map(self) -> LabelMap | None:
        """Return the dataset's label map; None if there is none or it is broken."""
        path = self.spec.label_map
        try:
            return LabelMap.from_file(path) if path else None
        except DataError as error:
            self.add_broken_file(path, error)
            return None

    def compare_classes(self, label_map: LabelMap | None) -> None:
        """Add findings about classes that differ from the other dataset's label map."""
        if label_map is None or self.against is None or self.against.label_map is None:
            return
        try:
            other = LabelMap.from_file(self.against.label_map)
        except DataError as error:
            self.add_broken_file(self.against.label_map, error)
            return
        self.findings += compare_label_maps(
            (label_map, self.spec.label_map), (other, self.against.label_map), self.training
        )

    def add_broken_file(self, path: Path | str, error: DataError) -> None:
        """Add the finding of a file that a reader refuses."""
        example = Example(str(path), error.line, error.problem)
        advice = "fix the file; the rest of its content was not checked"
        self.findings.append(Finding("broken_file", 1, f"{path} cannot be used", (example,), advice))

    def probe(self, paths: Iterable[Path]) -> dict[Path, VideoInfo]:
        """Probe video files, and add findings about those that cannot be read."""
        infos = probe_videos(paths, self.decode, self.workers)
        self.findings += unreadable_findings(infos)
        return infos

    def check_shared_videos(
        self, rows: pl.DataFrame, path: Path | str, keys_of: Callable[[DatasetSpec], set[str]]
    ) -> set[str]:
        """Add the finding of videos in `rows` (column `key`) that the other dataset has; return their keys.

        Args:
            keys_of: returns the keys of all videos of a dataset; raises DataError if it cannot be read.
        """
        if self.against is None:
            return set()
        try:
            others = keys_of(self.against)
        except DataError as error:
            self.add_broken_file(self.against.annotations or str(self.against.videos), error)
            return set()
        shared = rows.filter(pl.col("key").is_in(list(others))).unique(
            "key", keep="first", maintain_order=True
        )
        advice = "scores on training videos are meaningless; remove these videos from one of the two sets"
        what = f"of {rows['key'].n_unique()} videos are also in {self.against.name}"
        self.findings += rows_finding("video_in_both_sets", shared, path, what, advice)
        return set(shared["key"])
