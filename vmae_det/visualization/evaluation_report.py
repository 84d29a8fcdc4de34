"""Writes the error analysis of an evaluation as a self-contained HTML page, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.evaluation.confusion_matrix import ConfusionMatrix
from vmae_det.utils.output_files import write_text
from vmae_det.visualization.confusion_matrix import confusion_section

_TEMPLATE = Path(__file__).with_name("evaluation_report.html")


def write_report(folder: str | Path, report: dict[str, Any], title: str) -> Path:
    """Write report.html, report.json, classes.csv and confusion.csv.

    Args:
        folder: folder of the files.
        report: result of `vmae_det.evaluation.report.build_report`.
        title: title of the page, such as the name of the detections file.

    Returns:
        Path of report.html.
    """
    folder = Path(folder)
    content = report["confusion_matrix"]
    names, columns, counts = content["rows"], content["columns"], content["counts"]
    matrix = ConfusionMatrix(
        names, np.array(counts, dtype=np.int64).reshape(-1, len(columns)), columns[len(names) :]
    )
    table = [["annotated \\ predicted", *columns], *([name, *row] for name, row in zip(names, counts))]
    shown = {name: value for name, value in report.items() if name != "confusion_matrix"}
    text = json.dumps({"title": title, **shown}, allow_nan=False)
    # Without "<", nothing in the data can end the script element. The matrix precedes it in the template.
    page = _TEMPLATE.read_text(encoding="utf-8").replace("__REPORT__", text.replace("<", "\\u003c"), 1)
    page = page.replace("__CONFUSION_MATRIX__", confusion_section(matrix), 1)
    for name, content in (
        ("report.html", page),
        ("report.json", json.dumps(report, indent=1, allow_nan=False) + "\n"),
        ("classes.csv", _classes_csv(report["classes"])),
        ("confusion.csv", _to_csv(table)),
    ):
        write_text(folder / name, content)
    return folder / "report.html"


def _classes_csv(classes: list[dict[str, Any]]) -> str:
    """Return a CSV with a row per class: its AP, and the AP lost to each error type."""
    causes = next((list(row["lost"]) for row in classes if row["lost"]), [])
    columns = ["id", "name", "kind", "ap", "num_ground_truth", "num_detections"]
    head = [*columns, *(f"lost to {cause}" for cause in causes)]
    lost = ((row["lost"] or dict.fromkeys(causes)).values() for row in classes)
    return _to_csv(
        [head, *([*(row[name] for name in columns), *values] for row, values in zip(classes, lost))]
    )


def _to_csv(rows: Iterable[Iterable[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    return stream.getvalue()
