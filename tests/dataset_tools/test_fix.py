"""check-data --fix: unambiguous problems are fixed in new files, and every change is listed."""

import csv
import shutil

import pytest
from conftest import SHARED
from dataset_sites import write_video

from vmae_det.cli.main import main
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.video.probe import probe_video

TRUTH = """video_id,middle_frame_timestamp,x1,y1,x2,y2,action_id,person_id
v,0,-0.0019,0.1,0.5,0.5,1,0
v,0,0.2,0.1,0.5,0.5,1,1
v,0,0.2,0.1,0.50,0.5,1,1
v,0,0.2,0.1,0.5,0.5,2,1
v,1,0.2,-0.08,1.05,0.5,2,1
v,1,0.2,0.1,1.2,0.5,2,1
v,9,0.2,0.1,0.5,0.5,2,1
"""
PERSONS = (
    "v\t0\t0.2\t0.1\t0.5\t0.5\t\t0.8\nv\t0\t0.2\t0.1\t0.5\t0.5\t1\t0.9\nv\t1\t0.2\t0.1\t1.06\t0.5\t\t0.7\n"
)


@pytest.fixture
def in_process(monkeypatch):
    def probe(paths, decode, workers):
        return {path: probe_video(str(path), decode) for path in set(paths)}

    monkeypatch.setattr("vmae_det.dataset_tools.check.context.probe_videos", probe)
    monkeypatch.setattr("vmae_det.dataset_tools.check.fix.probe_videos", probe)


@pytest.fixture
def damaged(tmp_path, in_process):
    """A dataset with many kinds of problems. The video has 60 frames at 25 fps."""
    folder = tmp_path / "set"
    write_video(folder / "videos/v.mp4", frames=60, size=(64, 48))
    (folder / "truth.csv").write_bytes(b"\xef\xbb\xbf" + TRUTH.replace("\n", "\r\n").encode())
    (folder / "persons.csv").write_text(PERSONS)
    (folder / "excluded.csv").write_text("v,2\r\n")
    (folder / "map.txt").write_text("1: sit\n2: bend/bow\n")
    keys = "annotations: truth.csv\nperson_boxes: persons.csv\nexcluded: excluded.csv\nlabel_map: map.txt\n"
    (folder / "val.yaml").write_text(f"type: detection\nvideos: videos\n{keys}")
    return folder


def changes(output):
    with (output / "changes.csv").open() as file:
        return [
            (row["file"].rpartition("/")[2], int(row["line"]), row["change"]) for row in csv.DictReader(file)
        ]


