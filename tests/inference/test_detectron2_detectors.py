"""Person detectors of detectron2, which must be built from source: the tests use a stub of its API."""

import pickle
import sys
import types

import numpy as np
import pytest
import torch
from detector_configs import config, random_image
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
    """Detects objects of class 0 and 5; the score of the first is its weight."""

    def __init__(self):
        super().__init__()
        self.sure = torch.nn.Parameter(torch.tensor(0.0))
        self.register_buffer("anchors", torch.zeros(2))
        self.inputs = []

    def forward(self, inputs):
        self.inputs = inputs
        boxes = torch.tensor([[1, 2, 30, 40], [5, 5, 9, 9.0]])
        scores = torch.stack([self.sure.detach(), torch.tensor(0.99)])
        return [{"instances": Instances(boxes, scores, torch.tensor([0, 5]))} for _ in inputs]


@pytest.fixture
def detectron2(monkeypatch, tmp_path):
    """A stub of the parts of detectron2 that are used, with weights in a file."""
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
                    "META_ARCHITECTURE": "GeneralizedRCNN",
                    "ROI_HEADS": {"SCORE_THRESH_TEST": 0.05, "NMS_THRESH_TEST": 0.5, "NUM_CLASSES": 80},
                    "RETINANET": {"SCORE_THRESH_TEST": 0.05, "NMS_THRESH_TEST": 0.5, "NUM_CLASSES": 80},
                },
                "DATASETS": {"TRAIN": (), "TEST": ()},
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
    names = {}
    data.MetadataCatalog = types.SimpleNamespace(
        list=lambda: list(names), get=lambda name: {"thing_classes": names[name]}
    )
    config_module = types.ModuleType("detectron2.config")
    config_module.get_cfg = lambda: get_config("")
    for module in (package, data, modeling, config_module):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "detectron2.model_zoo", zoo)
    return types.SimpleNamespace(network=network, weights=url, names=names)


def test_detectron2_is_installed(detectron2):
    detector = build_person_detector(config("detectron2", "SHORT_SIDE", 32))
    frame = random_image(50, 60)
    frame[..., 0] = 7
    ((boxes, scores), _) = detector.detect([frame, frame])
    assert boxes.tolist() == [[1, 2, 30, 40]], "only persons"
    assert scores.tolist() == pytest.approx([0.95]), "with the weights of the zoo"
    given = detectron2.network.inputs[1]
    assert (given["height"], given["width"], tuple(given["image"].shape)) == (50, 60, (3, 32, 32))
    assert (given["image"][2] == 7).all(), "BGR, as the networks of the zoo expect"


def test_detectron2_weights(detectron2, tmp_path):
    path = tmp_path / "custom.pth"
    torch.save({"model": {"sure": torch.tensor(0.9)}}, path)
    detector = build_person_detector(config("detectron2", "WEIGHTS", str(path)))
    assert detector.detect([random_image()])[0][1].tolist() == pytest.approx([0.9])
    torch.save({"model": {"other": torch.tensor(0.9)}}, path)
    with pytest.raises(WeightsError, match=r"custom.pth: 1 parameters of the person detector are missing"):
        build_person_detector(config("detectron2", "WEIGHTS", str(path)))
    detectron2.weights.write_bytes(pickle.dumps(sys.exit))
    with pytest.raises(
        DataError,
        match=r"model_final.pkl: not a pickle of weights: expected plain data and numpy arrays, got a refer",
    ):
        build_person_detector(config("detectron2"))
    for name in ("COCO-Detection/unknown.yaml", "LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"):
        with pytest.raises(ConfigError, match=r"PERSON_DETECTOR.CONFIG"):
            build_person_detector(config("detectron2", "CONFIG", name))


def test_weights_of_a_deeper_network_are_refused(detectron2, tmp_path):
    """The weights of a ResNet-101 contain all parameters of a ResNet-50."""
    path = tmp_path / "custom.pth"
    network = detectron2.network
    network.backbone = torch.nn.ModuleDict({"bottom_up": torch.nn.ModuleList([torch.nn.Linear(2, 2)])})
    weights = network.state_dict()
    torch.save({"model": weights | {"roi_heads.mask_head.fc.weight": torch.ones(2)}}, path)
    build_person_detector(config("detectron2", "WEIGHTS", str(path)))
    torch.save({"model": weights | {"backbone.bottom_up.1.weight": torch.ones(2, 2)}}, path)
    with pytest.raises(WeightsError, match=r"1 unexpected parameters, such as backbone\.bottom_up\.1"):
        build_person_detector(config("detectron2", "WEIGHTS", str(path)))


