"""`export --int8`: close scores, layers that stay in fp32, and the same use as other exported files."""

import json
import sys

import numpy as np
import pytest
import torch
from numbered_videos import Recipe, write_numbered

from vmae_det.checkpoint import save_weights
from vmae_det.cli.main import main
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.export.calibration import CalibrationClips
from vmae_det.inference.export.exported_model import OnnxModel, read_exported_metadata
from vmae_det.inference.export.quantization import LayerErrors, export_int8
from vmae_det.inference.scorers import EagerModel
from vmae_det.modeling import build_model
from vmae_det.utils.errors import DataError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
CPU = torch.device("cpu")


@pytest.fixture
def detector(tiny_cfg, mini_ava, tmp_path):
    """The config of a detector of MiniAVA with random weights, whose scores vary."""
    cfg = tiny_cfg("detect", "OUTPUT_DIR", str(tmp_path / "test"))
    labels = LabelMap.from_file(mini_ava / "annotations" / "mini_ava_actions.pbtxt")
    cfg.MODEL.ROI_HEAD.NUM_CLASSES = len(labels)
    torch.manual_seed(0)
    model = build_model(cfg)
    for name, value in model.named_parameters():
        if "norm" not in name and "patch_embed" not in name:
            torch.nn.init.normal_(value, std=0.3)
    return save(cfg, model, labels, tmp_path)


def save(cfg, model, labels, folder):
    fields = {key: getattr(labels, key) for key in ("ids", "names", "kinds")}
    cfg.MODEL.WEIGHTS = str(save_weights(model.state_dict(), cfg.dump(), folder / "model.pt", fields))
    return cfg


