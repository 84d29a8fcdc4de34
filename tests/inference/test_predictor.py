"""`ActionPredictor`, and `vmae-det detect` with person boxes from a file."""

import json

import av
import numpy as np
import pytest
from conftest import SHARED

from vmae_det.checkpoint import save_weights
from vmae_det.cli.main import main
from vmae_det.formats.ava_csv import LabelMap, read_action_csv
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.inference import ActionPredictor
from vmae_det.inference.predictor import read_config
from vmae_det.inference.tracking import link
from vmae_det.modeling import build_model
from vmae_det.utils.errors import ConfigError, DataError, WeightsError


@pytest.fixture
def weights(tiny_cfg, mini_ava, tmp_path):
    """A checkpoint of an untrained detector, as training writes it."""
    cfg = tiny_cfg("detect")
    names = LabelMap.from_file(mini_ava / "annotations" / "mini_ava_actions.pbtxt")
    label_map = {"ids": list(names.ids), "names": list(names.names), "kinds": list(names.kinds)}
    return save_weights(build_model(cfg).state_dict(), cfg.dump(), tmp_path / "model.pt", label_map)


@pytest.fixture
def video(mini_ava):
    return sorted((mini_ava / "videos").glob("*.mp4"))[0]


@pytest.fixture
def boxes(video, tmp_path):
    path = tmp_path / "boxes.csv"
    lines = [f"{video.stem},{second},0.1,0.2,0.4,0.9,0.95" for second in (902, 903, 904)]
    path.write_text(
        "\n".join([*lines, f"{video.stem},903,0.6,0.2,0.8,0.9,0.9", "other,902,0.1,0.1,0.2,0.2,0.9"])
    )
    return path


def test_predictor(weights, video, boxes):
    predictor = ActionPredictor(read_config(weights))
    detections = predictor(video, read_person_boxes(boxes), video_start=900)
    assert detections.timestamp.tolist() == [902, 903, 903, 904]
    assert detections.scores.shape == (4, 11)
    assert ((detections.scores > 0) & (detections.scores < 1)).all()
    # The scores of a keyframe do not depend on the other keyframes.
    alone = read_person_boxes(boxes)
    alone = alone.select(alone.timestamp == 904)
    np.testing.assert_allclose(predictor(video, alone, 900).scores[0], detections.scores[3], rtol=1e-4)


def test_detect_writes_csv_jsonl_and_overlay(weights, video, boxes, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["detect", str(video), "--boxes", str(boxes), "--weights", str(weights), "--output", str(out)]
    assert main([*command, "--video-start", "900"]) == 0
    assert capsys.readouterr().out.split()[-3:] == [
        str(out / (video.stem + end)) for end in (".csv", ".jsonl", "_actions.mp4")
    ]
    rows = read_action_csv(out / f"{video.stem}.csv", kind="detections")
    assert len(rows) == 4 * 11
    lines = (out / f"{video.stem}.jsonl").read_text().splitlines()
    assert len(lines) == 3
    found = json.loads(lines[0])
    assert found["people"][0]["box"] == [0.1, 0.2, 0.4, 0.9]
    scores = [action["score"] for action in found["people"][0]["actions"]]
    assert scores == sorted(scores, reverse=True)
    with av.open(str(video)) as source, av.open(str(out / f"{video.stem}_actions.mp4")) as drawn:
        before, after = source.streams.video[0], drawn.streams.video[0]
        assert (after.width, after.height, after.average_rate) == (
            before.width,
            before.height,
            before.average_rate,
        )
        assert sum(1 for _ in drawn.decode(after)) == sum(1 for _ in source.decode(before))


def test_whole_frame_as_one_person_per_second(weights, video, tmp_path):
    command = ["detect", str(video), "--whole-frame", "--weights", str(weights), "--output", str(tmp_path)]
    assert main([*command, "--video-start", "900"]) == 0
    lines = [json.loads(line) for line in (tmp_path / f"{video.stem}.jsonl").open()]
    assert [(line["timestamp"], [person["box"] for person in line["people"]]) for line in lines] == [
        (900.0 + second, [[0, 0, 1, 1]]) for second in range(10)
    ]


def test_boxes_of_another_video_or_time(weights, video, boxes, tmp_path):
    predictor = ActionPredictor(read_config(weights))
    persons = read_person_boxes(boxes)
    with pytest.raises(DataError, match="is outside the video"):
        predictor(video, persons)
    other = tmp_path / "unknown.mp4"
    other.write_bytes(video.read_bytes())
    with pytest.raises(
        DataError,
        match=f"no person boxes for the video 'unknown'; the file has boxes for: {video.stem}, other",
    ):
        predictor(other, persons)
    cfg = read_config(weights)
    cfg.TEST.PERSON_BOX_SCORE = 0.99
    with pytest.raises(ConfigError, match=r"TEST\.PERSON_BOX_SCORE"):
        ActionPredictor(cfg)(video, persons, 900)


def test_weights_that_cannot_detect(tiny_cfg, tmp_path):
    cfg = tiny_cfg("pretrain")
    path = save_weights(build_model(cfg).state_dict(), cfg.dump(), tmp_path / "pre.pt")
    with pytest.raises(ConfigError, match="needs an ActionDetector, got MaskedAutoencoder"):
        ActionPredictor(read_config(path))
    cfg = tiny_cfg("detect")
    path = save_weights(build_model(cfg).state_dict(), cfg.dump(), tmp_path / "nolabels.pt")
    with pytest.raises(WeightsError, match="contains no label map"):
        ActionPredictor(read_config(path))


def test_real_video(weights, tmp_path):
    demo = SHARED / "video" / "demo.mp4"
    if not demo.exists():
        pytest.skip("needs the real clips in ../shared/video")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("".join(f"demo,{second},0.1,0.1,0.6,0.95,1.0\n" for second in (2, 3, 4)))
    command = [
        "detect",
        str(demo),
        "--boxes",
        str(boxes),
        "--weights",
        str(weights),
        "--output",
        str(tmp_path),
    ]
    assert main([*command, "--threshold", "0.1"]) == 0
    with av.open(str(tmp_path / "demo_actions.mp4")) as drawn:
        assert sum(1 for _ in drawn.decode(video=0)) == 280


def test_boxes_are_linked_by_overlap():
    times = np.array([1.0, 1.0, 2.0, 2.0, 3.0])
    boxes = np.array(
        [[0, 0, 10, 10], [20, 0, 30, 10], [21, 0, 31, 10], [1, 0, 11, 10], [50, 50, 60, 60]], dtype=float
    )
    assert link(times, boxes).tolist() == [1, 2, 2, 1, 3]
