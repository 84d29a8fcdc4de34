"""The interface of person detectors, and those of torchvision."""

import pickle
import sys
import urllib.error

import numpy as np
import pytest
import torch
from detector_configs import config, random_image

from vmae_det.inference.person_detectors import PERSON_DETECTOR_REGISTRY, build_person_detector
from vmae_det.inference.person_detectors.interface import PersonDetector
from vmae_det.utils.errors import ConfigError, WeightsError

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"


# ---------------------------------------------------------------- the interface


def test_filtering_of_detections():
    class Fixed(PersonDetector):
        def _detect(self, frames):
            boxes = torch.tensor([[0, 0, 4, 4], [-9, 2, 500, 9], [5, 5, 5, 9], [1, 1, 2, 2], [6, 6, 8, 8.0]])
            return [(boxes, torch.tensor([0.8, 0.9, 0.99, 0.1, 0.85])) for _ in frames]

    detector = Fixed(config(SMALL, "SCORE", 0.5, "MAX_PEOPLE", 2), torch.device("cpu"))
    ((boxes, scores),) = detector.detect([np.zeros((20, 30, 3), np.uint8)])
    assert boxes.tolist() == [[0, 2, 30, 9], [6, 6, 8, 8]], "clipped, by descending score, the best two"
    np.testing.assert_allclose(scores, [0.9, 0.85])
    assert (boxes.dtype, scores.dtype) == (np.float32, np.float32)
    assert detector.detect([]) == []


def test_unknown_detector():
    with pytest.raises(ConfigError, match=r"PERSON_DETECTOR.NAME: got 'fasterrcnn_resnet50_fpn_v3'.*did you"):
        build_person_detector(config("fasterrcnn_resnet50_fpn_v3"))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("SCORE", 1.5), "PERSON_DETECTOR.SCORE"),
        (("MAX_PEOPLE", 0), "PERSON_DETECTOR.MAX_PEOPLE"),
        (("ONNX_LAYOUT", "yolov9"), "PERSON_DETECTOR.ONNX_LAYOUT.*did you mean"),
        (("WEIGHTS", "yolo.onnx"), "PERSON_DETECTOR.NAME: must be onnx for yolo.onnx"),
    ],
)
def test_invalid_configs(opts, message):
    with pytest.raises(ConfigError, match=message):
        config(SMALL, *opts)


def test_custom_detector():
    name = "test_only_nobody"

    @PERSON_DETECTOR_REGISTRY.register_as(name)
    class Nobody(PersonDetector):
        def _detect(self, frames):
            return [(torch.zeros(0, 4), torch.zeros(0)) for _ in frames]

    ((boxes, _),) = build_person_detector(config(name)).detect([random_image()])
    assert boxes.shape == (0, 4)


# ---------------------------------------------------------------- torchvision


@pytest.mark.parametrize("name", [SMALL, "retinanet_resnet50_fpn_v2"])
def test_random_weights(name):
    cfg = config(name, "WEIGHTS", "random", "SCORE", 0.0, "MAX_PEOPLE", 7, "SHORT_SIDE", 64)
    frames = [random_image(), random_image()]
    first, second = build_person_detector(cfg).detect(frames)
    assert first[0].shape == (7, 4)
    np.testing.assert_allclose(first[0], second[0], atol=1e-3)
    again = build_person_detector(cfg).detect(frames)
    np.testing.assert_array_equal(first[0], again[0][0], err_msg="the seed determines the weights")
    strict = config(name, "WEIGHTS", "random", "SCORE", 0.99, "SHORT_SIDE", 64)
    ((boxes, scores),) = build_person_detector(strict).detect(frames[:1])
    assert (boxes.shape, scores.shape) == ((0, 4), (0,))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(tmp_path, suffix):
    from safetensors.torch import save_file

    options = ("SCORE", 0.0, "SHORT_SIDE", 64)
    written = build_person_detector(config(SMALL, "WEIGHTS", "random", *options))
    state, path = written.model.state_dict(), tmp_path / f"people{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"model": state}, path)
    read = build_person_detector(config(SMALL, "WEIGHTS", str(path), *options, "MAX_PEOPLE", 30))
    (expected,), (actual,) = written.detect([random_image()]), read.detect([random_image()])
    np.testing.assert_array_equal(expected[0], actual[0])


def test_weights_that_do_not_fit(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=rf"other.pth: expected weights of torchvision's {SMALL}"):
        build_person_detector(config(SMALL, "WEIGHTS", str(path)))
    torch.save({"roi_heads.box_predictor.cls_score.bias": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"other.pth: does not fit the person detector: Missing key"):
        build_person_detector(config(SMALL, "WEIGHTS", str(path)))
    path.write_bytes(pickle.dumps(sys.exit))
    with pytest.raises(WeightsError, match=r"refused|damaged"):
        build_person_detector(config(SMALL, "WEIGHTS", str(path)))


def test_download_error_lists_alternatives(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    with pytest.raises(WeightsError) as error:
        build_person_detector(config("fasterrcnn_resnet50_fpn_v2"))
    text = str(error.value)
    for part in ("Name or service", "https://", "--boxes FILE", "PERSON_DETECTOR.WEIGHTS", "--whole-frame"):
        assert part in text
