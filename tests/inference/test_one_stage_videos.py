"""One-stage detection on videos of any size: boxes of the model, in fractions of the frame of the video."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from numbered_videos import Recipe, numbered_frame, write_numbered
from one_stage_models import LABELS, detector_config

from vmae_det.cli.main import main
from vmae_det.data import transforms
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.tube_csv import Tubes, write_tubes
from vmae_det.inference import ActionPredictor
from vmae_det.inference.export.exported_model import FoundPersons
from vmae_det.inference.scorers import EagerModel
from vmae_det.video.readers import open_video
from vmae_det.video.sampling import sample_keyframe_clip
from vmae_det.video.sources import LiveSource

LABEL_MAP = LabelMap(tuple(LABELS["ids"]), tuple(LABELS["names"]), tuple(LABELS["kinds"]))


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    """The config of a random detector with an attention head, whose clips have consecutive frames."""
    opts = ("INPUT.SAMPLING_RATE", 1, "MODEL.ROI_HEAD.NAME", "AttentionRoIHead")
    return detector_config(tmp_path_factory.mktemp("weights"), *opts)


def write_video(path, size, count, rate=4):
    return write_numbered(path, Recipe(count=count, size=size, rate=rate, options={"preset": "ultrafast"}))


def found_directly(model, cfg, reader, index):
    """Return the boxes in [0, 1] and the scores of the people that the model finds around a frame."""
    frames = reader.frames(sample_keyframe_clip(cfg.INPUT, index, len(reader)))
    clip = transforms.make_clip(frames, np.zeros((0, 4)))
    size = transforms.resized_size(
        *clip.size, cfg.INPUT.TEST_SHORT_SIDE, transforms.pixel_rounding(cfg.INPUT)
    )
    view = transforms.full_frame_transform(clip, cfg)
    size = torch.tensor(size[::-1], dtype=torch.float32)
    found = model({"video": transforms.to_video(view)[None], "size": [size]})
    return (found["boxes"][0] / size.repeat(2)).numpy(), found["scores"][0].numpy()


@pytest.mark.parametrize(
    "size", [(256, 144), (144, 256), (640, 480), (1920, 1080), (1080, 1920), (3840, 2160)]
)
def test_boxes_are_those_of_the_model(cfg, tmp_path, size):
    video = write_video(tmp_path / "video", size, count=6)
    detections = ActionPredictor(cfg, LABEL_MAP)(video, every=0.5)
    model, reader = EagerModel(cfg).model, open_video(video)
    with torch.inference_mode():
        expected = [found_directly(model, cfg, reader, index) for index in (0, 2, 4)]
    assert np.unique(detections.timestamp).tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(detections.boxes, np.concatenate([boxes for boxes, _ in expected]), atol=1e-5)
    scores = np.concatenate([scores for _, scores in expected])
    np.testing.assert_allclose(detections.scores, scores, atol=1e-4)
    boxes = detections.boxes
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert (boxes == 0).any(), "people cut by the border"
    assert (boxes[:, 2:] > 0.999).any()


def test_batches_of_four_keyframes(cfg, tmp_path):
    """They find what single keyframes find."""
    video = write_video(tmp_path / "video", (96, 64), count=9)
    predictor = ActionPredictor(cfg, LABEL_MAP)
    alone = predictor(video, every=0.5)
    predictor.cfg.TEST.BATCH_SIZE = 4
    together = predictor(video, every=0.5)
    np.testing.assert_array_equal(together.timestamp, alone.timestamp)
    np.testing.assert_allclose(together.boxes, alone.boxes, atol=1e-5)
    np.testing.assert_allclose(together.scores, alone.scores, atol=1e-4)


def test_nobody_in_a_video(cfg, tmp_path, capsys):
    """The files have no people, and there is one warning. `link` and `evaluate` accept the files."""
    video, out = write_video(tmp_path / "empty", (96, 64), count=8), tmp_path / "out"
    command = ["detect", str(video), "--weights", cfg.MODEL.WEIGHTS, "--output", str(out), "--html"]
    assert main([*command, "--opts", "MODEL.PERSON_HEAD.SCORE_THRESHOLD", "1.0"]) == 0
    warning = f"{video}: nobody found in 2 keyframes; lower MODEL.PERSON_HEAD.SCORE_THRESHOLD to find more"
    assert capsys.readouterr().out.count(warning) == 1
    assert (out / "empty.csv").read_text() == ""
    lines = [json.loads(line) for line in (out / "empty.jsonl").open()]
    assert [line["people"] for line in lines] == [[], []]
    assert (out / "empty_actions.mp4").stat().st_size
    assert "people found by the action detector" in (out / "empty.html").read_text()
    labels = tmp_path / "map.pbtxt"
    labels.write_text('item { name: "walk" id: 1 }')
    link = ["link", str(out / "empty.csv"), "--label-map", str(labels), "--output", str(tmp_path / "t.csv")]
    assert main(link) == 0
    tubes = Tubes(
        *(np.array([text], dtype=object) for text in ("empty", "walk")),
        *(np.ones(1), np.zeros(2, np.int64), np.arange(2), np.array([[0.1, 0.1, 0.5, 0.9]] * 2)),
    )
    write_tubes(tmp_path / "gt.csv", tubes, "ground_truth")
    evaluate = ["evaluate", "--ground-truth", str(tmp_path / "gt.csv"), "--tubes", str(tmp_path / "t.csv")]
    assert main([*evaluate, "--json", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["video_mAP"]["0.5"] == 0


def test_from_a_video_to_video_map(cfg, tmp_path, monkeypatch):
    """The model finds one person, who stands still for two seconds of three, and another one elsewhere.

    The boxes go through the pixels of the clip, the CSV and the tubes. One annotated tube of two is found.
    """
    video, out = write_video(tmp_path / "v", (192, 108), count=13), tmp_path / "out"
    person, other = np.array([0.25, 0.5, 0.5, 1.0]), np.array([0.6, 0.1, 0.9, 0.4])

    def find(self, batch):
        clips = [
            (torch.stack([torch.tensor(person), torch.tensor(other)]) * size.repeat(2)).float().numpy()
            for size in batch["size"]
        ]
        scores = np.array([[0.9, 0.1, 0.2], [0.05, 0.6, 0.1]], np.float32)
        return FoundPersons(clips, [np.ones(2, np.float32)] * len(clips), [scores] * len(clips))

    monkeypatch.setattr(EagerModel, "find", find)
    command = ["detect", str(video), "--weights", cfg.MODEL.WEIGHTS, "--output", str(out)]
    options = ["--every", "0.25", "--smooth", "0", "--format", "csv", "--precision", "fp32"]
    assert main([*command, *options]) == 0
    detected = read_action_csv(out / "v.csv", kind="detections")
    np.testing.assert_allclose(np.unique(detected.boxes, axis=0), [person, other], atol=1e-5)
    labels = tmp_path / "map.pbtxt"
    labels.write_text('item { name: "walk" id: 1 } item { name: "sit" id: 2 } item { name: "talk" id: 4 }')
    truth = [f"v,{second / 4},0.25,0.5,0.5,1.0,1,7\n" for second in range(13)]  # found in all frames
    truth += [f"v,{second / 4},0.6,0.1,0.9,0.4,2,8\n" for second in range(6)]  # the tube is twice as long
    truth += [f"v,{second / 4},0.0,0.0,0.2,0.2,4,9\n" for second in range(13)]  # nobody is found there
    (tmp_path / "gt.csv").write_text("".join(truth))
    for source, *more in ((out / "v.csv",), (tmp_path / "gt.csv", "--ground-truth")):
        output = tmp_path / f"tubes_{source.stem}.csv"
        link = ["link", str(source), "--label-map", str(labels), "--output", str(output)]
        assert main([*link, "--rate", "4", "--min-frames", "2", *more]) == 0
    evaluate = ["evaluate", "--ground-truth", str(tmp_path / "tubes_gt.csv")]
    evaluate += ["--tubes", str(tmp_path / "tubes_v.csv"), "--json", str(tmp_path / "r.json")]
    assert main([*evaluate, "--protocol", "ucf101-24", "--iou", "0.4", "0.5"]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    # walk: IoU 1. sit: 6 of 13 frames, IoU 0.46. talk: 0.
    assert result["video_mAP"]["0.4"] == pytest.approx(2 / 3)
    assert result["video_mAP"]["0.5"] == pytest.approx(1 / 3)


def test_a_frame_of_a_live_source_has_boxes_of_the_frame(cfg):
    """A stream of portrait frames gives boxes in fractions of them."""
    frames = [numbered_frame(number, 108, 192) for number in range(9)]
    source = LiveSource(iter(frames), Fraction(4))
    with ActionPredictor(cfg, LABEL_MAP).stream(source, every=0.5) as stream:
        boxes = np.concatenate([keyframe.boxes for keyframe in stream])
    assert len(boxes)
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
