"""The benchmark of tracking, and its metrics on simple tracks."""

import json

import numpy as np
import pytest

from vmae_det.benchmarks.tracking import GreedyTracker, Keyframe, measure
from vmae_det.cli.main import main
from vmae_det.inference.tracking import Tracker


def keyframes(positions, persons):
    """Return keyframes, one second apart, of boxes of 10 x 20 at these x positions."""
    return [
        Keyframe(
            float(time), np.array([[x, 0, x + 10.0, 20] for x in xs]), np.ones(len(xs)), np.array(persons)
        )
        for time, xs in enumerate(positions)
    ]


def test_perfect_tracks():
    assert measure([keyframes([(0, 50), (1, 51), (2, 52)], (7, 8))], Tracker) == (1.0, 0, 4)


def test_identity_switch():
    """The greedy baseline loses a person who moves by more than a width; Tracker does not."""
    videos = [keyframes([(0,), (12,), (24,), (36,)], (7,))]
    assert measure(videos, GreedyTracker) == (2 * 1 / 8, 3, 3)
    assert measure(videos, Tracker) == (1.0, 0, 3)


def test_boxes_of_nobody_lower_idf1():
    videos = [keyframes([(0, 50), (1, 51)], (7, -1))]
    idf1, switches, links = measure(videos, Tracker)
    assert idf1 == pytest.approx(2 * 2 / (4 + 2))
    assert (switches, links) == (0, 1)


def test_command(mini_ava, tmp_path, capsys):
    file = tmp_path / "tracking.json"
    assert main(["benchmark", "tracking", str(mini_ava / "val.yaml"), "--json", str(file)]) == 0
    entries = json.loads(file.read_text())
    assert [entry["method"] for entry in entries][:2] == ["greedy", "Tracker"]
    assert all(0 < entry["idf1"] <= 1 and entry["switches"] <= entry["links"] for entry in entries)
    assert "annotated boxes" in capsys.readouterr().out
