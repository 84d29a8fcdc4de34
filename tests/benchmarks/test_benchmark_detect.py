"""The benchmark of detection, on a tiny model."""

import json

import pytest
import torch
from numbered_videos import Recipe, write_numbered

from vmae_det.benchmarks import detect_steps, keep_rates
from vmae_det.benchmarks.detect_steps import Step
from vmae_det.cli.main import main
from vmae_det.config import get_cfg
from vmae_det.utils import cpu

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package)

TINY = (
    *("MODEL.BACKBONE.EMBED_DIM", "24", "MODEL.BACKBONE.DEPTH", "1", "MODEL.BACKBONE.NUM_HEADS", "2"),
    *("MODEL.BACKBONE.CHECKPOINT", "", "INPUT.TEST_SHORT_SIDE", "64", "INPUT.NUM_FRAMES", "4"),
    *("MODEL.DEVICE", "cpu"),
)


def results_of(monkeypatch, module, name):
    """Return the list of the results of a function, to which each call will append."""
    results, function = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args: results.append(function(*args)) or results[-1])
    return results


def test_times_and_peak_memory(tmp_path, monkeypatch, capsys):
    engines = ("PyTorch", "ONNX Runtime", "ONNX Runtime int8")
    monkeypatch.setattr(detect_steps, "choose_steps", lambda _: [Step(engine) for engine in engines])
    traced, quantized = (results_of(monkeypatch, detect_steps, name) for name in ("trace", "quantize_layers"))
    file = tmp_path / "detect.json"
    video = write_numbered(tmp_path / "v", Recipe())
    command = ["benchmark", "detect", "--config-file", "AVA/vit_small_16x4.yaml", "--repeats", "1"]
    assert main([*command, "--video", str(video), "--minutes", "0.02", "--json", str(file), *TINY]) == 0
    figures = json.loads(file.read_text())
    parts = figures["parts"]
    assert set(parts) == {"decode", "persons", "transform", "model", "draw", "encode"}
    assert all(seconds > 0 for seconds in parts.values())
    assert sum(parts.values()) <= figures["whole"]
    assert figures["share_of_rest"] == 1 - (parts["model"] + parts["decode"]) / figures["whole"]
    assert figures["peaks"]["0.02"] > 10_000_000
    printed = capsys.readouterr().out
    assert "x real time" in printed
    steps = {step["name"]: step for step in figures["steps"]}
    assert list(steps) == ["PyTorch fp32", "ONNX Runtime fp32", "ONNX Runtime int8"]
    assert len(traced) == 1  # one export for fp32 and int8
    assert quantized == [4]  # the linear layers of the block
    assert all(step["model"] > 0 and step["total"] > 0 for step in steps.values())
    assert f"| ONNX Runtime int8 | {steps['ONNX Runtime int8']['model']:.3f} s | " in printed
    assert "peak memory of 0.02 minutes" in printed


def test_steps_run_on_four_keyframes_after_a_warm_up(tmp_path, monkeypatch):
    monkeypatch.setattr(detect_steps, "choose_steps", lambda _: [Step("PyTorch"), Step("PyTorch", "bf16")])
    monkeypatch.setattr(detect_steps, "_predictor", lambda step, *_: step)
    calls = []

    def run(predictor, stopwatch, end):
        calls.append((predictor.amp, end))
        stopwatch.seconds["model"] = 8.0

    times = detect_steps.measure_steps(tmp_path, get_cfg(), 60.0, 2, run)
    assert calls == [("none", 0.0), ("bf16", 0.0), *[("none", 3.99), ("bf16", 3.99)] * 2]
    assert [step.model for step in times] == [2.0, 2.0]  # seconds per keyframe


def test_keep_rates_are_compared_in_turns(tmp_path, capsys):
    file = tmp_path / "rates.json"
    command = ["benchmark", "detect", "--config-file", "AVA/vit_small_16x4.yaml", "--repeats", "2"]
    command += ["--keep-rates", "1.0", "0.5", "--json", str(file)]
    assert main([*command, *TINY]) == 0
    figures = json.loads(file.read_text())
    assert figures["size"] == [64, 96]  # 64 x 85, padded
    assert figures["flops"][1] < figures["flops"][0]
    first, second = figures["seconds"]
    assert figures["speedups"] == [[1.0, 1.0], [first[0] / second[0], first[1] / second[1]]]
    assert "keep rate" in capsys.readouterr().out
    assert main([*command, "--minutes", "2", *TINY]) == 2
    assert "--minutes: does not apply to --keep-rates" in capsys.readouterr().err


@pytest.mark.parametrize(("amp", "units", "expected"), [("none", "AMX", None), ("bf16", "", torch.bfloat16)])
def test_keep_rates_are_compared_in_the_given_precision(monkeypatch, amp, units, expected):
    """SOLVER.AMP of the command line is used, whatever `detect` chooses for this CPU."""
    types, detector = set(), keep_rates.build_model

    def record(cfg):
        model = detector(cfg)
        model.backbone.norm.register_forward_pre_hook(
            lambda *_: types.add(
                torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
            )
        )
        return model

    monkeypatch.setattr(keep_rates, "build_model", record)
    monkeypatch.setattr(cpu, "bfloat16_units", lambda: units)
    command = ["benchmark", "detect", "--config-file", "AVA/vit_small_16x4.yaml", "--repeats", "1"]
    assert main([*command, "--keep-rates", "0.5", *TINY, "SOLVER.AMP", amp]) == 0
    assert types == {expected}


def test_steps_of_a_cpu(monkeypatch):
    """bf16 is compared on CPUs with instructions for it, ONNX if its packages are installed."""
    cfg = get_cfg()
    for units, has_onnx, expected in (
        ("AMX", True, ["PyTorch fp32", "PyTorch bf16", "ONNX Runtime fp32", "ONNX Runtime int8"]),
        ("", False, ["PyTorch fp32"]),
    ):
        monkeypatch.setattr(cpu, "bfloat16_units", lambda units=units: units)
        monkeypatch.setattr(detect_steps, "_has_onnx", lambda has_onnx=has_onnx: has_onnx)
        names = [step.name for step in detect_steps.choose_steps(cfg)]
        assert names[: len(expected)] == expected
        assert names[len(expected) :] == [f"{name}, keep rate 0.7" for name in expected]