def test_int8_detector_in_export_test_and_detect(detector, mini_ava, tmp_path, capsys):
    cfg, file, dataset = detector, tmp_path / "int8.onnx", str(mini_ava / "val.yaml")
    command = ["export", "--weights", cfg.MODEL.WEIGHTS, "--int8", "--output", str(file)]
    assert main([*command, "--calibrate", dataset, "--calibration-clips", "4"]) == 0
    printed = capsys.readouterr().out
    assert "8 linear layers in int8, 0 in fp32" in printed
    assert f"4 clips of {dataset}: scores differ from the model's by" in printed
    assert "frame_mAP: " in printed
    assert read_exported_metadata(file)["precision"] == "int8"
    operators = [node.op_type for node in onnx.load(str(file)).graph.node]
    assert operators.count("MatMulInteger") == 8
    check_independence_of_the_batch(file)
    check_simulation(cfg, file, dataset)

    results = []
    for weights in (cfg.MODEL.WEIGHTS, str(file)):
        overrides = ["MODEL.WEIGHTS", weights, "DATASETS.TEST", f"('{dataset}',)", "MODEL.DEVICE", "cpu"]
        output = tmp_path / f"test{len(results)}"
        assert main(["test", *overrides, "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(output)]) == 0
        results.append(read_action_csv(output / "detections.csv", kind="detections"))
        assert json.loads((output / "results.json").read_text())["frame_mAP"] >= 0
    np.testing.assert_array_equal(results[0].boxes, results[1].boxes)
    difference = np.abs(results[0].score - results[1].score)
    assert 0 < difference.max() < 0.1
    assert difference.mean() < 0.01

    video = write_numbered(tmp_path / "video", Recipe(count=30))
    options = ["--whole-frame", "--weights", str(file), "--output", str(tmp_path / "out"), "--format", "csv"]
    assert main(["detect", str(video), *options]) == 0
    assert len(read_action_csv(tmp_path / "out" / "video.csv", kind="detections"))


def check_independence_of_the_batch(file):
    model = OnnxModel(file, CPU)
    parts = [
        {
            "video": torch.full((1, 3, 4, 64, 64), value, dtype=torch.uint8),
            "boxes": [torch.tensor([[3.0, 5.0, 50.0, 60.0]])],
            "person_scores": [torch.ones(1)],
            "size": [torch.tensor([64.0, 64.0])],
        }
        for value in (250, 0)
    ]
    both = {key: parts[0][key] + parts[1][key] for key in ("boxes", "person_scores", "size")}
    both["video"] = torch.cat([part["video"] for part in parts])
    for alone, together in zip(parts, model(both)):
        np.testing.assert_array_equal(model(alone)[0], together)


def check_simulation(cfg, file, dataset):
    """The simulated rounding of all layers gives the scores of the file."""
    eager, exported = EagerModel(cfg), OnnxModel(file, CPU)
    meter = LayerErrors(eager.model.backbone)
    for batch in CalibrationClips(cfg, dataset, 2):
        expected, actual = eager(batch), exported(batch)
        hooks = [
            layer.register_forward_hook(lambda _, inputs, __, name=name: meter.simulate(name, inputs[0]))
            for name, layer in meter.layers.items()
        ]
        simulated = eager(batch)
        for hook in hooks:
            hook.remove()
        np.testing.assert_allclose(simulated[0], actual[0], atol=2e-3)
        assert np.abs(expected[0] - actual[0]).max() > 1e-4


def test_a_layer_that_8_bits_hurt_stays_in_fp32(detector, mini_ava, tmp_path):
    """An unused input channel with large values leaves no resolution for the others."""
    model = EagerModel(detector).model
    block = model.backbone.blocks[1]
    with torch.no_grad():
        block.norm1.bias[0] = 1e4
        block.attn.qkv.weight[:, 0] = 0
    labels = LabelMap.from_file(mini_ava / "annotations" / "mini_ava_actions.pbtxt")
    cfg = save(detector, model, labels, tmp_path)
    report = export_int8(cfg, tmp_path / "int8.onnx", str(mini_ava / "val.yaml"), 2)
    assert list(report.kept) == ["blocks.1.attn.qkv"]
    assert report.quantized == 7
    assert report.largest < 0.1
    assert "blocks.1.attn.qkv stays in fp32: int8 changes its output by" in str(report)


def test_clips_are_chosen_by_the_seed(detector, mini_ava, tmp_path):
    def videos(source, **keys):
        cfg = detector.clone()
        cfg.SEED = keys.get("seed", 0)
        return [batch["video"] for batch in CalibrationClips(cfg, str(source), 3)]

    for source in (mini_ava / "val.yaml", next((mini_ava / "videos").glob("*.mp4")), mini_ava / "videos"):
        first = videos(source)
        assert len(first) == 3
        assert all(map(torch.equal, first, videos(source)))
        assert not all(
            a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, videos(source, seed=1))
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--int8", "--output", "a.pt2"), "--int8: written as ONNX only, got the format torch"),
        (("--int8", "--output", "a.onnx"), "--int8: needs clips; add --calibrate DATASET_OR_VIDEO"),
        (("--calibrate", "v.mp4", "--output", "a.onnx"), "--calibrate: only used with --int8"),
        (("--int8", "--calibrate", "no_set", "--output", "a.onnx"), "--calibrate: 'no_set' is neither"),
    ],
)
def test_wrong_options(detector, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--weights", detector.MODEL.WEIGHTS, *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("a.*"))


def test_folder_without_videos_and_missing_package(detector, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no video files below this folder"):
        export_int8(detector, tmp_path / "a.onnx", str(tmp_path / "empty"), 2)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    command = ["export", "--weights", detector.MODEL.WEIGHTS, "--int8", "--calibrate", "x"]
    assert main([*command, "--output", str(tmp_path / "a.onnx")]) == 2
    assert "pip install 'vmae_det[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "a.onnx").exists()


def test_int8_detector_that_finds_the_persons(detector, mini_ava, tmp_path, capsys):
    """`test` needs no boxes; TEST.PERSON_BOXES dataset writes a file that takes them."""
    cfg, file, dataset = detector.clone(), tmp_path / "int8.onnx", str(mini_ava / "val.yaml")
    head = cfg.MODEL.PERSON_HEAD
    head.NAME, head.CHANNELS, head.NUM_CONVS, head.SCALES = "FcosPersonHead", 8, 1, (2.0,)
    model = build_model(cfg)
    model.load_state_dict(EagerModel(detector).model.state_dict(), strict=False)
    torch.nn.init.normal_(model.person_head.classification.cls_logits.weight, std=1.0)
    torch.nn.init.constant_(model.person_head.classification.cls_logits.bias, 0.0)
    labels = LabelMap.from_file(mini_ava / "annotations" / "mini_ava_actions.pbtxt")
    save(cfg, model, labels, tmp_path)
    command = ["export", "--weights", cfg.MODEL.WEIGHTS, "--int8", "--output", str(file)]
    command += ["--calibrate", dataset, "--calibration-clips", "2"]
    assert main(command) == 0
    assert "8 linear layers in int8, 0 in fp32" in capsys.readouterr().out
    results = []
    for weights in (cfg.MODEL.WEIGHTS, str(file)):
        output = tmp_path / f"test{len(results)}"
        overrides = ["MODEL.WEIGHTS", weights, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(output)]
        assert main(["test", *overrides, "DATALOADER.NUM_WORKERS", "0"]) == 0
        results.append(json.loads((output / "results.json").read_text()))
    assert results[0]["person_recall50"] > 0
    for name, value in results[0].items():
        assert results[1][name] == pytest.approx(value, abs=0.05)
    assert main([*command, "TEST.PERSON_BOXES", "dataset"]) == 0
    assert [node.name for node in onnx.load(str(file)).graph.input][1] == "boxes"
