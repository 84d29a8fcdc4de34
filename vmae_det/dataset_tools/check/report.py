"""What the doctor says: text and JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vmae_det.dataset_tools.check.findings import Finding
from vmae_det.dataset_tools.check.persons import IOU, RecallRow


@dataclass(frozen=True)
class Report:
    """A dataset's findings.

    Args:
        dataset: its name, or its file.
        type: "detection", "classification" or "videos".
        training: whether it was taken for a training set.
        against: the set that it shall share no video with, '' where there is none.
        counts: how many videos, rows, ... there are.
        findings: errors first.
        class_rows: rows of each class, by its name.
        recall: of person boxes.
        keyframes: where the frames of keyframes are found.
    """

    dataset: str
    type: str
    training: bool
    against: str
    counts: dict[str, int]
    findings: list[Finding]
    class_rows: dict[str, int] = field(default_factory=dict)
    recall: list[RecallRow] = field(default_factory=list)
    keyframes: str = ""

    @property
    def errors(self) -> list[Finding]:
        """The findings that must be mended."""
        return [finding for finding in self.findings if not finding.is_warning]

    @property
    def warnings(self) -> list[Finding]:
        """The findings that may stand."""
        return [finding for finding in self.findings if finding.is_warning]

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "dataset": self.dataset,
            "type": self.type,
            "training": self.training,
            "against": self.against,
            "ok": not self.errors,
            "counts": self.counts,
            "findings": [finding.to_json() for finding in self.findings],
            "class_rows": self.class_rows,
            "person_box_recall": [row.to_json() for row in self.recall],
            "keyframes": self.keyframes,
        }

    def as_text(self) -> str:
        """The report for a reader."""
        kind = f"{self.type}, {'training' if self.training else 'validation'} set"
        lines = [f"{self.dataset}: {kind if self.type != 'videos' else 'videos without labels'}"]
        lines.append("  " + ", ".join(f"{count} {name}" for name, count in self.counts.items()))
        if self.against:
            lines.append(f"  compared with {self.against}")
        if self.keyframes:
            lines.append(f"  {self.keyframes}")
        for finding in self.findings:
            lines += ["", *_finding_lines(finding)]
        if self.recall:
            lines += ["", *_recall_lines(self.recall)]
        return "\n".join([*lines, "", self.verdict])

    @property
    def verdict(self) -> str:
        """How many errors and warnings there are."""
        return f"{_number(self.errors, 'error')}, {_number(self.warnings, 'warning')}"


def _number(findings: list[Finding], name: str) -> str:
    return f"{len(findings) or 'no'} {name}{'' if len(findings) == 1 else 's'}"


def _finding_lines(finding: Finding) -> list[str]:
    severity = "warning" if finding.is_warning else "ERROR"
    lines = [f"{severity} {finding.kind}: {finding.what}"]
    lines += [f"    {example}" for example in finding.examples]
    if finding.count > len(finding.examples) > 0:
        lines.append(f"    ... and {finding.count - len(finding.examples)} more")
    return [*lines, f"  -> {finding.advice}"]


def _recall_lines(table: list[RecallRow]) -> list[str]:
    return [
        f"person boxes against annotated persons, IoU {IOU:g}, in annotated keyframes",
        "  score >=   recall   precision   boxes a keyframe",
        *(
            f"  {row.threshold:8.2f} {row.recall:8.1%} {row.precision:11.1%} {row.boxes_per_keyframe:18.2f}"
            for row in table
        ),
    ]
