"""Writes the error analysis of an evaluation as a self-contained HTML page, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from vmae_det.utils.output_files import write_text

_TEMPLATE = Path(__file__).with_name("evaluation_report.html")


def write_report(folder: str | Path, report: dict[str, Any], title: str) -> Path:
    """Write report.html, report.json and classes.csv.

    Args:
        folder: folder of the files.
        report: result of `vmae_det.evaluation.report.build_report`.
        title: title of the page, such as the name of the detections file.

    Returns:
        Path of report.html.
    """
    folder = Path(folder)
    text = json.dumps({"title": title, **report}, allow_nan=False)
    # Without "<", nothing in the data can end the script element.
    page = _TEMPLATE.read_text(encoding="utf-8").replace("__REPORT__", text.replace("<", "\\u003c"), 1)
    for name, content in (
        ("report.html", page),
        ("report.json", json.dumps(report, indent=1, allow_nan=False) + "\n"),
        ("classes.csv", _csv(report["classes"])),
    ):
        write_text(folder / name, content)
    return folder / "report.html"


def _csv(classes: list[dict[str, Any]]) -> str:
    """Return a CSV with a row per class: its AP, and the AP lost to each error type."""
    causes = next((list(row["lost"]) for row in classes if row["lost"]), [])
    columns = ["id", "name", "kind", "ap", "num_ground_truth", "num_detections"]
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow([*columns, *(f"lost to {cause}" for cause in causes)])
    for row in classes:
        lost = row["lost"] or dict.fromkeys(causes)
        writer.writerow([*(row[name] for name in columns), *lost.values()])
    return stream.getvalue()
