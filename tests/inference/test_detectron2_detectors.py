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
    """Finds things of class 0 and 5; how sure it is of the first says its weight."""

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


def test_weights_of_a_deeper_network_are_refused(detectron2, tmp_path):
    """All that a ResNet-50 needs is in a file of a ResNet-101."""
    own = tmp_path / "own.pth"
    network = detectron2.network
    network.backbone = torch.nn.ModuleDict({"bottom_up": torch.nn.ModuleList([torch.nn.Linear(2, 2)])})
    weights = network.state_dict()
    torch.save({"model": weights | {"roi_heads.mask_head.fc.weight": torch.ones(2)}}, own)
    build_person_detector(config("detectron2", "WEIGHTS", str(own)))
    torch.save({"model": weights | {"backbone.bottom_up.1.weight": torch.ones(2, 2)}}, own)
    with pytest.raises(WeightsError, match=r"no place for 1 parameters, such as backbone\.bottom_up\.1"):
        build_person_detector(config("detectron2", "WEIGHTS", str(own)))


def test_detectron2_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    with pytest.raises(ConfigError, match=r"detectron2 is not installed here.*or choose fasterrcnn"):
        build_person_detector(config("detectron2"))


@pytest.mark.parametrize("name", ["pkg_resources", "omegaconf"])
def test_detectron2_that_lacks_a_package(detectron2, monkeypatch, name):
    """model_zoo of detectron2 imports pkg_resources, which setuptools 81 has dropped."""

    class Zoo(types.ModuleType):
        def __getattr__(self, attribute):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    package = Zoo("detectron2")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "detectron2", package)
    monkeypatch.delitem(sys.modules, "detectron2.model_zoo")
    cure = r' \(`pip install "setuptools<81"`\)' if name == "pkg_resources" else ""
    with pytest.raises(
        ConfigError,
        match=f"detectron2 is installed here, but .* it needs {name}, which is not installed{cure};",
    ):
        build_person_detector(config("detectron2"))


def test_detectron2_that_fits_no_library_here(detectron2, monkeypatch):
    class Broken(types.ModuleType):
        def __getattr__(self, attribute):
            raise ImportError("_C.so: undefined symbol: _ZN3c10")

    monkeypatch.setitem(sys.modules, "detectron2.modeling", Broken("detectron2.modeling"))
    with pytest.raises(ConfigError, match=r"cannot be imported: ImportError: _C.so: undefined symbol"):
        build_person_detector(config("detectron2"))


@pytest.fixture
def own(tmp_path):
    """own(YAML, KEY, VALUE, ...): the config of a detector of one's own, with weights."""
    torch.save({"model": {"sure": torch.tensor(0.9)}}, tmp_path / "own.pth")

    def write(text, *opts):
        (tmp_path / "own.yaml").write_text(text)
        given = ("CONFIG", str(tmp_path / "own.yaml"), "WEIGHTS", str(tmp_path / "own.pth"), *opts)
        return config("detectron2", *given)

    return write


def test_an_own_detector_of_one_class(detectron2, own):
    one = "MODEL: {ROI_HEADS: {NUM_CLASSES: 1}}\nDATASETS: {TRAIN: [my_people]}\nINPUT: {MIN_SIZE_TEST: 64}"
    ((boxes, scores),) = build_person_detector(own(one)).detect([picture()])
    assert boxes.tolist() == [[1, 2, 30, 40]]
    assert scores.tolist() == pytest.approx([0.9])
    assert detectron2.network.given[0]["image"].shape[1] == 64, "the file's size"
    retina = "MODEL: {META_ARCHITECTURE: RetinaNet, RETINANET: {NUM_CLASSES: 1}}"
    assert len(build_person_detector(own(retina)).detect([picture()])[0][0]) == 1
    with pytest.raises(ConfigError, match=r"PERSON_DETECTOR.WEIGHTS: names no file; .*own.yaml needs one"):
        build_person_detector(own(one, "WEIGHTS", ""))
    detectron2.names["my_people"] = ["helmet"]
    with pytest.raises(
        ConfigError, match=r"own.yaml: expected one class that is a person, got 0 among helmet"
    ):
        build_person_detector(own(one))


def test_an_own_detector_of_several_classes(detectron2, own):
    several = "MODEL: {ROI_HEADS: {NUM_CLASSES: 6}}\nDATASETS: {TRAIN: [mine]}"
    with pytest.raises(
        ConfigError, match=r"which of its 6 classes is a person is unknown: none of its DATASETS"
    ):
        build_person_detector(own(several))
    detectron2.names["mine"] = ["car", "dog", "cat", "bus", "tree", "Person"]
    ((boxes, scores),) = build_person_detector(own(several)).detect([picture()])
    assert boxes.tolist() == [[5, 5, 9, 9]], "the last class, by its name"
    assert scores.tolist() == pytest.approx([0.99])


@pytest.mark.parametrize(
    "text", ["MODEL: [", "MODEL: {NO_SUCH_KEY: 1}", "MODEL: !!python/object/apply:os.abort []", "- 1"]
)
def test_an_own_file_that_is_no_config(detectron2, own, text):
    with pytest.raises(ConfigError, match=r"own.yaml: not a config of detectron2: "):
        build_person_detector(own(text))
