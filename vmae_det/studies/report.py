"""The report of a study: its tables as text, Markdown, CSV and JSON."""

from __future__ import annotations

from pathlib import Path

from vmae_det.studies.results import StudyResults
from vmae_det.studies.tables import to_json, to_markdown, to_rows, to_text
from vmae_det.utils.output_files import write_json, write_text
from vmae_det.visualization.report_files import to_csv


def write_tables(results: StudyResults, folder: Path) -> str:
    """Write table.txt, table.md, results.csv and results.json; return the text."""
    text = to_text(results)
    write_text(folder / "table.txt", text)
    write_text(folder / "table.md", to_markdown(results))
    write_text(folder / "results.csv", to_csv(to_rows(results)))
    write_json(folder / "results.json", to_json(results))
    return text
