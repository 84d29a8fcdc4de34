"""Reading the logs of runs, and plotting them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from vmae_det.utils.errors import DataError, UserError
from vmae_det.visualization.curves import draw_curves, read_log, read_logs
from vmae_det.visualization.matplotlib_figures import save_figure

pytest.importorskip("matplotlib", reason="requires matplotlib")


@pytest.fixture
def run(tmp_path):
    def write(name, *rows):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        return folder

    return write


def values(log, name):
    steps, numbers = log.values[name]
    return steps.tolist(), numbers.tolist()


def test_repeated_steps_use_the_later_values(run):
    first = [{"step": step, "loss": 9.0} for step in (1, 2, 3, 4)]
    log = read_log(run("a", *first, {"step": 3, "loss": 1.0}, {"step": 4, "loss": 0.5}))
    assert values(log, "loss") == ([1, 2, 3, 4], [9, 9, 1, 0.5])
    shorter = read_log(run("b", *first, {"step": 2, "loss": 1.0}))
    assert values(shorter, "loss") == ([1, 2], [9, 1])


def test_values_that_are_not_finite_leave_a_gap(run):
    log = read_log(run("a", {"step": 1, "loss": 1.0}, {"step": 2, "loss": None}, '{"step": 3, "loss": NaN}'))
    assert np.isnan(log.values["loss"][1]).tolist() == [False, True, True]
    axes = draw_curves([log]).axes[0]
    assert any(line.get_marker() == "x" and len(line.get_xdata()) == 2 for line in axes.lines)


def test_invalid_lines_are_counted(run):
    log = read_log(
        run(
            "a",
            {"step": 1, "loss": 1.0},
            "[1]",
            '{"loss": 2}',
            '{"step": true}',
            "[" * 9999,
            '{"step": 2, "lo',
        )
    )
    assert values(log, "loss") == ([1], [1])
    assert log.skipped == 5


def test_integers_too_large_for_a_float_are_not_finite(run):
    large = "9" * 400
    rows = [f'{{"step": {large}, "loss": 2.0}}', f'{{"step": 2, "loss": {large}}}']
    log = read_log(run("a", {"step": 1, "loss": 1.0}, *rows))
    assert log.skipped == 1
    np.testing.assert_array_equal(log.values["loss"][1], [1, np.nan])


def test_a_name_that_is_not_utf8_is_drawn(run):
    log = read_log(run("a", {"step": 1, "loss": 1.0}))
    log.name = "run\udcff"
    draw_curves([log]).canvas.draw()


def test_a_metric_of_some_steps_and_values_that_are_not_numbers(run):
    log = read_log(run("a", {"step": 1, "x": 1, "note": "so"}, {"step": 2, "x": 2, "top1": 0.5}))
    assert values(log, "top1") == ([2], [0.5])
    assert "note" not in log.values


@pytest.mark.parametrize("content", ["", "no json\n", '{"step": 1}\n', '{"step": 1, "a": "b"}\n'])
def test_a_log_without_values_raises_an_error(run, content):
    with pytest.raises(DataError, match="contains no values"):
        read_log(run("a", content))
    with pytest.raises(DataError, match="expected a file, got a device"):
        read_log(Path("/dev/zero"))
    with pytest.raises(DataError, match="no such log"):
        read_log(run("a", content) / "other")


def test_a_run_is_named_by_its_folder_or_its_file(run, tmp_path):
    folder = run("first", {"step": 1, "loss": 1.0})
    (tmp_path / "second.jsonl").write_text('{"step": 1, "loss": 1.0}')
    assert read_log(folder).name == read_log(folder / "metrics.jsonl").name == "first"
    assert read_log(tmp_path / "second.jsonl").name == "second"


def test_runs_with_the_same_name_are_named_by_their_paths(run, tmp_path):
    row = {"step": 1, "loss": 1.0}
    (tmp_path / "x").mkdir()
    paths = [run("a", row), run("x/a", row), run("b", row)]
    assert [log.name for log in read_logs(paths)] == [str(paths[0]), str(paths[1]), "b"]


def test_there_is_a_panel_per_metric_and_a_line_per_run(run):
    row = {"step": 1, "lr": 0.1, "step_seconds": 1.0, "loss": 2.0}
    logs = [read_log(run(name, row, {**row, "step": 2})) for name in ("a", "b", "c")]
    figure = draw_curves(logs)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "lr"]
    assert all(len(axes.lines) == 3 for axes in figure.axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]
    times = draw_curves(logs, ["step_seconds"])
    assert [axes.get_title() for axes in times.axes] == ["step_seconds"]
    with pytest.raises(UserError, match="--metric los: not in any of the logs; did you mean 'loss'"):
        draw_curves(logs, ["los"])


def test_many_runs_differ_in_color_or_line_style(run):
    logs = [read_log(run(f"run{number}", {"step": 1, "loss": 1.0})) for number in range(20)]
    lines = draw_curves(logs).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 20


def test_smoothing_averages_the_last_values(run):
    rows = [{"step": step, "loss": loss} for step, loss in enumerate([4.0, 2.0, None, 6.0, 8.0], start=1)]
    faint, bold = draw_curves([read_log(run("a", *rows))], smooth=2).axes[0].lines[:2]
    assert faint.get_alpha() < 1
    np.testing.assert_array_equal(bold.get_ydata(), [4, 3, np.nan, 6, 7])


def test_names_are_drawn_literally(run, tmp_path):
    log = read_log(run("_a $x^$ <b>", {"step": 1, "loss $": 1.0}))
    path = save_figure(draw_curves([log]), tmp_path / "chart.svg")
    text = path.read_text()
    assert "_a $x^$ &lt;b&gt;" in text
    assert "loss $" in text
    assert save_figure(draw_curves([log]), tmp_path / "again.svg").read_bytes() == path.read_bytes()


def test_other_file_formats_raise_an_error(run, tmp_path):
    figure = draw_curves([read_log(run("a", {"step": 1, "loss": 1.0}))])
    with pytest.raises(UserError, match=r"chart.gif: expected a name that ends in .png, .svg, .pdf"):
        save_figure(figure, tmp_path / "chart.gif")


def test_missing_matplotlib_raises_an_error(run, monkeypatch):
    log = read_log(run("a", {"step": 1, "loss": 1.0}))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r'matplotlib, .* pip install "vmae_det\[plots\]"'):
        draw_curves([log])
