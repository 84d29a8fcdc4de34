import gzip
import io
import json
import sys
import time
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


def test_both_forms_of_label_map_are_read_in_file_order(tmp_path):
    item = write(
        tmp_path / "item.pbtxt",
        'item {\n  name: "watch (a person)"\n  id: 80\n}',
        'item { name: "sit" id: 11 }',
    )
    assert LabelMap.from_file(item) == LabelMap((80, 11), ("watch (a person)", "sit"), ("", ""))
    label = 'label {\n  name: "sit"\n  label_id: 11\n  label_type: PERSON_MOVEMENT\n}'
    assert LabelMap.from_file(write(tmp_path / "label.pbtxt", "# comment", label)).kinds == (
        "PERSON_MOVEMENT",
    )


def test_a_list_of_ids_and_names_is_a_label_map(tmp_path):
    path = write(tmp_path / "list.txt", "# actions", "1: bend/bow", "", "3: 'sit: low'", "12 : run (a // b)")
    names = ("bend/bow", "sit: low", "run (a // b)")
    assert LabelMap.from_file(path) == LabelMap((1, 3, 12), names, ("",) * 3)
    for separator in ("\t", " ", ", ", ","):
        path = write(tmp_path / "list.txt", *(f"{i}{separator}{name}" for i, name in zip((1, 3, 12), names)))
        assert LabelMap.from_file(path).names == names
    with pytest.raises(DataError, match=":1: expected item"):  # a CSV of boxes is none
        LabelMap.from_file(write(tmp_path / "boxes.csv", "1,902,0.1,0.2,0.3,0.4,12"))


def test_single_quotes_comments_and_escapes_of_label_maps(tmp_path):
    text = r"""item { name: 'a // "b" # c' id: 1 } // the first
    item { name: "it's \"x\" caf\303\251 \xc3\xa9t\xc3\xa9\n\\ \q" id: 2 } # the second"""
    path = write(tmp_path / "map.pbtxt", text)
    names = ('a // "b" # c', 'it\'s "x" café été \\ \\q')
    assert LabelMap.from_file(path).names == names
    write_label_map(tmp_path / "again.pbtxt", LabelMap.from_file(path))
    assert LabelMap.from_file(tmp_path / "again.pbtxt").names == names


@pytest.mark.parametrize(
    "text",
    [
        "a{0}b",
        "item{0}x",
        "item{0}:{0}x",
        "item {{ name{0}id: 1 }}",
        "item {{ name:{0}",
        "1{0}2",
        "1:{0}",
        "{1}",
        "1{1}:",
        'item {{ name: "{2}',
        "item {{ name: {1}{0}x }}",
        'item {{ name: "{0} id: 1 }}',
        "{3}",
    ],
)
def test_no_label_map_takes_long_to_refuse(tmp_path, text):
    path = write(
        tmp_path / "map.pbtxt", text.format(" " * 200_000, "1" * 200_000, "\\" * 200_000, "a : {" * 40_000)
    )
    began = time.monotonic()
    with pytest.raises(DataError):
        LabelMap.from_file(path)
    assert time.monotonic() - began < 5


def test_columns_follow_the_label_map_and_mark_strangers():
    assert LABEL_MAP.columns(np.array([12, 1, 3, 2, -1, 0, 99, 10**9])).tolist() == [
        2,
        0,
        1,
        -1,
        -1,
        -1,
        -1,
        -1,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('item { name: "a" id: 1 }\nitem { name: "b" id: 1 }', r":2: duplicate id 1, first used in line 1"),
        ('item { name: "a" id: 1 }\nitem { name: "a" id: 2 }', r":2: duplicate name 'a'"),
        ('item {\n  name: "a"\n}', r":1: expected item .* got an entry without id"),
        ("item {\n  id: 1\n}", r":1: expected item .* got an entry without name"),
        ('item {\n  name: "a"\n  id: one\n}', r":1: id must be an integer of 1 or more, got 'one'"),
        ('item { name: "a" id: 0 }', r"id must be an integer from 1"),
        ('item { name: "a"\nitem { name: "b" id: 2 }', r":2: expected item"),
        ('item { name: "a"\n id: 1', r":1: expected a closing brace"),
        ("1-bend\n2-sit", r":1: expected item"),
        ("item { name: ' ' id: 1 }", r":1: the name is empty"),
        ("", r"expected entries item .*, got none"),
    ],
)
def test_bad_label_map_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        LabelMap.from_file(write(tmp_path / "map.pbtxt", text))


def test_rows_of_two_seven_and_eight_columns_and_any_form_of_time(tmp_path):
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


def test_names_that_are_not_utf8_or_ascii(tmp_path, monkeypatch):
    """Files get their bytes; a terminal of another encoding shows them escaped."""
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
def test_the_quick_and_the_careful_reader_agree(tmp_path, kind):
    value = "5" if kind == "ground_truth" else "0.5"
    lines = [f"v{i % 3},{900 + i},0.1,0.{i + 1},0.9,1.0,{(1, 3, 12)[i % 3]},{value}" for i in range(8)]
    lines += ["v9,1000"]
    quick = read_action_csv(write(tmp_path / "quick.csv", *lines), LABEL_MAP, kind)
    # A space that the quick reader does not know sends the whole file to the careful one.
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
def test_a_malformed_line_is_named(tmp_path, line, message):
    path = write(tmp_path / "gt.csv", GOOD, "", "vid,0903", line, GOOD)
    with pytest.raises(DataError, match=rf"gt\.csv:4: .*{message}"):
        read_action_csv(path, LABEL_MAP)


def test_detections_may_reach_beyond_the_frame_and_be_empty_but_their_scores_are_numbers(tmp_path):
    path = tmp_path / "d.csv"
    rows = read_action_csv(write(path, "v,1,-0.02,0.5,1.03,0.5,12,7.5"), LABEL_MAP, "detections")
    assert rows.boxes.tolist() == [[-0.02, 0.5, 1.03, 0.5]]
    for bad, message in (
        ("v,1,0,0,1,1,12,nan", "the score must be a finite"),
        ("v,1,0,0,1,1,12,", "the score must be"),
    ):
        with pytest.raises(DataError, match=rf":1: {message}"):
            read_action_csv(write(path, bad), LABEL_MAP, "detections")


def test_unknown_actions_are_dropped_or_name_their_keyframe_only(tmp_path):
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
def test_a_file_of_anything_else_is_refused(tmp_path, content, message):
    path = tmp_path / "junk.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_action_csv(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.csv: no such file"):
        read_action_csv(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_action_csv(tmp_path)


def test_windows_line_ends_and_byte_order_mark_are_read(tmp_path):
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


def test_what_is_written_is_what_is_read(tmp_path):
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
