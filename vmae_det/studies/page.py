"""The page of a study: self-contained HTML with conclusions, plots, tables, findings and links to runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from vmae_det.config.cfg_node import flatten
from vmae_det.studies.grid import Cell, describe
from vmae_det.studies.plot import CAPTION, draw_metric, plotted_metrics, to_svg
from vmae_det.studies.results import APPEARS, BETTER, OPPOSITE, WORSE, StudyResults
from vmae_det.studies.tables import Table, build_tables, findings_lines
from vmae_det.utils.errors import UserError
from vmae_det.visualization.report_files import fill_template

_CLASSES = {BETTER: "gain", WORSE: "loss", APPEARS: "gain", OPPOSITE: "loss"}


def study_page(results: StudyResults, runs: str) -> str:
    """Return the HTML of a study.

    Args:
        results: the results.
        runs: address of the folder of the runs, relative to the page.
    """
    study, grid = results.study, results.grid
    facts = [
        ("cells", str(len(grid.cells))),
        ("seeds", ", ".join(map(str, grid.seeds))),
        ("finished runs", f"{results.num_finished} of {results.num_runs}"),
        ("base", describe(study.base)),
    ]
    return fill_template(
        "study_page.html",
        Path(__file__).parent,
        TITLE=escape(study.title),
        QUESTION=escape(study.question),
        FACTS="".join(f"<span>{escape(name)} <b>{escape(value)}</b></span>" for name, value in facts),
        CONCLUSIONS=_paragraphs(results.conclusions(), "conclusion"),
        CAUTIONS=_paragraphs(results.cautions()),
        PLOTS=_plots(results),
        TABLES="".join(f"<h2>{escape(table.title)}</h2>\n{_table(table)}" for table in build_tables(results)),
        FINDINGS=_findings(results),
        CELLS="".join(_cell(results, cell, runs) for cell in grid.cells),
        FILE=escape(study.path.name),
    )


def _paragraphs(sentences: Iterable[str], name: str = "") -> str:
    start = f'<p class="{name}">' if name else "<p>"
    return "".join(f"{start}{escape(sentence)}</p>\n" for sentence in sentences)


def _plots(results: StudyResults) -> str:
    try:
        pictures = [to_svg(draw_metric(results, metric)) for metric in plotted_metrics(results)]
    except UserError as error:  # matplotlib is not installed
        return f"<p>{escape(str(error))}</p>"
    figures = "".join(f"<figure>{picture}</figure>" for picture in pictures)
    return f'<p>{CAPTION} The dotted line is the mean of the base.</p>\n<div class="plots">{figures}</div>'


def _table(table: Table) -> str:
    head = "".join(_field("th", text, number < table.labels) for number, text in enumerate(table.head))
    kind = ' class="verdicts"' if table.head[-1] == "verdict" else ""
    rows = "".join(f"<tr>{_row(table, row)}</tr>\n" for row in table.rows)
    content = f"<thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody>"
    return f'<div class="scroll"><table{kind}>{content}</table></div>\n'


def _row(table: Table, row: Sequence[str]) -> str:
    return "".join(
        _field("td", text, number < table.labels, _CLASSES.get(text, "")) for number, text in enumerate(row)
    )


def _field(tag: str, text: str, is_left: bool, name: str = "") -> str:
    names = " ".join(filter(None, ("left" if is_left else "", name)))
    attribute = f' class="{names}"' if names else ""
    return f"<{tag}{attribute}>{escape(text)}</{tag}>"


def _findings(results: StudyResults) -> str:
    if not results.study.findings:
        return ""
    items = []
    for claim, source, text in findings_lines(results):
        verdict = next((verdict for verdict in _CLASSES if text.startswith(verdict)), "")
        where = f" <span>{escape(source)}</span>" if source else ""
        items.append(
            f"<li><b>{escape(claim)}</b>{where}<br>"
            f'<span class="verdict {_CLASSES.get(verdict, "")}">{escape(text)}</span></li>'
        )
    return (
        f'<h2>Published findings, and what these runs show</h2>\n<ul class="findings">{"".join(items)}</ul>'
    )


def _cell(results: StudyResults, cell: Cell, runs: str) -> str:
    """Return the differences of a cell's configs to those of the base, and links to its runs."""
    base = results.grid.base
    rows = []
    for stage, settings in results.study.stages.items():
        seeds = [seed for seed in results.grid.seeds if (stage, seed) in cell.runs]
        if not seeds:
            rows.append(f"<tr><td>{escape(stage)}</td><td>skipped</td><td></td></tr>")
            continue
        links = " ".join(
            f'<a href="{escape(runs)}/{escape(cell.runs[stage, seed].name)}/">seed {seed}</a>'
            for seed in seeds
        )
        if cell is base or (stage, seeds[0]) not in base.runs:
            text = escape(settings.config or "")
        else:
            text = "<br>".join(map(escape, _differences(cell, base, stage, seeds[0]))) or "as the base"
        rows.append(f"<tr><td>{escape(stage)}</td><td>{text}</td><td>{links}</td></tr>")
    name = escape(describe(cell.levels)) + (" (base)" if cell is base else "")
    head = "<thead><tr><th>stage</th><th>config</th><th>runs</th></tr></thead>"
    table = f'<div class="scroll"><table class="cell">{head}<tbody>{"".join(rows)}</tbody></table></div>'
    return f"<details><summary>{name}</summary>{table}</details>\n"


def _differences(cell: Cell, base: Cell, stage: str, seed: int) -> list[str]:
    """Return what differs between a stage of a cell and that of the base, a line each."""
    run, other = cell.runs[stage, seed], base.runs[stage, seed]
    before = dict(flatten(other.cfg))
    lines = [f"{key}: {value}" for key, value in flatten(run.cfg) if value != before[key]]
    if (run.parent and run.parent.identity) != (other.parent and other.parent.identity):
        lines.append(
            f"starts from {run.parent.name if run.parent else 'random weights, or those of its config'}"
        )
    return lines
