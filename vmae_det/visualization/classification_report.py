"""Writes the accuracy of classified videos as a self-contained HTML page, JSON and CSV."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import numpy as np

from vmae_det.evaluation.classification import ClassificationResult
from vmae_det.evaluation.confusion_matrix import ConfusionMatrix
from vmae_det.utils.output_files import write_text
from vmae_det.visualization.confusion_matrix import confusion_section
from vmae_det.visualization.report_files import confusion_csv, fill_template, to_csv


def write_classification_report(folder: str | Path, result: ClassificationResult, title: str) -> Path:
    """Write report.html, report.json, classes.csv and confusion.csv.

    Args:
        folder: folder of the files.
        title: title of the page, such as the name of the scores.

    Returns:
        Path of report.html.
    """
    folder, matrix = Path(folder), ConfusionMatrix(result.names, result.confusion)
    content = result.to_json() | {"names": list(result.names)}
    for name, text in (
        ("report.html", _page(result, matrix, title)),
        ("report.json", json.dumps(content, indent=1) + "\n"),
        ("classes.csv", to_csv([["class", "top1", "top5", "num_videos"], *_class_rows(result)])),
        ("confusion.csv", confusion_csv(matrix)),
    ):
        write_text(folder / name, text)
    return folder / "report.html"


def _page(result: ClassificationResult, matrix: ConfusionMatrix, title: str) -> str:
    return fill_template(
        "classification_report.html",
        TITLE=escape(title),
        TOP1=f"{result.top(1):.2f}",
        TOP5=f"{result.top(5):.2f}",
        MEAN=f"{result.mean_class_accuracy:.2f}",
        VIDEOS=f"{len(result.labels):,}",
        CLASSES=f"{len(result.names):,}",
        NOTES="".join(f"<p>{escape(note)}</p>" for note in _notes(result)),
        MATRIX=confusion_section(matrix),
        PER_CLASS=_table(_class_rows(result)),
    )


def _notes(result: ClassificationResult) -> list[str]:
    notes = []
    if result.num_missing:
        notes.append(f"{result.num_missing} videos have no scores and count as wrong.")
    if result.num_ignored:
        notes.append(f"{result.num_ignored} videos with scores are not in the ground truth.")
    return notes


def _class_rows(result: ClassificationResult) -> list[list[str]]:
    top1, top5 = result.accuracy(1), result.accuracy(5)
    return [
        [name, *("" if np.isnan(value) else f"{value:.2f}" for value in (top1[c], top5[c])), str(count)]
        for c, (name, count) in enumerate(zip(result.names, result.num_videos))
    ]


def _table(rows: list[list[str]]) -> str:
    return "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
