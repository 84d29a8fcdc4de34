"""Comparisons, findings, tables, plot and page of a study, with results that were not trained."""

import csv
import json
import re

import pytest

from vmae_det.studies.grid import build_grid
from vmae_det.studies.plot import numeric_factor
from vmae_det.studies.report import write_report, write_tables
from vmae_det.studies.results import StudyResults
from vmae_det.studies.run_store import RunStore, write_marker
from vmae_det.studies.study_file import read_study
from vmae_det.utils.output_files import write_json

STUDY = """\
title: Masks & <ratios>
question: Which mask?
seeds: 3
stages:
  pretrain: {config: MiniAVA/pretrain.yaml, metrics: [seconds, parameters]}
  finetune: {config: MiniAVA/finetune.yaml, from: pretrain, metrics: [top1]}
factors:
  mask:
    tube: {pretrain: {MODEL.MASK.TYPE: tube}}
    random: {pretrain: {MODEL.MASK.TYPE: random}}
    scratch: {pretrain: null}
  ratio:
    0.5: {pretrain: {MODEL.MASK.RATIO: 0.5}}
    0.9: {pretrain: {MODEL.MASK.RATIO: 0.9}}
base: {mask: tube, ratio: 0.9}
findings:
  - claim: Tube wins.
    source: A, Table 1
    better: {mask: tube}
    worse: {mask: random}
    metric: finetune/top1
  - claim: Random wins at 0.9.
    better: {mask: random, ratio: 0.9}
    worse: {mask: tube, ratio: 0.9}
    metric: finetune/top1
  - claim: A ratio of 0.9 is faster.
    better: {mask: tube, ratio: 0.9}
    worse: {mask: tube, ratio: 0.5}
    metric: pretrain/seconds
  - claim: Scratch needs 0.9.
    better: {mask: scratch, ratio: 0.9}
    worse: {mask: scratch, ratio: 0.5}
    metric: finetune/top1
"""
# top1 by seed
TOP1 = {
    ("tube", "0.5"): [70.0, 74.0, 72.0],
    ("tube", "0.9"): [80.0, 81.0, 82.0],
    ("random", "0.5"): [71.0, 73.0, 71.0],
    ("random", "0.9"): [70.0, 71.5, 71.5],
    ("scratch", "0.5"): [60.0, 62.0, 61.0],
    ("scratch", "0.9"): [60.0, 62.0, 61.0],
}


@pytest.fixture
def site(tmp_path):
    """site(FINISHED): the results of a study of which runs are finished if FINISHED(RUN), and their store."""

    def build(finished=lambda run: True, text=STUDY):
        (tmp_path / "own.yaml").write_text(text)
        grid = build_grid(read_study(tmp_path / "own.yaml"))
        store = RunStore(tmp_path / "out" / "runs")
        for cell in grid.cells:
            for (stage, seed), run in cell.runs.items():
                if not finished(run) or store.is_finished(run):
                    continue
                store.folder(run).mkdir(parents=True, exist_ok=True)
                store.prepare(run)
                if stage == "finetune":
                    write_json(
                        store.folder(run) / "results.json", {"top1": TOP1[tuple(cell.levels.values())][seed]}
                    )
                seconds = 10.0 * (1.5 - run.cfg.MODEL.MASK.RATIO) + seed * run.cfg.MODEL.MASK.RATIO
                write_marker(
                    store.folder(run), {"seconds": seconds, "memory": 1.0, "parameters": 0.5, "loss": 1.0}
                )
        return StudyResults(grid, store), store

    return build


def row(text, *start):
    """The row of a table that starts with these cells, after which there are two spaces."""
    (line,) = [
        line for line in text.splitlines() if re.split(r"\s{2,}", line.strip())[: len(start)] == list(start)
    ]
    return re.split(r"\s{2,}", line.strip())


def test_comparisons_with_the_base(site, tmp_path):
    text = write_tables(site()[0], tmp_path)
    comparisons = text.partition("finetune/top1: difference to mask tube, ratio 0.9")[2].partition(
        "Published"
    )[0]
    # Differences -10, -9.5, -10.5: mean -10, standard deviation 0.5, t 4.303, margin 1.242.
    assert row(comparisons, "random", "0.9")[3:] == ["−10.0", "−11.2 to −8.8", "< 0.001", "3", "worse"]
    # -10, -7, -10
    assert row(comparisons, "tube", "0.5")[3:] == ["−9.0", "−13.3 to −4.7", "0.012", "3", "worse"]
    # -20, -19, -21
    assert row(comparisons, "scratch", "0.5")[3:] == ["−20.0", "−22.5 to −17.5", "< 0.001", "3", "worse"]
    assert row(comparisons, "tube", "0.9") == ["tube", "0.9", "81.0 ± 1.0", "base"]
    matrix = text.partition("finetune/top1 by mask and ratio")[2]
    assert row(matrix.partition("difference")[0], "random")[1:] == ["71.7 ± 1.2", "71.0 ± 0.9"]
    assert "In finetune/top1, of 5 cells compared with mask tube, ratio 0.9, 5 are worse than it." in text
    assert "The best mean is that of mask tube, ratio 0.9." in text