def test_detectron2_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    with pytest.raises(ConfigError, match=r"detectron2 is not installed; .*or use fasterrcnn"):
        build_person_detector(config("detectron2"))


@pytest.mark.parametrize("name", ["pkg_resources", "omegaconf"])
def test_detectron2_with_a_missing_dependency(detectron2, monkeypatch, name):
    """model_zoo of detectron2 imports pkg_resources, which setuptools 81 has dropped."""

    class Zoo(types.ModuleType):
        def __getattr__(self, attribute):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    package = Zoo("detectron2")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "detectron2", package)
    monkeypatch.delitem(sys.modules, "detectron2.model_zoo")
    install = r' \(`pip install "setuptools<81"`\)' if name == "pkg_resources" else ""
    with pytest.raises(
        ConfigError,
        match=f"detectron2 is installed, but .* it needs {name}, which is not installed{install};",
    ):
        build_person_detector(config("detectron2"))


def test_detectron2_built_for_another_library(detectron2, monkeypatch):
    class Broken(types.ModuleType):
        def __getattr__(self, attribute):
            raise ImportError("_C.so: undefined symbol: _ZN3c10")

    monkeypatch.setitem(sys.modules, "detectron2.modeling", Broken("detectron2.modeling"))
    with pytest.raises(ConfigError, match=r"cannot be imported: ImportError: _C.so: undefined symbol"):
        build_person_detector(config("detectron2"))


@pytest.fixture
def custom(tmp_path):
    """custom(YAML, KEY, VALUE, ...) returns the config of a custom detector with weights."""
    torch.save({"model": {"sure": torch.tensor(0.9)}}, tmp_path / "custom.pth")

    def write(text, *opts):
        (tmp_path / "custom.yaml").write_text(text)
        given = ("CONFIG", str(tmp_path / "custom.yaml"), "WEIGHTS", str(tmp_path / "custom.pth"), *opts)
        return config("detectron2", *given)

    return write


def test_custom_detector_with_one_class(detectron2, custom):
    one = "MODEL: {ROI_HEADS: {NUM_CLASSES: 1}}\nDATASETS: {TRAIN: [my_people]}\nINPUT: {MIN_SIZE_TEST: 64}"
    ((boxes, scores),) = build_person_detector(custom(one)).detect([random_image()])
    assert boxes.tolist() == [[1, 2, 30, 40]]
    assert scores.tolist() == pytest.approx([0.9])
    assert detectron2.network.inputs[0]["image"].shape[1] == 64, "the size in the file"
    retina = "MODEL: {META_ARCHITECTURE: RetinaNet, RETINANET: {NUM_CLASSES: 1}}"
    assert len(build_person_detector(custom(retina)).detect([random_image()])[0][0]) == 1
    with pytest.raises(ConfigError, match=r"PERSON_DETECTOR.WEIGHTS: empty, but .*custom.yaml needs a file"):
        build_person_detector(custom(one, "WEIGHTS", ""))
    detectron2.names["my_people"] = ["helmet"]
    with pytest.raises(
        ConfigError, match=r"custom.yaml: expected one class that is a person, got 0 among helmet"
    ):
        build_person_detector(custom(one))


def test_custom_detector_with_several_classes(detectron2, custom):
    several = "MODEL: {ROI_HEADS: {NUM_CLASSES: 6}}\nDATASETS: {TRAIN: [mine]}"
    with pytest.raises(
        ConfigError, match=r"cannot tell which of its 6 classes is a person: none of its DATASETS"
    ):
        build_person_detector(custom(several))
    detectron2.names["mine"] = ["car", "dog", "cat", "bus", "tree", "Person"]
    ((boxes, scores),) = build_person_detector(custom(several)).detect([random_image()])
    assert boxes.tolist() == [[5, 5, 9, 9]], "the last class, by its name"
    assert scores.tolist() == pytest.approx([0.99])


@pytest.mark.parametrize(
    "text", ["MODEL: [", "MODEL: {NO_SUCH_KEY: 1}", "MODEL: !!python/object/apply:os.abort []", "- 1"]
)
def test_invalid_custom_config(detectron2, custom, text):
    with pytest.raises(ConfigError, match=r"custom.yaml: not a config of detectron2: "):
        build_person_detector(custom(text))
