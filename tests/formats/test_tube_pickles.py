"""Tube pickles of the ACT and MultiSports tools."""

import json
import pickle

import numpy as np
import pytest

from vmae_det.cli import main as cli_main
from vmae_det.formats.tube_pickles import read_detected_tubes, read_ground_truth_tubes
from vmae_det.utils.errors import DataError

RUN = np.array([[f, 10.0, 20.0, 30.0, 50.0 + f] for f in range(1, 7)], dtype=np.float32)
FALL = np.array([[f, 40.0, 20.0, 60.0, 50.0] for f in range(3, 7)], dtype=np.float32)
TRUTH = {
    "labels": ["run", "fall"],
    "gttubes": {"c/v": {0: [RUN], 1: [FALL]}, "c/w": {0: [RUN]}, "c/x": {}},
    "train_videos": [["c/x"], ["c/v"]],
    "test_videos": [["c/w", "c/v"], ["c/x", "c/w"]],
    "nframes": {"c/v": 6, "c/w": 6, "c/x": 6},
    "resolution": {},
}


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return path


def tubes_of(tubes):
    """Return {(video, label, score): rows of frame and box}."""
    return {
        (tubes.video[i], tubes.label[i], tubes.score[i]): np.column_stack(
            [tubes.frame[tubes.tube == i], tubes.boxes[tubes.tube == i]]
        ).tolist()
        for i in range(len(tubes))
    }


def test_ground_truth_of_a_split(tmp_path):
    path = save(tmp_path / "gt.pkl", TRUTH)
    assert tubes_of(read_ground_truth_tubes(path)) == {
        ("c/v", "run", 1.0): RUN.tolist(),
        ("c/v", "fall", 1.0): FALL.tolist(),
        ("c/w", "run", 1.0): RUN.tolist(),
    }
    assert set(tubes_of(read_ground_truth_tubes(path, 2))) == {("c/w", "run", 1.0)}
    with pytest.raises(DataError, match="expected a split from 1 to 2, got split 3"):
        read_ground_truth_tubes(path, 3)
    without = {key: TRUTH[key] for key in ("labels", "gttubes", "test_videos")}
    assert len(read_ground_truth_tubes(save(tmp_path / "gt.pkl", without))) == 3


def test_detections_in_three_forms(tmp_path):
    truth = save(tmp_path / "gt.pkl", TRUTH)
    multisports = {0: [("c/v", np.float32(0.5), RUN), ("c/w", 0.25, RUN)], 1: [("c/v", 0.75, FALL)]}
    expected = {
        ("c/v", "run", 0.5): RUN.tolist(),
        ("c/w", "run", 0.25): RUN.tolist(),
        ("c/v", "fall", 0.75): FALL.tolist(),
    }
    path = save(tmp_path / "tubes.pkl", multisports)
    assert tubes_of(read_detected_tubes(path, truth)) == expected
    for video in ("c/v", "c/w"):
        own = {
            label: [
                (np.column_stack([rows, np.ones(len(rows))]), score) for v, score, rows in found if v == video
            ]
            for label, found in multisports.items()
        }
        save(tmp_path / f"act/{video}_tubes.pkl", own)
    assert tubes_of(read_detected_tubes(tmp_path / "act", truth)) == expected
    frames = np.array([[1, 3, 0, 0.5, 1, 2, 3, 4], [0, 4, 1, 0.25, 5, 6, 7, 8]])
    assert tubes_of(read_detected_tubes(save(tmp_path / "frames.pkl", frames), truth)) == {
        ("c/v", "run", 0.5): [[3, 1, 2, 3, 4]],
        ("c/w", "fall", 0.25): [[4, 5, 6, 7, 8]],
    }


class Bad:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (Bad(), "got a reference to builtins.print"),
        ([], r"expected a dict of tubes by label or an array \(N, 8\), got a list"),
        ({2: []}, "expected labels from 0 to 1, got '2'"),
        ({0: 5}, r"\[0\]: expected a list of tubes, got a int"),
        ({0: [(RUN, 0.5)]}, r"\[0\]\[0\]: expected a video, a score and an array, got a tuple"),
        ({0: [("c/x", 0.5, RUN)]}, "'c/x' is not a test video of the split"),
        ({0: [("c/v", float("nan"), RUN)]}, "the score must be a finite number"),
        ({0: [("c/v", 0.5, RUN[:, :4])]}, r"expected an array \(N, 5 or 6\) of numbers, got shape \(6, 4\)"),
        ({0: [("c/v", 0.5, RUN[::-1])]}, "expected frame numbers in ascending order"),
        (np.zeros((2, 7)), r"expected an array \(N, 8\) of numbers, got shape \(2, 7\)"),
        (np.full((1, 8), 2.0), "column 0: expected video indices from 0 to 1"),
    ],
)
def test_malformed_detections_are_reported(tmp_path, content, problem):
    truth = save(tmp_path / "gt.pkl", TRUTH)
    with pytest.raises(DataError, match=problem):
        read_detected_tubes(save(tmp_path / "d.pkl", content), truth)


def test_convert_tubes_command(tmp_path, capsys):
    truth = save(tmp_path / "gt.pkl", TRUTH)
    found = save(tmp_path / "d.pkl", {0: [("c/v", 0.5, RUN)], 1: [("c/v", 0.75, FALL)]})
    files = str(tmp_path / "gt.csv"), str(tmp_path / "d.csv")
    assert cli_main.main(["convert-tubes", str(truth), "--output", files[0]]) == 0
    assert (
        cli_main.main(["convert-tubes", str(found), "--ground-truth", str(truth), "--output", files[1]]) == 0
    )
    assert "2 tubes with 10 boxes in 1 videos" in capsys.readouterr().out
    arguments = ["evaluate", "--ground-truth", files[0], "--tubes", files[1], "--protocol", "multisports"]
    assert cli_main.main([*arguments, "--json", str(tmp_path / "o.json")]) == 0
    per_class = json.loads((tmp_path / "o.json").read_text())["per_class"]
    assert (per_class["run"]["0.5"], per_class["fall"]["0.5"]) == (0.5, 1)