def test_findings(site, tmp_path):
    text = write_tables(site()[0], tmp_path)
    verdicts = text.partition("Published findings")[2].splitlines()
    # Means over both ratios: (-1 + 10) / 2, (1 + 9.5) / 2, (1 + 10.5) / 2
    assert "  Tube wins. [A, Table 1]" in verdicts
    assert any(line.strip().startswith("appears (advantage in finetune/top1 +5.2") for line in verdicts)
    assert any("mean of 2 pairs of cells" in line for line in verdicts)
    opposite = verdicts[verdicts.index("  Random wins at 0.9.") + 1]
    assert opposite.strip().startswith(
        "the opposite appears (advantage in finetune/top1 −10.0, 95 % interval −11.2"
    )
    # 4 - 0.4 x seed: lower is better, and the claim is that it is lower.
    faster = verdicts[verdicts.index("  A ratio of 0.9 is faster.") + 1]
    assert "appears (advantage in pretrain/seconds +3.6, 95 % interval +2.6 to +4.6" in faster
    same = verdicts[verdicts.index("  Scratch needs 0.9.") + 1]
    assert same.strip() == "cannot be checked: both are the same runs"
    assert (
        "Of 4 published findings, 2 appear here, 1 appears with the opposite sign, and 1 cannot be decided."
        in text
    )


def test_missing_results_and_one_seed(site, tmp_path):
    text = write_tables(
        site(lambda run: run.cfg.SEED == 0 and run.cfg.MODEL.MASK.TYPE == "tube")[0], tmp_path
    )
    assert "no results yet" in text
    assert "runs are finished." in text
    assert "worse" not in text
    only = STUDY.replace("seeds: 3", "seeds: 1")
    text = write_tables(site(text=only)[0], tmp_path)
    assert "One seed: there is no spread and no interval, so no cells can be told apart." in text
    assert "worse" not in text
    assert " ± " not in text


def test_the_files_agree(site, tmp_path):
    results, store = site()
    folder = tmp_path / "out" / "own"
    write_report(results, store, folder)
    content = json.loads((folder / "results.json").read_text())
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for cell in content["cells"]:
        levels = tuple(cell["levels"].values())
        found = [
            (int(line["seed"]), float(line["value"]))
            for line in rows
            if (line["mask"], line["ratio"], line["metric"]) == (*levels, "finetune/top1")
        ]
        assert sorted(found) == list(enumerate(TOP1[levels]))
        assert cell["metrics"]["finetune/top1"]["values"] == {str(s): v for s, v in enumerate(TOP1[levels])}
        assert all((store.root / run["folder"]).is_dir() for run in cell["runs"])
    markdown = (folder / "table.md").read_text()
    assert "# Masks & \\<ratios>" in markdown
    assert "| random | 0.9 | 71.0 ± 0.9 | −10.0 | −11.2 to −8.8 | \\< 0.001 | 3 | worse |" in markdown


def test_the_plot_has_the_numeric_factor_as_its_axis(site, tmp_path):
    pytest.importorskip("matplotlib")
    results, store = site()
    assert numeric_factor(results) == "ratio"
    write_report(results, store, tmp_path / "report")
    svg = (tmp_path / "report" / "plot.svg").read_text()
    assert (tmp_path / "report" / "plot.png").stat().st_size > 10_000
    for text in ("finetune/top1", "pretrain/seconds (s)", "0.5", "0.9", "ratio", "tube", "random", "scratch"):
        assert f">{text}</text>" in svg
    text = STUDY.replace("    0.9: {", "    high: {").replace("    0.5: {", "    low: {")
    text = text.replace("ratio: 0.9}", "ratio: high}").replace("ratio: 0.5}", "ratio: low}")
    assert numeric_factor(site(lambda run: False, text)[0]) is None


def test_the_page_is_readable_in_a_browser(site, tmp_path, browser):
    pytest.importorskip("matplotlib")
    results, store = site()
    folder = tmp_path / "out" / "own"
    write_report(results, store, folder)
    for width in (1280, 390):
        browser.open(folder / "index.html", width)
        assert browser.js("return document.documentElement.scrollWidth <= innerWidth")
        assert browser.js("return document.querySelectorAll('figure svg').length") == 3
    assert browser.js("return document.querySelector('h1').textContent") == "Masks & <ratios>"
    assert browser.js(
        "return [...document.querySelectorAll('td.loss')].every(cell => cell.textContent == 'worse')"
    )
    links = browser.js("return [...document.querySelectorAll('a')].map(link => link.getAttribute('href'))")
    assert len(links) == 2 * 3 * 2 * 2 + 2 * 3  # of two stages or one, three seeds and six cells
    assert all((folder / link).is_dir() for link in links)
    text = browser.js("return document.body.textContent")
    assert "MODEL.MASK.TYPE: random" in text
    assert "seconds" in text
