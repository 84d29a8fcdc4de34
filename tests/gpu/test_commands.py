"""Commands on the device: the quickstart's chain, detection on video, exported models, the benchmark."""

import json

import numpy as np
import pytest
import torch

from gpu.steps import make_batch
from vmae_det.checkpoint import save_weights
from vmae_det.cli.main import main
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.inference import ActionPredictor
from vmae_det.inference.person_sources import WholeFramePerson
from vmae_det.inference.predictor import read_config
from vmae_det.inference.stream import StreamOptions
from vmae_det.modeling import build_model

LABELS = {"ids": [1, 2, 4], "names": ["walk", "sit", "talk"], "kinds": ["", "", ""]}
SCORES_DIFFER = 1e-3  # scores in [0, 1], computed in float32 on the device and on the CPU


@pytest.fixture
def detector(device_cfg, tmp_path):
    """The config of a detector with random weights, on the device. Its scores depend on the video."""
    cfg = device_cfg("detect", "MODEL.ROI_HEAD.NUM_CLASSES", 3, "TEST.BATCH_SIZE", 3)
    torch.manual_seed(0)
    model = build_model(cfg)
    for name, value in model.named_parameters():
        if "norm" not in name and "patch_embed" not in name:
            torch.nn.init.normal_(value, std=0.3)
    save_weights(model.state_dict(), cfg.dump(), tmp_path / "detector.pt", LABELS)
    return read_config(tmp_path / "detector.pt")


@pytest.fixture
def video(mini_ava):
    return sorted((mini_ava / "videos").glob("*.mp4"))[0]


def on_cpu(cfg):
    cfg = cfg.clone()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu"])
    return cfg


def test_chain_of_the_quickstart(device_cfg, tmp_path, capsys):
    """Pre-training, fine-tuning, detection, test, and detection on a video, with --num-gpus 1."""
    backbone = ()
    for task in ("pretrain", "finetune", "detect"):
        cfg = device_cfg(task, "OUTPUT_DIR", str(tmp_path / task), "SOLVER.AMP", "bf16", *backbone)
        config = tmp_path / f"{task}.yaml"
        config.write_text(cfg.dump(), encoding="utf-8")
        assert main(["train", "--num-gpus", "1", "--config-file", str(config)]) == 0
        backbone = ("MODEL.BACKBONE.CHECKPOINT", str(tmp_path / task / "model_final.pt"))
    weights = tmp_path / "detect" / "model_final.pt"
    overrides = ["MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(tmp_path / "test")]
    assert main(["test", "--num-gpus", "1", "--config-file", str(config), *overrides]) == 0
    trained, tested = (
        json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8"))
        for name in ("detect", "test")
    )
    assert tested == pytest.approx(trained, abs=1e-3)
    assert 0 <= tested["frame_mAP"] <= 1


def test_detect_with_overlapped_decoding(detector, device, video, tmp_path):
    """Threads that decode, detect persons and score give the scores of a single thread, and of the CPU."""
    scores = []
    for cfg, overlap in ((detector, True), (detector, False), (on_cpu(detector), False)):
        predictor = ActionPredictor(cfg)
        options = StreamOptions(overlap=overlap)
        with predictor.stream(video, WholeFramePerson(), every=0.5, options=options) as stream:
            scores.append(np.concatenate([keyframe.scores for keyframe in stream]))
    assert len(scores[0]) > 4
    assert np.ptp(scores[0]) > 0.01
    np.testing.assert_allclose(scores[0], scores[1], atol=SCORES_DIFFER)
    np.testing.assert_allclose(scores[0], scores[2], atol=SCORES_DIFFER)


def test_detect_writes_its_files(detector, video, tmp_path):
    out = tmp_path / "out"
    command = [
        "detect",
        str(video),
        "--weights",
        detector.MODEL.WEIGHTS,
        "--output",
        str(out),
        "--whole-frame",
    ]
    assert main(command) == 0
    assert {path.suffix for path in out.iterdir()} == {".csv", ".jsonl", ".mp4"}


def test_detect_persons(device, video, tmp_path):
    """A network of torchvision with random weights finds the boxes that it finds on the CPU."""
    found = []
    for name in (device.type, "cpu"):
        output = tmp_path / f"{name}_{len(found)}.csv"
        options = [
            *("PERSON_DETECTOR.NAME", "fasterrcnn_mobilenet_v3_large_320_fpn", "MODEL.DEVICE", name),
            *("PERSON_DETECTOR.WEIGHTS", "random", "PERSON_DETECTOR.SCORE", "0.0"),
        ]
        assert main(["detect-persons", str(video), "--output", str(output), "--opts", *options]) == 0
        found.append(read_person_boxes(output))
    assert len(found[0].score) > 0
    assert abs(len(found[0].score) - len(found[1].score)) <= 0.1 * len(found[1].score)
    assert found[0].score.max() == pytest.approx(found[1].score.max(), abs=1e-3)


@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_exported_detector(detector, device, tmp_path, form):
    from vmae_det.inference.export.exporter import export_model
    from vmae_det.inference.scorers import load_scorer

    if form == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason=f"needs {package}: pip install 'vmae_det[onnx]'")
        _require_onnx_provider(device)
    path = tmp_path / ("model.pt2" if form == "torch" else "model.onnx")
    export_model(on_cpu(detector), path, form, LABELS)
    expected = load_scorer(on_cpu(detector))
    exported = detector.clone()
    exported.merge_from_list(["MODEL.WEIGHTS", str(path)])
    exported = load_scorer(exported)
    for persons, size in (((2, 3), (64, 64)), ((1, 4), (64, 96))):
        batch = make_batch(detector, persons=persons, size=size)
        batch["size"] = [torch.tensor([size[1] - 9.0, size[0]])] * 2
        for got, wanted in zip(exported(batch), expected(batch), strict=True):
            np.testing.assert_allclose(got, wanted, atol=SCORES_DIFFER)
    if form == "onnx" and device.type == "cuda":
        assert exported.session.get_providers()[0] == "CUDAExecutionProvider"


