"""`--weights NAME` of the model zoo needs no other option. A local server sends tiny files."""

import hashlib
import json
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from numbered_videos import Recipe, write_numbered
from published_files import PUBLISHED, WIDTH, blocks, pair, tensors

from vmae_det import model_zoo
from vmae_det.checkpoint import read_checkpoint
from vmae_det.checkpoint.locate import locate
from vmae_det.checkpoint.rename_parameters import rename_from_published
from vmae_det.cli.main import main
from vmae_det.engine.weights import build_model_and_classes
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.inference import predictor
from vmae_det.inference.predictor import read_config
from vmae_det.model_zoo import WEIGHTS
from vmae_det.modeling import build_model
from vmae_det.utils.errors import WeightsError

DETECTORS = [name for name, each in WEIGHTS.items() if each.label_map.startswith("ava")]
HEADS = {"mmaction2": "roi_head.bbox_head.fc_cls", "videomae": "head"}
PERSON = (np.array([[8.0, 8.0, 56.0, 60.0]], dtype=np.float32), np.array([0.9], dtype=np.float32))


class OnePerson:
    def detect(self, frames):
        return [PERSON for _ in frames]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that a local server serves, with its URL."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("VMAE_DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def family_of(name):
    return "mmaction2" if name.startswith("mmaction2-") else "videomae"


def of_clip(shapes, cfg):
    """The shapes with the patches and positions that a config has."""
    node, side = cfg.MODEL.BACKBONE, cfg.INPUT.CROP_SIZE // 16
    tokens = cfg.INPUT.NUM_FRAMES // node.TUBELET_SIZE * side**2
    changed = {
        5: lambda shape: (*shape[:2], node.TUBELET_SIZE, *shape[3:]),
        3: lambda shape: (1, tokens, shape[2]),
    }
    return {key: changed.get(len(shape), tuple)(shape) for key, shape in shapes.items()}


@pytest.fixture
def publish(site, monkeypatch):
    """Serve a state dict as the file of published weights, whose config becomes tiny."""
    folder, url = site
    full_size = model_zoo.get_config

    def tiny_config(name):
        cfg = full_size(name)
        cfg.merge_from_list(
            [
                *("MODEL.BACKBONE.EMBED_DIM", WIDTH, "MODEL.BACKBONE.DEPTH", 2),
                *("MODEL.BACKBONE.NUM_HEADS", 2, "INPUT.CROP_SIZE", 64, "INPUT.TEST_SHORT_SIDE", 64),
            ]
        )
        return cfg

    def serve(name, family, task, **changed):
        _, top, shapes = PUBLISHED[family, task]
        state_dict = tensors(of_clip(shapes, tiny_config(WEIGHTS[name].config))) | changed
        path = folder / f"{name}.pth"
        torch.save({top: state_dict} if top else state_dict, path)
        entry = WEIGHTS[name]
        if entry.url:
            digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
            monkeypatch.setitem(WEIGHTS, name, replace(entry, url=f"{url}/{path.name}", sha256=digits))
        return path

    monkeypatch.setattr(model_zoo, "get_config", tiny_config)
    return serve


@pytest.fixture
def video(tmp_path):
    return write_numbered(tmp_path / "v", Recipe(count=30))


def score_by_class(logits):
    """A classifier layer whose outputs do not depend on the video."""
    return torch.zeros(len(logits), WIDTH), torch.tensor(logits, dtype=torch.float32)


@pytest.mark.parametrize("name", DETECTORS)
def test_detect(name, publish, video, tmp_path, monkeypatch):
    logits = np.linspace(-3, 3, 80)
    family = family_of(name)
    # The first output of mmaction2 is the background.
    weight, bias = score_by_class([9.0, *logits] if family == "mmaction2" else logits)
    path = publish(
        name, family, "detect", **{f"{HEADS[family]}.weight": weight, f"{HEADS[family]}.bias": bias}
    )
    if WEIGHTS[name].page:
        with pytest.raises(
            WeightsError, match=r"download the file from https://drive.* and save it as .*pth"
        ):
            locate(name)
        (tmp_path / "cache").mkdir()
        path.rename(tmp_path / "cache" / path.name)
    monkeypatch.setattr(predictor, "build_person_detector", lambda cfg: OnePerson())
    out = tmp_path / "out"
    assert main(["detect", str(video), "--weights", name, "--output", str(out), "--format", "csv,jsonl"]) == 0
    actions = LabelMap.builtin("ava_v2.2")
    by_person = read_config(name).MODEL.ROI_HEAD.USE_PERSON_SCORE
    expected = 1 / (1 + np.exp(-logits)) * (0.9 if by_person else 1.0)
    rows = read_action_csv(out / "v.csv", actions, kind="detections")
    order = np.argsort(rows.action, kind="stable").reshape(80, -1)
    assert rows.action[order[:, 0]].tolist() == list(range(1, 81))
    np.testing.assert_allclose(rows.score[order], np.repeat(expected[:, None], order.shape[1], 1), atol=1e-3)
    assert actions.names[79] in (out / "v.jsonl").read_text()


