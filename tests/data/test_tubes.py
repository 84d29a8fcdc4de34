import gzip

import numpy as np
import pytest

from vmae_det.data.tubes import read_tubes
from vmae_det.utils.errors import DataError

HEADER = "video_id,tube_id,label,score,frame,x1,y1,x2,y2"
GOOD = "v/1,a,jump,0.5,7,1,2,30,40"


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_rows_come_by_tube_and_frame(tmp_path):
    lines = [
        "w,a,run,0.1,3,0,0,1,1",
        "v,b,jump,0.2,2,0,0,2,2",
        "v,b,jump,0.3,1,0,0,3,3",
        "v,a,run,0.4,9,0,0,4,4",
    ]
    # The same tube id with another label is another tube.
    lines.append("v,a,jump,0.5,9,0,0,5,5")
    rows = read_tubes(write(tmp_path / "t.csv", HEADER, *lines), "detections")
    assert rows.score.tolist() == [0.5, 0.4, 0.3, 0.2, 0.1]
    assert rows.tube.tolist() == [0, 1, 2, 2, 3]
    assert rows.frame.tolist() == [9, 9, 1, 2, 3]
    assert rows.boxes[:, 2].tolist() == [5, 4, 3, 2, 1]
    assert rows.videos[rows.video].tolist() == ["v", "v", "v", "v", "w"]
    assert rows.labels[rows.label].tolist() == ["jump", "run", "jump", "jump", "run"]


def test_ground_truth_may_leave_the_score_out_and_columns_may_stand_anywhere(tmp_path):
    expected = read_tubes(write(tmp_path / "t.csv", HEADER, GOOD))
    assert expected.score.tolist() == [1]
    variants = [
        (HEADER, "v/1,a,jump,,7,1,2,30,40"),
        ("video_id,tube_id,label,frame,x1,y1,x2,y2", "v/1,a,jump,7,1,2,30,40"),
        ("frame,label,x2,y2,x1,y1,tube_id,video_id", "7,jump,30,40,1,2,a,v/1"),
        ("frame,label,x2,y2,x1,y1,tube_id,video_id", "7, jump ,30,40,1,2,a,v/1"),
        ("", HEADER, "", GOOD, ",,,,,,,,"),
    ]
    for lines in variants:
        again = read_tubes(write(tmp_path / "t.csv", *lines))
        for name, values in vars(expected).items():
            np.testing.assert_array_equal(getattr(again, name), values)
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(f"{HEADER}\n{GOOD}\n".encode()))
    assert read_tubes(packed, "detections").score.tolist() == [0.5]


def test_a_detected_box_may_be_empty_and_of_any_unit(tmp_path):
    rows = read_tubes(write(tmp_path / "t.csv", HEADER, "v,a,jump,-3,0,-5,2,-5,1e4"), "detections")
    assert rows.boxes.tolist() == [[-5, 2, -5, 10000]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("v/1,a,jump,0.5,7,1,2,30,40", "frame 7 of tube 'a' comes twice, first in line 2"),
        ("v,a,jump,0.5,8,1,2,30", "expected 9 columns, as in the header, got 8"),
        ("v,a,jump,0.5,8,1,2,30,40,50", "expected 9 columns, as in the header, got 10"),
        ("v,a,jump,0.5,1.5,1,2,30,40", "the frame must be a whole number, got '1.5'"),
        ("v,a,jump,0.5,-1,1,2,30,40", "frames are numbered from 0 to 1000000000, got -1"),
        ("v,a,jump,,8,1,2,30,40", "the score must be a number, got ''"),
        ("v,a,jump,nan,8,1,2,30,40", "the score must be a finite number"),
        ("v,a,jump,0.5,8,30,2,1,40", "x1 must be smaller than x2, got x1=30, x2=1"),
        ("v,a,jump,0.5,8,1,2,inf,40", "x2 must be a finite number"),
        (",a,jump,0.5,8,1,2,30,40", "the video_id must be plain text"),
        ("v,,jump,0.5,8,1,2,30,40", "the tube_id must be plain text"),
        ('v,a,"jump",0.5,8,1,2,30,40', "the label must be plain text without quotes"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    path = write(tmp_path / "t.csv", HEADER, GOOD, line, "v,z,jump,0.5,7,1,2,30,40")
    with pytest.raises(DataError, match=rf"t\.csv:3: {message}"):
        read_tubes(path, "detections")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "t.csv: holds no rows"),
        ([HEADER], "t.csv: holds no rows after its header"),
        ([GOOD], "t.csv:1: expected a header line with video_id,tube_id,label,score,frame"),
        ([HEADER + ",y2", GOOD + ",1"], "t.csv:1: expected a header line"),
        ([HEADER.replace("label", "class"), GOOD], "t.csv:1: expected a header line"),
        ([HEADER.replace("score,", ""), "v,a,jump,1,0,0,1,1"], "t.csv:1: expected a header line"),
    ],
)
def test_a_file_that_is_no_file_of_detected_tubes_is_refused(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        read_tubes(write(tmp_path / "t.csv", *lines), "detections")


def test_true_boxes_have_an_area(tmp_path):
    path = write(tmp_path / "t.csv", HEADER, "v,a,jump,,8,1,2,1,40")
    with pytest.raises(DataError, match=r"t\.csv:2: x1 must be smaller than x2"):
        read_tubes(path)
