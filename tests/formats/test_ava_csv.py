import gzip
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vmae_det.cli.main import main
from vmae_det.formats.ava_csv import (
    ActionBoxes,
    LabelMap,
    read_action_csv,
    read_excluded_keyframes,
    write_action_csv,
)
from vmae_det.formats.label_map import write_label_map
from vmae_det.utils.errors import DataError

LABEL_MAP = LabelMap((1, 3, 12), ("bend", "crouch", "stand"), ("", "", ""))
GOOD = "vid,0902,0.1,0.2,0.3,0.4,12,0"


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_rows_of_two_seven_and_eight_columns_and_formats_of_time(tmp_path):
    lines = [
        "b,0902,0.1,0.2,0.3,0.4,12,7",
        "a,903",
        "a,902.5,0,0,1,1,3",
        " a , 0904 , 0,0,.5,1e0, 1 , 2 ",
        "",
    ]
    rows = read_action_csv(write(tmp_path / "a.csv", *lines), LABEL_MAP)
    assert rows.videos.tolist() == ["a", "b"]
    assert rows.videos[rows.video].tolist() == ["b", "a", "a", "a"]
    assert rows.timestamp.tolist() == [902, 903, 902.5, 904]
    assert rows.action.tolist() == [12, -1, 3, 1]
    assert rows.person.tolist() == [7, -1, -1, 2]
    assert np.isnan(rows.boxes[1]).all()
    assert rows.boxes[3].tolist() == [0, 0, 0.5, 1]
    detections = read_action_csv(
        write(tmp_path / "d.csv", "a,1,0,0,1,1,3", "a,1,0,0,1,1,3,0.25"), kind="detections"
    )
    assert detections.score.tolist() == [1.0, 0.25]


def test_non_ascii_and_non_utf8_names(tmp_path, monkeypatch):
    """Files contain the bytes. A terminal with another encoding prints them escaped."""
    write(tmp_path / "truth.csv", GOOD)
    write_label_map(tmp_path / "map.pbtxt", LABEL_MAP)
    rows = read_action_csv(tmp_path / "truth.csv", LABEL_MAP, kind="ground_truth")
    named = tmp_path / "caf\udce9.csv"
    write_action_csv(named, replace(rows, score=np.ones(1)))
    assert named.read_text() == "vid,0902,0.1,0.2,0.3,0.4,12,1.0\n"
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    files = ("--ground-truth", tmp_path / "truth.csv", "--detections", named)
    options = ("--label-map", tmp_path / "map.pbtxt", "--json", f"{named}.json")
    assert main(["evaluate", *map(str, files + options)]) == 0
    terminal.flush()
    assert b"caf\\udce9.csv against" in terminal.buffer.getvalue()
    assert json.loads(Path(f"{named}.json").read_text())["mAP"] == 1.0


@pytest.mark.parametrize("kind", ["ground_truth", "detections"])
def test_fast_and_line_parsers_agree(tmp_path, kind):
    value = "5" if kind == "ground_truth" else "0.5"
    lines = [f"v{i % 3},{900 + i},0.1,0.{i + 1},0.9,1.0,{(1, 3, 12)[i % 3]},{value}" for i in range(8)]
    lines += ["v9,1000"]
    quick = read_action_csv(write(tmp_path / "quick.csv", *lines), LABEL_MAP, kind)
    # The fast parser rejects files with spaces, so the line parser reads them.
    careful = read_action_csv(write(tmp_path / "careful.csv", *lines[:-1], "v9, 1000"), LABEL_MAP, kind)
    packed = tmp_path / "packed.csv.gz"
    packed.write_bytes(gzip.compress((tmp_path / "quick.csv").read_bytes()))
    for other in (careful, read_action_csv(packed, LABEL_MAP, kind)):
        for name in ("videos", "video", "timestamp", "boxes", "action", "score", "person"):
            np.testing.assert_array_equal(getattr(quick, name), getattr(other, name))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("vid,0902,0.1,0.2", "expected 2, 7 or 8 columns .* got 4"),
        (GOOD + ",1", "expected 2, 7 or 8 columns .* got 9"),
        ("vid,0902,0.1,0.2,0.3,0.4,", "the action id must be an integer, got ''"),
        ("vid,soon,0.1,0.2,0.3,0.4,12,0", "the timestamp must be a number, got 'soon'"),
        ("vid,-5,0.1,0.2,0.3,0.4,12,0", "the timestamp must be in seconds"),
        ("vid,0902,left,0.2,0.3,0.4,12,0", "x1 must be a number, got 'left'"),
        ("vid,0902,12.0,20,183.0,240,12,0", r"must be in \[0, 1\], .* got x1=12, looks like pixels"),
        ("vid,0902,0.1,0.2,183.0,0.4,12,0", "got x2=183, looks like pixels"),
        ("vid,0902,0.1,0.2,1.1,0.4,12,0", "got x2=1.1, which is outside the frame"),
        (
            "vid,0902,0.6,0.2,0.3,0.4,12,0",
            "x1 must be smaller than x2, got x1=0.6, x2=0.3; looks like x,y,w,h",
        ),
        ("vid,0902,0.1,0.2,0.3,0.2,12,0", "y1 must be smaller than y2, .* the box is empty"),
        ("vid,0902,nan,0.2,0.3,0.4,12,0", "x1 must be a finite number, got 'nan'"),
        ("vid,0902,0.1,0.2,inf,0.4,12,0", "x2 must be a finite number"),
        ("vid,0902,0.1,0.2,0.3,0.4,99,0", r"expected an action id of the label map \(1, 3, 12\), got 99"),
        ("vid,0902,0.1,0.2,0.3,0.4,0,0", "expected an action id of 1 or more, got 0"),
        ("vid,0902,0.1,0.2,0.3,0.4,1.5,0", "the action id must be an integer, got '1.5'"),
        ("vid,0902,0.1,0.2,0.3,0.4,99999999999,0", "the action id must be an integer"),
        ("vid,0902,0.1,0.2,0.3,0.4,12,0.93", "the person id must be an integer, got '0.93'"),
        (",0902,0.1,0.2,0.3,0.4,12,0", "the video id must be plain text"),
        ('"vid",0902,0.1,0.2,0.3,0.4,12,0', "the video id must be plain text without quotes"),
    ],
)
def test_malformed_line_is_reported(tmp_path, line, message):
    path = write(tmp_path / "gt.csv", GOOD, "", "vid,0903", line, GOOD)
    with pytest.raises(DataError, match=rf"gt\.csv:4: .*{message}"):
        read_action_csv(path, LABEL_MAP)


