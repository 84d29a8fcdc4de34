"""The benchmarks of the overlay and of the page, and the scripts in tools/ that forward to benchmarks."""

import json
import runpy
import shutil
import sys

import pytest

from vmae_det import model_zoo
from vmae_det.benchmarks import overlay, page
from vmae_det.cli.main import main


def test_overlay():
    results = overlay.benchmark_overlay(sizes=[(64, 48), (96, 64)], frames=3, progress=False)
    assert [(entry["width"], entry["persons"]) for entry in results] == [
        (width, count) for width in (64, 96) for count in overlay.PERSON_COUNTS
    ]
    assert all(entry["median_ms"] <= entry["max_ms"] for entry in results)
    assert overlay.report(results).splitlines()[-1].startswith("| 96 x 64 |")


def test_page_sizes(monkeypatch):
    monkeypatch.setattr(page, "_find_browser", lambda: ("chromium", "chromedriver"))
    monkeypatch.setattr(page, "_measure_in_browser", lambda *args: {"open the page": 1.5})
    result = page.benchmark_page(hours=0.003, people=2, actions=3)
    assert result.rows == 2 * 11
    assert 0 < result.video_bytes < result.page_bytes
    assert 0 < result.scores_per_row <= 3
    assert result.report().splitlines()[-1] == "open the page: 1.5 ms"


def test_page_in_a_browser(tmp_path, capsys):
    pytest.importorskip("selenium", reason="drives the browser")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs chromium and chromedriver")
    file = tmp_path / "page.json"
    command = ["benchmark", "page", "--hours", "0.003", "--people", "2", "--actions", "3"]
    assert main([*command, "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert figures["rows"] == 2 * 11
    assert figures["page_bytes"] > figures["video_bytes"] > 0
    assert set(figures["browser_ms"]) == {
        *("open the page", "draw a frame's boxes", "draw the timeline", "move the score")
    }
    assert "page with the video" in capsys.readouterr().out


def test_page_without_a_browser(monkeypatch, capsys):
    pytest.importorskip("selenium", reason="is checked first")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main(["benchmark", "page"]) == 2
    assert "benchmark page needs chromium and chromedriver on PATH" in capsys.readouterr().err


@pytest.mark.parametrize("topic", ["overlay", "page", "readers", "tracking"])
def test_scripts_of_earlier_versions_forward(topic, monkeypatch, capsys):
    script = model_zoo.config_folder().parent / "tools" / f"measure_{topic}.py"
    if not script.exists():
        pytest.skip("the scripts are part of a clone, not of the installed package")
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(script), run_name="__main__")
    assert exit.value.code == 0
    assert f"vmae-det benchmark {topic}" in capsys.readouterr().out
