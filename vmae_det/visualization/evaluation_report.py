"""Writes the error analysis of an evaluation as a self-contained HTML page, JSON and CSV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.evaluation.confusion_matrix import ConfusionMatrix
from vmae_det.utils.output_files import write_text
from vmae_det.visualization.confusion_matrix import confusion_section
from vmae_det.visualization.report_files import confusion_csv, fill_template, to_csv


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
    shown = {name: value for name, value in report.items() if name != "confusion_matrix"}
    text = json.dumps({"title": title, **shown}, allow_nan=False)
    page = fill_template(
        "evaluation_report.html",
        # Without "<", nothing in the data can end the script element.
        REPORT=text.replace("<", "\\u003c"),
        CONFUSION_MATRIX=confusion_section(matrix),
    )
    for name, content in (
        ("report.html", page),
        ("report.json", json.dumps(report, indent=1, allow_nan=False) + "\n"),
        ("classes.csv", _classes_csv(report["classes"])),
        ("confusion.csv", confusion_csv(matrix)),
    ):
        write_text(folder / name, content)
    return folder / "report.html"


def _classes_csv(classes: list[dict[str, Any]]) -> str:
    """Return a CSV with a row per class: its AP, and the AP lost to each error type."""
    causes = next((list(row["lost"]) for row in classes if row["lost"]), [])
    columns = ["id", "name", "kind", "ap", "num_ground_truth", "num_detections"]
    head = [*columns, *(f"lost to {cause}" for cause in causes)]
    lost = ((row["lost"] or dict.fromkeys(causes)).values() for row in classes)
    return to_csv(
        [head, *([*(row[name] for name in columns), *values] for row, values in zip(classes, lost))]
    )
