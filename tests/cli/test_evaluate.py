"""`vmae-det evaluate` on tubes and person boxes; on AVA's files it is tested with the metric."""

import json
import subprocess
import sys

import pytest

from vmae_det.cli.main import main

TUBES = """video_id,tube_id,label,score,frame,x1,y1,x2,y2
v,0,jump,0.9,1,0,0,10,10
v,0,jump,0.9,2,0,0,10,5
v,1,run,0.5,1,0,0,10,10
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tubes.csv").write_text(TUBES)
    (tmp_path / "truth.csv").write_text(TUBES.replace("10,5", "10,10"))
    (tmp_path / "jump.pbtxt").write_text('item { name: "jump" id: 1 }')
    (tmp_path / "ava.csv").write_text("v,902,0,0,0.5,1,12,1\nv,902,0,0,0.5,1,17,1\nv,903,0,0,1,1,12,1\n")
    (tmp_path / "persons.csv").write_text("v,902,0,0,0.5,1,,0.9\nv,902,0.6,0,1,1,,0.6\n")
    (tmp_path / "excluded.csv").write_text("v,903\n")
    return tmp_path


def test_tubes(files, capsys):
    command = ["evaluate", "--tubes", "--ground-truth", "truth.csv", "--detections", "tubes.csv"]
    assert main([*command, "--json", "out.json"]) == 0
    result = json.loads((files / "out.json").read_text())
    # The tube of "jump" has the IoUs 1 and 0.5, a mean of 0.75: right at six of ten thresholds.
    assert result["video_mAP"] == {"0.2": 1, "0.5": 1, "0.5:0.95": pytest.approx((0.6 + 1) / 2)}
    assert result["frame_mAP"] == 1
    assert result["files"] == {"ground_truth": "truth.csv", "detections": "tubes.csv", "label_map": None}
    printed = capsys.readouterr().out
    assert "video 0.5:0.95" in printed
    assert "2 of 2 tubes and 3 of 3 boxes scored" in printed
    assert main([*command, "--label-map", "jump.pbtxt", "--iou", "0.7", "0.8", "--json", "out.json"]) == 0
    assert json.loads((files / "out.json").read_text())["video_mAP"] == {
        "0.7": 1,
        "0.8": 0,
        "0.5:0.95": pytest.approx(0.6),
    }


def test_person_boxes(files, capsys):
    command = ["evaluate", "--person-boxes", "persons.csv", "--ground-truth", "ava.csv"]
    assert main([*command, "--json", "out.json"]) == 0
    result = json.loads((files / "out.json").read_text())
    assert (result["num_persons"], result["recall50"]) == (2, 0.5)
    assert result["at_scores"][-2] == {"score": 0.9, "num_boxes": 1, "precision": 1, "recall": 0.5}
    assert main([*command, "--excluded", "excluded.csv"]) == 0
    printed = capsys.readouterr().out
    assert "without the keyframes of excluded.csv" in printed
    assert "recall 0.5    100.00" in printed


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--detections d.csv", "--label-map is needed"),
        ("--label-map m.pbtxt", "--detections is needed"),
        ("--tubes", "--detections is needed with --tubes"),
        ("--tubes --detections tubes.csv --protocol slowfast", "--protocol has no meaning with --tubes"),
        ("--person-boxes p.csv --detections d.csv", "--detections has no meaning with --person-boxes"),
        ("--person-boxes p.csv --iou 0.5", "--iou has no meaning with --person-boxes"),
        ("--person-boxes p.csv --tubes", "two kinds of evaluation"),
        (
            "--detections d.csv --label-map m --images i.json",
            "--images has no meaning without --person-boxes",
        ),
        ("--tubes --detections ava.csv", "ava.csv:1: expected a header line with video_id,tube_id,label"),
        ("--tubes --detections none.csv", "none.csv: no such file"),
        ("--tubes --detections tubes.csv --iou 50", "IoU thresholds must be in (0, 1], got 50"),
        ("--person-boxes none.csv", "truth.csv:1: expected 2, 7 or 8 columns"),
    ],
)
def test_a_wrong_use_ends_in_one_line(files, capsys, args, message):
    assert main(["evaluate", "--ground-truth", "truth.csv", *args.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "args",
    [
        ["--tubes", "--ground-truth", "truth.csv", "--detections", "tubes.csv"],
        ["--person-boxes", "persons.csv", "--ground-truth", "ava.csv"],
    ],
    ids=["tubes", "person boxes"],
)
def test_it_works_without_torch(files, args):
    program = "import sys; sys.modules['torch'] = None\n"
    program += "from vmae_det.cli.main import main; sys.exit(main(sys.argv[1:]))"
    run = subprocess.run([sys.executable, "-c", program, "evaluate", *args], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
