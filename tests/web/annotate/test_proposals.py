"""Proposals of a person detector and of action detectors; tiny networks."""

import os
import sys
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest

from vmae_det.checkpoint import save_weights
from vmae_det.config import get_cfg
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.inference.predictor import ActionPredictor, read_config
from vmae_det.modeling import build_model
from vmae_det.utils.errors import UserError
from vmae_det.web.annotate.proposal_files import ProposalFiles
from vmae_det.web.annotate.proposals import ActionDetections, PersonDetections, Proposal, Proposer
from vmae_det.web.annotate.queues import uncertainty

sys.path.append(str(Path(__file__).parents[2] / "inference"))

KEYFRAMES = [900_000, 901_000, 903_000]


@pytest.fixture
def video(mini_ava):
    return sorted((mini_ava / "videos").glob("*.mp4"))[0]


def collect(detector, video, keyframes=KEYFRAMES):
    progress, found = [], []
    for fraction, proposals in detector(video.stem, video, 900.0, keyframes):
        progress.append(fraction)
        found += proposals
    assert progress == sorted(progress)
    assert progress[-1] == 1
    return found


def test_a_person_detector_proposes_boxes_and_tracks(video, tmp_path):
    pytest.importorskip("onnx", reason="requires onnx to create a detector")
    pytest.importorskip("onnxruntime", reason="requires onnxruntime to run a detector")
    from onnx_detectors import write_bright_detector

    cfg = get_cfg()
    path = write_bright_detector(tmp_path / "net.onnx", "yolov8", "batch")
    names = ("NAME", "onnx", "WEIGHTS", str(path), "SCORE", "0.4")
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", *(n if i % 2 else f"PERSON_DETECTOR.{n}" for i, n in enumerate(names))]
    )
    found = collect(PersonDetections(cfg), video)
    assert {one.time for one in found} <= set(KEYFRAMES)
    for time in {one.time for one in found}:
        tracks = [one.track for one in found if one.time == time]
        assert len(set(tracks)) == len(tracks)
    for one in found:
        assert 0 <= one.box[0] < one.box[2] <= 1
        assert one.score >= 0.4
        assert one.actions == ()


def test_an_action_detector_scores_the_boxes_of_the_dataset(tiny_cfg, mini_ava, video, tmp_path):
    cfg = tiny_cfg("detect")
    own = LabelMap.from_file(mini_ava / "annotations" / "mini_ava_actions.pbtxt")
    label_map = {"ids": list(own.ids), "names": list(own.names), "kinds": list(own.kinds)}
    weights = save_weights(build_model(cfg).state_dict(), cfg.dump(), tmp_path / "model.pt", label_map)
    (tmp_path / "boxes.csv").write_text(
        "".join(f"{video.stem},{second},0.1,0.2,0.4,0.9,0.95\n" for second in (900, 901, 902))
    )
    boxes = read_person_boxes(tmp_path / "boxes.csv")
    # The dataset knows two of the actions, with other ids.
    dataset = LabelMap((70, 80, 90), (own.names[3], own.names[0], "unknown"), ("", "", ""))
    found = collect(ActionDetections(read_config(weights), dataset, boxes), video)
    assert [one.time for one in found] == [900_000, 901_000]
    assert {one.track for one in found} == {1}
    expected = ActionPredictor(read_config(weights))(video, boxes, video_start=900.0).scores[:2][:, [3, 0]]
    for one, scores in zip(found, expected):
        assert dict(one.actions) == pytest.approx(dict(zip((70, 80), scores.tolist())), abs=1e-5)
        assert [score for _, score in one.actions] == sorted(
            (score for _, score in one.actions), reverse=True
        )
        assert one.uncertainty == pytest.approx(uncertainty(scores), abs=1e-4)
    with pytest.raises(UserError, match=r"none of its actions, such as .*, is in the label map"):
        ActionDetections(read_config(weights), LabelMap((1,), ("unknown",), ("",)))


def test_a_one_stage_detector_finds_the_people_itself(video, tmp_path):
    from one_stage_models import detector_config

    cfg = detector_config(tmp_path)
    found = collect(ActionDetections(cfg, LabelMap((5, 6), ("sit", "talk"), ("", ""))), video)
    assert found
    assert {one.time for one in found} <= set(KEYFRAMES)
    assert {number for one in found for number, _ in one.actions} <= {5, 6}


def test_uncertainty_is_greatest_at_one_half():
    assert uncertainty(np.array([0.5, 0.5])) == pytest.approx(2 * np.log(2))
    assert uncertainty(np.array([1.0, 0.0])) < 1e-4
    assert uncertainty(np.array([0.9, 0.1])) < uncertainty(np.array([0.9, 0.4]))


class Twice:
    """Finds a person at two keyframes of each video."""

    name = "twice"

    def __call__(self, video, path, start, keyframes):
        found = [
            Proposal(second * 1000, 1, (0.1, 0.2, 1 / 3, 0.9), 0.9, ((4, 0.25), (2, 0.125)), 0.7)
            for second in range(2)
        ]
        yield 1.0, found


def unexpected():
    raise AssertionError("the detector is built again")


def test_proposals_survive_a_restart_until_something_changes(tmp_path):
    videos = {name: tmp_path / f"{name}.mp4" for name in ("a/b", "c")}
    videos["a/b"] = tmp_path / "b.mp4"
    for path in videos.values():
        path.write_bytes(b"frames")

    def files(detector="settings"):
        return ProposalFiles(tmp_path / "kept", detector, {**videos, "missing": None})

    proposer = Proposer(Twice, "twice", files=files())
    assert proposer.of("c").state == "none"
    for video, path in videos.items():
        proposer.start(video, path, 0.0, [0, 1000])
        end = monotonic() + 10
        while proposer.of(video).state == "running":
            assert monotonic() < end
            sleep(0.01)
    expected = proposer.of("c").proposals
    assert len(expected) == 2

    again = Proposer(unexpected, "twice", files=files())
    assert len(again.uncertainties()) == 4  # also of videos that nobody has opened
    assert (again.of("c").state, again.of("c").proposals) == ("ready", expected)
    assert Proposer(unexpected, files=files()).of("a/b").proposals == expected
    assert Proposer(unexpected, files=files("other weights")).of("c").state == "none"
    assert Proposer(unexpected, files=files("other weights")).uncertainties() == {}

    os.utime(videos["c"], ns=(1, 1))  # another video of the same name
    assert Proposer(unexpected, files=files()).of("c").state == "none"
    for path in (tmp_path / "kept").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert Proposer(unexpected, files=files()).of("a/b").state == "none"
