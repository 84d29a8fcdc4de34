"""`ActionDetections` from the rows of a CSV."""

import numpy as np
import pytest

from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.detections import ActionDetections
from vmae_det.utils.errors import DataError

LABEL_MAP = LabelMap((2, 5), ("sit", "wave"), ("", ""))
LINES = """\
other,0902,0.1,0.1,0.2,0.2,2,0.9
clip,0903,0.5,0.1,0.9,0.9,5,0.25
clip,0902,0.5,0.1,0.9,0.9,5,0.5
clip,0902,0.5,0.1,0.9,0.9,2,0.75
clip,0902,0.1,0.1,0.4,0.9,2,0.125
clip,0902,0.1,0.1,0.4,0.9,2,0.0625
clip,0904
"""


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "detections.csv"
    path.write_text(LINES)
    return read_action_csv(path, LABEL_MAP, kind="detections")


def test_rows_with_the_same_box_are_one_person(rows):
    detections = ActionDetections.from_rows(rows, "videos/clip.mp4", LABEL_MAP, 900.0)
    assert detections.timestamp.tolist() == [902, 902, 903]
    assert detections.boxes[:, 0].tolist() == [0.1, 0.5, 0.5]
    np.testing.assert_array_equal(detections.scores, [[0.125, 0], [0.75, 0.5], [0, 0.25]])
    assert (str(detections.video), detections.video_start) == ("videos/clip.mp4", 900)
    assert np.isnan(detections.person_scores).all()


def test_rows_without_the_video(rows):
    with pytest.raises(DataError, match="no detections for the video 'film'; the file has: clip, other"):
        ActionDetections.from_rows(rows, "film.mp4", LABEL_MAP)
