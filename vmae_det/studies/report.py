"""The report of a study: tables as text, Markdown, CSV and JSON, the plot, and the page."""

from __future__ import annotations

import os
from pathlib import Path

from vmae_det.studies.page import study_page
from vmae_det.studies.plot import draw_study
from vmae_det.studies.results import StudyResults
from vmae_det.studies.run_store import RunStore
from vmae_det.studies.tables import to_json, to_markdown, to_rows, to_text
from vmae_det.utils.errors import UserError
from vmae_det.utils.output_files import write_json, write_text
from vmae_det.visualization.matplotlib_figures import save_figure
from vmae_det.visualization.report_files import to_csv

PAGE = "index.html"


def write_tables(results: StudyResults, folder: Path) -> str:
    """Write table.txt, table.md, results.csv and results.json; return the text."""
    text = to_text(results)
    write_text(folder / "table.txt", text)
    write_text(folder / "table.md", to_markdown(results))
    write_text(folder / "results.csv", to_csv(to_rows(results)))
    write_json(folder / "results.json", to_json(results))
    return text


def write_report(results: StudyResults, store: RunStore, folder: Path) -> str:
    """Write the tables, plot.png, plot.svg and index.html; return the tables as text.

    Without matplotlib there is no plot, and the text says so.
    """
    text = write_tables(results, folder)
    try:
        figure = draw_study(results)
    except UserError as error:
        text += f"no plot: {error}\n"
    else:
        for suffix in (".png", ".svg"):
            save_figure(figure, folder / f"plot{suffix}")
    runs = Path(os.path.relpath(store.root, folder.absolute())).as_posix()
    write_text(folder / PAGE, study_page(results, runs))
    return text