def test_detections_may_exceed_the_frame_and_be_empty_but_need_finite_scores(tmp_path):
    path = tmp_path / "d.csv"
    rows = read_action_csv(write(path, "v,1,-0.02,0.5,1.03,0.5,12,7.5"), LABEL_MAP, "detections")
    assert rows.boxes.tolist() == [[-0.02, 0.5, 1.03, 0.5]]
    for bad, message in (
        ("v,1,0,0,1,1,12,nan", "the score must be a finite"),
        ("v,1,0,0,1,1,12,", "the score must be"),
    ):
        with pytest.raises(DataError, match=rf":1: {message}"):
            read_action_csv(write(path, bad), LABEL_MAP, "detections")


def test_unknown_actions_are_dropped_or_keep_only_their_keyframe(tmp_path):
    lines = ["v,1,0,0,1,1,12,1", "v,2,0,0,1,1,80,1"]
    path = write(tmp_path / "a.csv", *lines)
    assert read_action_csv(path, LABEL_MAP, "detections", "ignore").timestamp.tolist() == [1]
    truth = read_action_csv(path, LABEL_MAP, unknown_actions="ignore")
    assert truth.timestamp.tolist() == [1, 2]
    assert truth.action.tolist() == [12, -1]
    assert np.isnan(truth.boxes[1]).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected at least one row, got none"),
        (b"\n\n", "expected at least one row, got none"),
        (
            b"video_id,middle_frame_timestamp,x1,y1,x2,y2,action,person\n" + GOOD.encode(),
            ":1: .* a header line",
        ),
        (b"video_id,timestamp,x1,y1,x2,y2,action,person\n" + GOOD.encode(), ":1: .* a header line"),
        (GOOD.encode() + b"\nv\xe9d,0902\n", ":2: expected a CSV file in UTF-8"),
        (bytes(range(256)) * 4, "junk.csv"),
        (b"\x1f\x8b\x08 no gzip at all", "cannot be read"),
        (gzip.compress(GOOD.encode() * 99)[:-9], "cannot be read"),
    ],
)
def test_files_of_other_formats_are_rejected(tmp_path, content, message):
    path = tmp_path / "junk.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_action_csv(path)


def test_missing_file_and_folder_are_rejected(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.csv: no such file"):
        read_action_csv(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_action_csv(tmp_path)


def test_windows_line_endings_and_byte_order_mark(tmp_path):
    path = tmp_path / "w.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\nvid,0903\r\n".encode())
    rows = read_action_csv(path)
    assert rows.videos.tolist() == ["vid"]
    assert len(rows) == 2


def test_excluded_keyframes(tmp_path):
    path = write(tmp_path / "excluded.csv", "v,0914", "w,1002.5")
    assert read_excluded_keyframes(path) == {("v", 914.0), ("w", 1002.5)}
    assert read_excluded_keyframes(write(path, "")) == set()
    with pytest.raises(DataError, match=r":2: expected 2 columns .* got 3"):
        read_excluded_keyframes(write(path, "v,0914", "v,0915,1"))


def test_written_files_read_back_identically(tmp_path):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.5, (50, 2)).round(3)
    rows = ActionBoxes(
        videos=np.array(["a", "b"], dtype=object),
        video=rng.permutation(np.arange(50, dtype=np.int32) % 2),
        timestamp=902 + np.arange(50) / 2,
        boxes=np.hstack([corner, corner + 0.25]),
        action=rng.choice([1, 3, 12], 50).astype(np.int32),
        score=rng.random(50).astype(np.float32).astype(np.float64),
        person=np.arange(50, dtype=np.int32),
    )
    path = tmp_path / "out" / "detections.csv"
    write_action_csv(path, rows)
    again = read_action_csv(path, kind="detections")
    for name in ("videos", "video", "timestamp", "action"):
        np.testing.assert_array_equal(getattr(again, name), getattr(rows, name))
    np.testing.assert_allclose(again.boxes, rows.boxes, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(again.score.astype(np.float32), rows.score.astype(np.float32))
    assert path.read_text().splitlines()[0].split(",")[1] == "0902"
    assert [file.name for file in path.parent.iterdir()] == ["detections.csv"]

    path = tmp_path / "gt.csv"
    path.write_text("v,0902,0.1,0.2,0.3,0.4,12,5\nv,0903\nv,0904,0.1,0.2,0.3,0.4,12\n")
    write_action_csv(tmp_path / "again.csv", read_action_csv(path), kind="ground_truth")
    assert (tmp_path / "again.csv").read_text() == path.read_text()