SIZES = {"small": (384, 12), "base": (768, 12), "large": (1024, 24)}  # width and depth


@pytest.mark.parametrize("name", DETECTORS)
def test_a_file_of_full_size_fits_the_config(name):
    cfg = model_zoo.get_config(WEIGHTS[name].config)
    width, depth = SIZES[next(size for size in SIZES if size in name)]
    family = family_of(name)
    shapes = PUBLISHED[family, "detect"][2]
    prefix, *mlp = ("backbone.", "mlp.layers.0.0", "mlp.layers.1") if family == "mmaction2" else ("",)
    layers = dict(zip(("fc1", "fc2"), mlp))
    full = {
        key: tuple(width if side == WIDTH else side for side in shape)
        for key, shape in of_clip(shapes, cfg).items()
        if "blocks." not in key
    }
    full |= blocks(f"{prefix}blocks", depth=depth, width=width, **layers)
    head = HEADS[family]
    full |= pair(head, 81 if family == "mmaction2" else 80, width)
    with torch.device("meta"):
        model = build_model(cfg)
    on_meta = {key: torch.empty(shape, device="meta") for key, shape in full.items()}
    on_meta |= {key: torch.zeros(full[key]) for key in pair(head)}  # its values are inspected
    renamed = rename_from_published(on_meta)
    expected = {key: value.shape for key, value in model.state_dict().items()}
    got = {key: value.shape for key, value in renamed.weights.items()}
    unexpected = {"backbone.positions", "roi_head.background.weight", "roi_head.background.bias"}
    assert {key: got[key] for key in got.keys() - unexpected} == expected
    if "backbone.positions" in got:
        tokens = cfg.INPUT.NUM_FRAMES // cfg.MODEL.BACKBONE.TUBELET_SIZE * (cfg.INPUT.CROP_SIZE // 16) ** 2
        assert got["backbone.positions"] == (tokens, width)


def test_classify_and_features(publish, video, tmp_path, capsys):
    name = "videomae-base-finetuned-kinetics"
    weight, bias = score_by_class(np.arange(400) * 0.1)
    publish(name, "huggingface", "finetune", **{"classifier.weight": weight, "classifier.bias": bias})
    out = tmp_path / "out"
    assert main(["classify", str(video), "--weights", name, "--output", str(out)]) == 0
    assert json.loads((out / "v_classes.jsonl").read_text())["classes"][0]["name"] == "zumba"
    assert "no class names" not in capsys.readouterr().out
    assert main(["features", str(video), "--weights", name, "--output", str(out)]) == 0
    assert "label_map" not in read_checkpoint(name), "training on another dataset keeps its classes"


def test_sampling_and_statistics_come_from_the_entry(publish):
    name = "mmaction2-videomae-base-ava-kinetics"
    publish(name, "mmaction2", "detect")
    cfg = read_config(name)
    assert (cfg.INPUT.NUM_FRAMES, cfg.INPUT.SAMPLING_RATE, cfg.INPUT.CONVENTION) == (16, 4, "centred")
    assert cfg.MODEL.PIXEL_MEAN == (123.675, 116.28, 103.53)
    head = cfg.MODEL.ROI_HEAD
    assert (head.RESOLUTION, head.ALIGNED, head.TEST_BOX_SCALE, head.USE_PERSON_SCORE) == (
        8,
        True,
        (1.0, 1.0),
        False,
    )


def test_classes_in_another_order_are_matched_by_name(publish):
    weight, bias = score_by_class(np.zeros(400))
    for name, family, layer in (
        ("umt-base-finetuned-kinetics", "videomae", "head"),
        ("videomae-base-finetuned-kinetics", "huggingface", "classifier"),
    ):
        publish(name, family, "finetune", **{f"{layer}.weight": weight, f"{layer}.bias": bias})
        _, classes = build_model_and_classes(read_config(name), complete=True)
        assert (classes is None) == name.startswith("videomae-")
        assert classes is None or classes.label_map.names[0] == "riding a bike"


def test_a_file_without_a_name_needs_a_label_map(publish):
    name = "mmaction2-videomae-base-ava-kinetics"
    cfg = model_zoo.get_config(WEIGHTS[name].config)
    cfg.MODEL.WEIGHTS = str(publish(name, "mmaction2", "detect"))
    with pytest.raises(WeightsError, match=r"pass one by --label-map, such as ava_v2\.2$"):
        predictor.ActionPredictor(cfg)


def test_a_file_with_another_checksum(publish, monkeypatch):
    name = "mmaction2-videomae-base-ava-kinetics"
    publish(name, "mmaction2", "detect")
    monkeypatch.setitem(WEIGHTS, name, replace(WEIGHTS[name], sha256="0" * 8))
    with pytest.raises(WeightsError, match=r"expected a file with SHA-256 0{8}\.\.\., got"):
        locate(name)


def test_builtin_kinetics400_has_the_classes_of_torchvision():
    from torchvision.models.video import R3D_18_Weights  # slow to import

    assert list(LabelMap.builtin("kinetics400").names) == R3D_18_Weights.DEFAULT.meta["categories"]
