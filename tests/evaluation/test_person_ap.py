import json
import pickle

import numpy as np
import pytest

from vmae_det.cli import main as cli_main
from vmae_det.evaluation.person_ap import evaluate_person_boxes
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.utils.errors import DataError

# Two persons in the first keyframe, one of them with two actions; one in the second; none in the third.
TRUTH = """a,0902,0.0,0.0,0.4,1.0,12,0
a,0902,0.0,0.0,0.4,1.0,17,0
a,0902,0.6,0.0,1.0,1.0,12,1
a,0903,0.2,0.2,0.8,0.8,12,0
a,0904
"""


def scores_of(tmp_path, persons, excluded=None):
    (tmp_path / "gt.csv").write_text(TRUTH)
    (tmp_path / "p.csv").write_text(persons)
    return evaluate_person_boxes(
        read_action_csv(tmp_path / "gt.csv"), read_person_boxes(tmp_path / "p.csv"), excluded
    )


def test_perfect_boxes_score_one_and_each_person_counts_once(tmp_path):
    persons = "a,0902,0.0,0.0,0.4,1.0,,0.9\na,0902,0.6,0.0,1.0,1.0,,0.8\na,0903,0.2,0.2,0.8,0.8,,0.7\n"
    result = scores_of(tmp_path, persons)
    assert (result.ap, result.ap_50, result.ar, result.recall_50) == (1, 1, 1, 1)
    assert (result.num_persons, result.num_detections) == (3, 3)


def test_by_hand(tmp_path):
    # The best-scored box has IoU 0.75, a hit at 6 of 10 thresholds. One box is false, two persons are missed.
    found = "a,0902,0.0,0.0,0.3,1.0,,0.9\na,0904,0.1,0.1,0.9,0.9,,0.8\na,0905,0.1,0.1,0.9,0.9,,0.99\n"
    result = scores_of(tmp_path, found)
    # The first 34 of COCO's 101 recall levels 0, 0.01, ..., 1 are reached, at precision 1.
    assert result.ap_50 == pytest.approx(34 / 101)
    assert result.ap == pytest.approx(34 / 101 * 0.6)
    assert result.recall_50 == pytest.approx(1 / 3)
    assert result.ar == pytest.approx(0.6 / 3)
    assert result.num_detections == 2


def test_excluded_and_unannotated_keyframes_are_ignored(tmp_path):
    persons = "a,0902,0.0,0.0,0.4,1.0,,0.9\na,0902,0.6,0.0,1.0,1.0,,0.8\nb,0903,0.2,0.2,0.8,0.8,,0.99\n"
    result = scores_of(tmp_path, persons, excluded={("a", 903.0), ("b", 1.0), ("c", 1.0)})
    assert (result.num_persons, result.num_detections, result.ap) == (2, 2, 1)
    nothing = scores_of(tmp_path, "b,0903,0.2,0.2,0.8,0.8,,0.99\n")
    assert (nothing.ap, nothing.recall_50, nothing.num_detections) == (0, 0, 0)
    with pytest.raises(
        DataError, match="no ground truth to evaluate: no box in a keyframe that is not excluded"
    ):
        scores_of(tmp_path, persons, excluded={("a", 902.0), ("a", 903.0)})


@pytest.mark.parametrize(
    ("persons", "problem"),
    [
        ("", "there are no detections"),
        ("b,0902,0.0,0.0,0.4,1.0,,0.9\n", "no video id is in both files: the ground truth has 'a'"),
        (
            "a,0002,0.0,0.0,0.4,1.0,,0.9\n",
            "has seconds 902 to 904 in the ground truth, 2 to 2 in the detections",
        ),
        ("a,0903,0.9,0.9,1.0,1.0,,0.9\n", "no box reaches IoU 0.5 with an annotated person"),
    ],
)
def test_zero_is_explained(tmp_path, capsys, persons, problem):
    (tmp_path / "gt.csv").write_text(TRUTH)
    (tmp_path / "p.csv").write_text(persons)
    arguments = ["evaluate", "--ground-truth", str(tmp_path / "gt.csv")]
    assert cli_main.main([*arguments, "--person-boxes", str(tmp_path / "p.csv")]) == 0
    printed = capsys.readouterr().out
    assert "AP, IoU 0.5:0.95    0.00" in printed
    assert problem in printed
    missed = 1 if "0903" in persons else 2
    assert f"{missed} of 2 annotated keyframes have no detections" in printed


@pytest.mark.parametrize(
    ("name", "content"), [("p.json", b"[]"), ("p.pkl", pickle.dumps({})), ("p.csv", b"")]
)
def test_empty_files_score_zero_but_are_an_error_elsewhere(tmp_path, capsys, name, content):
    (tmp_path / "gt.csv").write_text(TRUTH)
    (tmp_path / name).write_bytes(content)
    arguments = ["evaluate", "--ground-truth", str(tmp_path / "gt.csv")]
    assert cli_main.main([*arguments, "--person-boxes", str(tmp_path / name)]) == 0
    assert "recall, IoU 0.5     0.00" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"expected at least one row|got no"):
        read_person_boxes(tmp_path / name)


def test_command_accepts_the_other_formats(tmp_path, capsys):
    truth, found, out = tmp_path / "gt.csv", tmp_path / "p.json", tmp_path / "out.json"
    truth.write_text(TRUTH)
    image = {"id": 5, "movie": "a", "timestamp": 903, "width": 100, "height": 100}
    box = {"image_id": 5, "bbox": [20, 20, 60, 60], "score": 0.5}
    found.write_text(json.dumps({"images": [image], "annotations": [box]}))
    arguments = ["evaluate", "--ground-truth", str(truth), "--person-boxes", str(found)]
    assert cli_main.main([*arguments, "--json", str(out)]) == 0
    assert "1 boxes for 3 persons" in capsys.readouterr().out
    assert json.loads(out.read_text())["recall_50"] == pytest.approx(1 / 3)

    found.write_text(json.dumps([box]))
    assert cli_main.main(arguments) == 2
    (tmp_path / "images.json").write_text(json.dumps({"images": [image]}))
    assert cli_main.main([*arguments, "--images", str(tmp_path / "images.json")]) == 0
    assert np.isclose(json.loads(out.read_text())["ar"], 1 / 3)
