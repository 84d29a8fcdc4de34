"""Writes the accuracy of classified videos as a self-contained HTML page, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from html import escape
from pathlib import Path

import numpy as np

from vmae_det.evaluation.classification import ClassificationResult
from vmae_det.evaluation.confusion_matrix import ConfusionMatrix
from vmae_det.utils.output_files import write_text
from vmae_det.visualization.confusion_matrix import confusion_section

_TEMPLATE = Path(__file__).with_name("classification_report.html")


def write_classification_report(folder: str | Path, result: ClassificationResult, title: str) -> Path:
    """Write report.html, report.json, classes.csv and confusion.csv.

    Args:
        folder: folder of the files.
        title: title of the page, such as the name of the scores.

    Returns:
        Path of report.html.
    """
    folder, names = Path(folder), result.names
    confusion = [["true \\ predicted", *names], *([name, *row] for name, row in zip(names, result.confusion))]
    for name, content in (
        ("report.html", _page(result, title)),
        ("report.json", json.dumps(result.to_json() | {"names": list(names)}, indent=1) + "\n"),
        ("classes.csv", _csv([["class", "top1", "top5", "num_videos"], *_class_rows(result)])),
        ("confusion.csv", _csv(confusion)),
    ):
        write_text(folder / name, content)
    return folder / "report.html"


def _page(result: ClassificationResult, title: str) -> str:
    fields = {
        "TITLE": escape(title),
        "TOP1": f"{result.top(1):.2f}",
        "TOP5": f"{result.top(5):.2f}",
        "MEAN": f"{result.mean_class_accuracy:.2f}",
        "VIDEOS": f"{len(result.labels):,}",
        "CLASSES": f"{len(result.names):,}",
        "NOTES": "".join(f"<p>{escape(note)}</p>" for note in _notes(result)),
        "MATRIX": confusion_section(ConfusionMatrix(result.names, result.confusion)),
        "PER_CLASS": _table(_class_rows(result)),
    }
    # In one pass, because a value may contain the name of a field.
    pieces = _TEMPLATE.read_text(encoding="utf-8").split("@@")
    return "".join(fields[piece] if i % 2 else piece for i, piece in enumerate(pieces))


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


def _csv(rows: list[list]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
