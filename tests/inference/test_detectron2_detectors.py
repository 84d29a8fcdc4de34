"""detectron2 is built from source and not at hand everywhere: a stub with what is used of it stands in."""

import pickle
import sys
import types

import numpy as np
import pytest
import torch
from detector_configs import config, picture
from fvcore.common.config import CfgNode

from vmae_det.inference.person_detectors import build_person_detector
from vmae_det.utils.errors import ConfigError, DataError, WeightsError


class Instances:
    def __init__(self, boxes, scores, classes):
        self.pred_boxes, self.scores = types.SimpleNamespace(tensor=boxes), scores
        self.pred_classes = classes

    def __getitem__(self, rows):
        return Instances(self.pred_boxes.tensor[rows], self.scores[rows], self.pred_classes[rows])


class StubNetwork(torch.nn.Module):
    """Finds one person and one other thing; how sure it is says its weight."""

    def __init__(self):
        super().__init__()
        self.sure = torch.nn.Parameter(torch.tensor(0.0))
        self.register_buffer("anchors", torch.zeros(2))
        self.given = []

    def forward(self, inputs):
        self.given = inputs
        boxes = torch.tensor([[1, 2, 30, 40], [5, 5, 9, 9.0]])
        scores = torch.stack([self.sure.detach(), torch.tensor(0.99)])
        return [{"instances": Instances(boxes, scores, torch.tensor([0, 5]))} for _ in inputs]


@pytest.fixture
def detectron2(monkeypatch, tmp_path):
    """A stand-in for detectron2, with what is used of it; its weights lie in a file."""
    network = StubNetwork()
    url = tmp_path / "model_final.pkl"
    url.write_bytes(pickle.dumps({"model": {"sure": np.float32([0.95]).reshape(())}, "__author__": "zoo"}))

    def get_config(name):
        if "unknown" in name:
            raise RuntimeError(f"{name} not available in Model Zoo!")
        return CfgNode(
            {
                "MODEL": {
                    "DEVICE": "cuda",
                    "ROI_HEADS": {"SCORE_THRESH_TEST": 0.05, "NMS_THRESH_TEST": 0.5},
                    "RETINANET": {"SCORE_THRESH_TEST": 0.05, "NMS_THRESH_TEST": 0.5},
                },
                "INPUT": {"MIN_SIZE_TEST": 800, "MAX_SIZE_TEST": 1333, "FORMAT": "BGR"},
                "TEST": {"DETECTIONS_PER_IMAGE": 100},
            }
        )

    class ResizeShortestEdge:
        def __init__(self, sides, longest):
            self.side = sides[0]

        def get_transform(self, picture):
            return types.SimpleNamespace(apply_image=lambda p: np.resize(p, (self.side, self.side, 3)))

    zoo = types.SimpleNamespace(get_config=get_config, get_checkpoint_url=lambda name: str(url))
    package = types.ModuleType("detectron2")
    package.model_zoo = zoo
    data, modeling = types.ModuleType("detectron2.data"), types.ModuleType("detectron2.modeling")
    data.transforms = types.SimpleNamespace(ResizeShortestEdge=ResizeShortestEdge)
    modeling.build_model = lambda cfg: network
    for module in (package, data, modeling):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "detectron2.model_zoo", zoo)
    return types.SimpleNamespace(network=network, weights=url)


def test_detectron2_where_it_is_installed(detectron2):
    detector = build_person_detector(config("detectron2", "SHORT_SIDE", 32))
    frame = picture(50, 60)
    frame[..., 0] = 7
    ((boxes, scores), _) = detector.detect([frame, frame])
    assert boxes.tolist() == [[1, 2, 30, 40]], "people alone"
    assert scores.tolist() == pytest.approx([0.95]), "with the zoo's weights"
    given = detectron2.network.given[1]
    assert (given["height"], given["width"], tuple(given["image"].shape)) == (50, 60, (3, 32, 32))
    assert (given["image"][2] == 7).all(), "BGR, as the zoo's networks expect"


def test_detectron2_weights(detectron2, tmp_path):
    own = tmp_path / "own.pth"
    torch.save({"model": {"sure": torch.tensor(0.9)}}, own)
    detector = build_person_detector(config("detectron2", "WEIGHTS", str(own)))
    assert detector.detect([picture()])[0][1].tolist() == pytest.approx([0.9])
    torch.save({"model": {"other": torch.tensor(0.9)}}, own)
    with pytest.raises(WeightsError, match=r"own.pth: lacks 1 parameters of the person detector"):
        build_person_detector(config("detectron2", "WEIGHTS", str(own)))
    detectron2.weights.write_bytes(pickle.dumps(sys.exit))
    with pytest.raises(DataError, match=r"model_final.pkl: is not a pickle of weights: wants to run"):
        build_person_detector(config("detectron2"))
    for name in ("COCO-Detection/unknown.yaml", "LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"):
        with pytest.raises(ConfigError, match=r"PERSON_DETECTOR.CONFIG"):
            build_person_detector(config("detectron2", "CONFIG", name))


def test_detectron2_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    with pytest.raises(ConfigError, match=r"detectron2 is not installed here.*or choose fasterrcnn"):
        build_person_detector(config("detectron2"))