def _require_onnx_provider(device):
    import onnxruntime

    if device.type == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime has no CUDA provider: pip install onnxruntime-gpu")


@pytest.mark.parametrize(("size", "compiled"), [("small", False), ("base", False), ("base", True)])
def test_benchmark_of_a_training_step(device, tmp_path, capsys, report, size, compiled):
    file = tmp_path / "train.json"
    config = f"Kinetics/vit_{size}_16x4_pretrain.yaml"
    options = ["--batch", "64", "--amp", "bf16", "--steps", "4", "--repeats", "3"]
    overrides = ["MODEL.COMPILE_SCOPE", "stack"]
    if device.type == "cpu":
        if size == "base":
            pytest.skip("one size tests the command on the CPU")
        options = ["--batch", "2", "--amp", "bf16", "--steps", "1", "--repeats", "1"]
        overrides = ["INPUT.NUM_FRAMES", "4", "INPUT.CROP_SIZE", "64", "MODEL.BACKBONE.DEPTH", "2"]
    command = ["benchmark", "train", "--config-file", config, *options, "--json", str(file)]
    command += ["--compile"] if compiled else []
    assert main([*command, "MODEL.DEVICE", device.type, *overrides]) == 0
    assert "clips/s" in capsys.readouterr().out
    figures = json.loads(file.read_text(encoding="utf-8"))
    ours = figures["contestants"]["vmae_det"]
    assert ours["clips_per_second"] > 0
    if device.type == "cuda":
        assert ours["host_waits"] == 0
    mfu = "unknown" if figures["mfu"] is None else f"{figures['mfu']:.1%}"
    report(
        f"ViT-{size[0].upper()} pre-training, batch {options[1]}, bf16, {'' if compiled else 'not '}compiled",
        f"{ours['clips_per_second']:.0f} clips/s, MFU {mfu}, {ours['peak_bytes'] / 2**30:.1f} GiB, "
        f"{figures['share_of_matrix_rate']:.0%} of the GEMM rate",
    )
