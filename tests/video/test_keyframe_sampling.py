"""Which frame is a keyframe, and the table of docs/guides/data.md that compares it with SlowFast."""

import logging
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vmae_det.data.catalog import get_dataset
from vmae_det.data.loader import build_dataset
from vmae_det.dataset_tools.check import check_dataset
from vmae_det.video.readers import VideoReader
from vmae_det.video.sampling import describe_keyframe, slowfast_frame

CUT = 900


class ConstantRateVideo(VideoReader):
    """A cut of 901 seconds with a constant frame rate, whose first frame is at second 900."""

    path = Path("constant_rate.mp4")

    def __init__(self, rate):
        self.rate = rate
        self.times = np.arange(int(901 * rate)) / float(rate)

    def _read(self, wanted):
        raise AssertionError


def row_of_table(rate, second):
    """A row of the table, computed as in training."""
    video, seconds = ConstantRateVideo(rate), second - CUT
    nearest, slowfast = video.index_at(seconds), slowfast_frame(second)
    offset = (video.times[nearest] - seconds) * 1000
    difference = slowfast / float(rate) - seconds
    end = "" if slowfast < len(video) else ", past the end"
    ours = f"{nearest} | {offset:+.1f} ms"
    return f"| {float(rate):.5g} | {second} | {ours} | {slowfast} | {difference:+.3f} s{end} |"


@pytest.mark.parametrize("second", [902, 1798])
@pytest.mark.parametrize("rate", [Fraction(30), Fraction(25), Fraction(30000, 1001)])
def test_table_in_the_documentation(rate, second):
    documents = (Path(__file__).parents[2] / "docs/guides/data.md").read_text(encoding="utf-8")
    assert row_of_table(rate, second) in documents


def test_description():
    text = describe_keyframe("a", 902, 900)
    assert "second 902 of a is the frame nearest to 2.000 s of its file (video_start 900)" in text
    assert "SlowFast uses (902 - 900) x 30 = frame 60 from the first" in text
    assert "frame 54 from the first at 27 frames per second" in describe_keyframe("a", 902, 900, 27)
    assert "SlowFast" not in describe_keyframe("a", 2, 0)


@pytest.mark.parametrize("training", [True, False])
def test_training_and_testing_log_it_once(tiny_cfg, mini_ava, caplog, training):
    file = mini_ava / ("train.yaml" if training else "val.yaml")
    with caplog.at_level(logging.INFO, "vmae_det"):
        dataset = build_dataset(tiny_cfg("detect"), "detection", str(file), training)
        for index in range(2):
            dataset[0, index]
    (message,) = [record.getMessage() for record in caplog.records if "keyframe" in record.getMessage()]
    second = f"{dataset.keyframes.timestamp[0]:g}"
    assert message.startswith(f"{file}: the keyframe at second {second} of ")
    assert "(video_start 900)" in message


def test_check_data_prints_it(mini_ava, monkeypatch):
    from vmae_det.video.probe import probe_video

    monkeypatch.setattr(
        "vmae_det.dataset_tools.check.context.probe_videos",
        lambda paths, decode, workers: {path: probe_video(str(path), decode) for path in set(paths)},
    )
    report = check_dataset(get_dataset(str(mini_ava / "train.yaml")), decode="none")
    assert "from the first at 12 frames per second; SlowFast uses" in report.as_text()
    assert report.to_json()["keyframes"] == report.keyframes