def test_unambiguous_problems_are_fixed_and_listed(damaged, tmp_path, capsys):
    before = {path: path.read_bytes() for path in damaged.iterdir() if path.is_file()}
    out = tmp_path / "fixed"
    assert main(["check-data", str(damaged / "val.yaml"), "--fix", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "truth.csv: 2 x box clipped to the frame" in printed
    assert "ERROR box_outside_frame: 1 of" in printed  # 1.2 is too far outside to be clipped
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(changes(out)) == sorted(
        [
            ("truth.csv", 1, "byte order mark removed"),
            ("truth.csv", 1, "Windows line endings replaced"),
            ("truth.csv", 1, "header dropped"),
            ("truth.csv", 2, "box clipped to the frame"),
            ("truth.csv", 4, "repeated row dropped"),
            ("truth.csv", 6, "box clipped to the frame"),
            ("truth.csv", 8, "keyframe outside of its video dropped"),
            *(("persons.csv", line, "tabs replaced by commas") for line in (1, 2, 3)),
            ("persons.csv", 2, "repeated row dropped"),
            ("persons.csv", 1, "score of a repeated row taken"),
            ("persons.csv", 3, "box clipped to the frame"),
            ("excluded.csv", 1, "Windows line endings replaced"),
        ]
    )
    assert (out / "annotations.csv").read_text().splitlines() == [
        "v,0,0,0.1,0.5,0.5,1,0",
        "v,0,0.2,0.1,0.5,0.5,1,1",
        "v,0,0.2,0.1,0.5,0.5,2,1",
        "v,1,0.2,0,1,0.5,2,1",
        "v,1,0.2,0.1,1.2,0.5,2,1",
    ]
    persons = read_person_boxes(out / "person_boxes.csv")
    assert persons.score.tolist() == [0.9, 0.7]
    assert persons.boxes[1].tolist() == [0.2, 0.1, 1, 0.5]
    assert LabelMap.from_file(out / "label_map.pbtxt").names == ("sit", "bend/bow")


@pytest.mark.parametrize(
    ("line", "fixed"),
    [
        ('"v","0","0.1","0.2","0.3","0.4","1","7"', "v,0,0.1,0.2,0.3,0.4,1,7"),
        ("v,0,0.1,0.2,0.3,0.4,1.0,7.00", "v,0,0.1,0.2,0.3,0.4,1,7"),
        ("v,0,0.1,0.2,0.3,0.4,1,7,,", "v,0,0.1,0.2,0.3,0.4,1,7"),
        ("v,0,0.1,0.2,0.3,0.4,1,", "v,0,0.1,0.2,0.3,0.4,1"),
        ("v,0,,,,,,", "v,0"),
        ("# made by hand", ""),
        ("v;0;0,1;0,2;0,3;0,4;1;7", "v;0;0,1;0,2;0,3;0,4;1;7"),  # decimal commas are ambiguous
        ("v,0,0.1,0.2,0.3,0.4,1.5,7", "v,0,0.1,0.2,0.3,0.4,1.5,7"),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r"])
def test_lines_written_by_other_programs(damaged, tmp_path, line, fixed, ending):
    good = "v,1,0.1,0.2,0.3,0.4,1,7"
    (damaged / "truth.csv").write_bytes(ending.join((good, line)).encode())
    main(["check-data", str(damaged / "val.yaml"), "--fix", str(tmp_path / "fixed"), "--decode", "none"])
    kept = (tmp_path / "fixed/annotations.csv").read_text().split("\n")
    assert kept == [good, *([fixed] if fixed else []), ""]
    listed = [change[2] for change in changes(tmp_path / "fixed") if change[0] == "truth.csv"]
    assert len(listed) == (line != fixed) + (ending == "\r")


def test_nothing_is_overwritten(damaged, tmp_path, capsys):
    arguments = ["check-data", str(damaged / "val.yaml"), "--fix"]
    assert main([*arguments, str(damaged)]) == 2
    assert f"{damaged / 'val.yaml'} already exists; choose a new folder" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "out")]) == 1
    assert main([*arguments, str(tmp_path / "out")]) == 2
    assert main(["check-data", str(damaged / "videos"), "--fix", str(tmp_path / "new")]) == 2
    assert "--fix: expected a detection dataset, got" in capsys.readouterr().err


def test_a_valid_dataset_is_not_changed(mini_ava, tmp_path, capsys, in_process):
    out = tmp_path / "out"
    assert main(["check-data", str(mini_ava / "val.yaml"), "--fix", str(out), "--decode", "none"]) == 0
    assert "nothing to fix" in capsys.readouterr().out
    assert changes(out) == []
    truth = mini_ava / "annotations/mini_ava_val.csv"
    assert (out / "annotations.csv").read_text() == truth.read_text()


def test_the_error_of_training_names_the_command(damaged):
    (damaged / "truth.csv").write_text("v,0,-0.0019,0.1,0.5,0.5,1,0\n")
    with pytest.raises(
        Exception, match=r"x1=-0.0019, which is outside the frame; `vmae-det check-data DATASET"
    ):
        read_action_csv(damaged / "truth.csv")


def test_real_files_of_bird_videos(tmp_path, capsys, in_process):
    """Real files: a box at -0.0019, keyframes after the end, tabs in the person boxes."""
    source = SHARED / "cases/real/ava2024"
    if not source.exists():
        pytest.skip("needs the real files in ../shared/cases, next to the repository")
    shutil.copytree(source, tmp_path / "set")
    names = {line.split(",")[0] for line in (source / "ava_train_v2.2.csv").read_text().split()}
    names |= {line.split(",")[0] for line in (source / "ava_val_v2.2.csv").read_text().split()}
    for name in names:
        write_video(tmp_path / f"set/videos/{name}.mp4", frames=602, size=(32, 16), rate=30)
    for part, more in (("train", ""), ("val", "person_boxes: persons_tabs.csv\n")):
        content = f"type: detection\nvideos: videos\nannotations: ava_{part}_v2.2.csv\n{more}"
        (tmp_path / f"set/{part}.yaml").write_text(f"{content}label_map: ava_action_list_v2.2.pbtxt\n")
        main(["check-data", str(tmp_path / f"set/{part}.yaml"), "--fix", str(tmp_path / part)])
        printed = capsys.readouterr().out
        for kind in ("box_outside_frame", "keyframe_outside_video", "malformed_line", "broken_file"):
            assert kind not in printed
        read_action_csv(tmp_path / part / "annotations.csv")
    assert len(read_person_boxes(tmp_path / "val/person_boxes.csv"))
    kinds = {change for _, _, change in changes(tmp_path / "train")}
    assert {"box clipped to the frame", "keyframe outside of its video dropped"} <= kinds
