"""The benchmark of frame-mAP, on small files."""

import json

import numpy as np
import pytest

from vmae_det.benchmarks import frame_map as benchmark
from vmae_det.benchmarks.synthetic_annotations import write_ava_files
from vmae_det.cli import main as cli_main
from vmae_det.evaluation import evaluate_frame_map
from vmae_det.utils.resource_usage import peak_memory


def test_files_are_proportional_and_can_be_scored(tmp_path):
    """One hundredth of the size of AVA's validation set."""
    files = write_ava_files(tmp_path, 69_520)
    assert (files.num_detections, files.num_keyframes, files.num_ground_truth) == (69_520, 500, 934)
    assert len(files.detections.read_text().splitlines()) == 69_520
    result = evaluate_frame_map(files.ground_truth, files.detections, files.label_map)
    assert 0.01 < result.mean_ap < 0.9
    assert np.isnan(result.ap).sum() < 30


def test_command_measures_each_protocol_in_fresh_processes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "_SHARES", (1.0,))
    out = tmp_path / "out.json"
    assert (
        cli_main.main(["benchmark", "frame-map", "--rows", "3200", "--repeats", "1", "--json", str(out)]) == 0
    )
    assert "slowfast" in capsys.readouterr().out
    entries = json.loads(out.read_text())
    assert [(entry["protocol"], entry["rows"]) for entry in entries] == [
        ("challenge", 3200),
        ("slowfast", 3200),
        ("mmaction2", 3200),
    ]
    for entry in entries:
        assert 0 < entry["read_s"] + entry["score_s"] < entry["total_s"]
        # This process has imported torch, the measured one has not: memory is not inherited.
        assert 0 < entry["peak_mb"] < peak_memory() / 1e6
        assert entry["cpu_s"] > 0


def test_too_few_rows(capsys):
    with pytest.raises(SystemExit):
        cli_main.main(["benchmark", "frame-map", "--rows", "100"])
    assert "an integer in [320, " in capsys.readouterr().err
