"""The benchmark of a training step, on tiny models."""

import builtins
import json
import warnings

import pytest
import torch

from vmae_det import model_zoo
from vmae_det.benchmarks.gpu_peaks import peak_flops
from vmae_det.benchmarks.hugging_face import build_hugging_face, check_comparable
from vmae_det.benchmarks.train import Measurements, TrainBenchmark, measure_gemm_rate
from vmae_det.benchmarks.train_worker import OURS, PARTS, Settings, _Training
from vmae_det.benchmarks.training_step import count_host_waits
from vmae_det.cli.main import main
from vmae_det.utils.errors import ConfigError

CONFIG = "Kinetics/vit_small_16x4_pretrain.yaml"
TINY = (
    *("INPUT.CROP_SIZE", "32", "INPUT.NUM_FRAMES", "4", "MODEL.BACKBONE.EMBED_DIM", "24"),
    *("MODEL.BACKBONE.DEPTH", "1", "MODEL.BACKBONE.NUM_HEADS", "2", "MODEL.DECODER.EMBED_DIM", "12"),
    *("MODEL.DECODER.DEPTH", "2", "MODEL.DECODER.NUM_HEADS", "2", "MODEL.MASK.RATIO", "0.5"),
    *("MODEL.DEVICE", "cpu"),
)


@pytest.fixture
def command(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr("vmae_det.benchmarks.train._GEMM_SIDE", {"cpu": 64})
    yield ["benchmark", "train", "--config-file", CONFIG, "--batch", "2", "--repeats", "2", "--steps", "1"]
    torch.set_num_threads(threads)


def test_comparison_with_hugging_face(command, tmp_path, capsys):
    pytest.importorskip("transformers", reason="an extra of the tests: pip install transformers")
    file = tmp_path / "train.json"
    assert main([*command, "--against", "huggingface", "--json", str(file), *TINY]) == 0
    figures = json.loads(file.read_text())
    ours, theirs = (figures["contestants"][name] for name in ("vmae_det", "huggingface"))
    for measured in (ours, theirs):
        assert measured["clips_per_second"] == 2 / measured["step"]
        assert measured["peak_bytes"] > 0
        for turn in measured["turns"]:  # one step per turn
            assert turn["step"] == pytest.approx(turn["forward"] + turn["backward"] + turn["optimizer"])
            assert min(turn.values()) > 0
    ratios = [a["step"] / b["step"] for a, b in zip(ours["turns"], theirs["turns"])]
    assert figures["ratio"] == pytest.approx(sum(ratios) / 2)
    assert figures["share_of_matrix_rate"] == pytest.approx(
        figures["flops_per_step"] / ours["step"] / figures["matrix_flops_per_second"]
    )
    assert "of Hugging Face's time" in capsys.readouterr().out


def test_mixed_precision_with_predicted_frames():
    cfg = model_zoo.get_config(CONFIG)
    more = ("MODEL.RECONSTRUCTION.NUM_FRAMES", "8", "MODEL.RECONSTRUCTION.SAMPLING_RATE", "2")
    cfg.merge_from_list([*TINY, *more])
    settings, measured = Settings(batch=2, amp="bf16"), Measurements(graphs=[0])
    training, dtypes = _Training(cfg, settings, OURS, torch.device("cpu")), set()
    for block in training.step.model.backbone.blocks:
        block.mlp.fc1.register_forward_hook(lambda _, __, output: dtypes.add(output.dtype))
    turn = training.run_turn(1)
    assert dtypes == {torch.bfloat16}
    measured.add({"turn": turn, "peak_bytes": 1e6, "host_waits": None, "graphs": 0})
    printed = TrainBenchmark(settings, "the CPU", 1e9, 1e12, None, {OURS: measured}).report()
    assert "precision: bf16" in printed
    assert "Hugging Face" not in printed


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        (("MODEL.DECODER.MASK", "running_cell"), "MODEL.DECODER.MASK: running_cell; the comparison with"),
        (("MODEL.BACKBONE.DROP_PATH", "0.1"), "MODEL.BACKBONE.DROP_PATH: 0.1; the comparison with"),
        (("MODEL.BACKBONE.NAME", "VJepa2ViT"), "MODEL.BACKBONE.NAME: VJepa2ViT; the comparison with"),
    ],
)
def test_unsupported_configs(command, opts, expected, capsys):
    assert main([*command, "--against", "huggingface", *TINY, *opts]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("key", ["MODEL.CLASSIFIER.LINEAR_PROBE", "MODEL.ACTIVATION_CHECKPOINTING"])
def test_steps_that_compute_something_else_are_not_compared(key):
    pytest.importorskip("transformers", reason="an extra of the tests: pip install transformers")
    cfg = model_zoo.get_config("Kinetics/vit_small_16x4_finetune.yaml")
    cfg.merge_from_list(["MODEL.BACKBONE.DROP_PATH", "0.0", key, "True"])
    with pytest.raises(ConfigError, match=f"{key}: True; the comparison .* supports only False"):
        check_comparable(cfg)


def test_missing_transformers(command, monkeypatch, capsys):
    real = builtins.__import__

    def missing(name, *args, **more):
        if name == "transformers":
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert main([*command, "--against", "huggingface", *TINY]) == 2
    assert "pip install transformers" in capsys.readouterr().err


def test_hugging_face_model_has_the_same_size():
    pytest.importorskip("transformers", reason="an extra of the tests: pip install transformers")
    cfg = model_zoo.get_config(CONFIG)
    cfg.merge_from_list([*TINY[:-2], "MODEL.RECONSTRUCTION.NORMALIZE", "False"])
    theirs, optimizer, to_inputs = build_hugging_face(cfg, torch.device("cpu"))
    batch = {
        "video": torch.zeros(2, 3, 4, 32, 32, dtype=torch.uint8),
        "seed": torch.tensor([1, 2]),
    }
    outputs = theirs(**to_inputs(batch))
    assert outputs.logits.shape == (
        2,
        2 * 2,
        2 * 256 * 3,
    )  # 2 of 4 positions are masked, in each of 2 time slices
    assert outputs.loss.isfinite()
    assert theirs.config._attn_implementation == "sdpa"
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(theirs.parameters()))


def test_gemm_rate_counts_multiply_adds_as_two_operations(monkeypatch):
    monkeypatch.setattr("vmae_det.benchmarks.train._GEMM_SIDE", {"cpu": 10})
    monkeypatch.setattr("vmae_det.benchmarks.train.seconds_of", lambda work, device: 0.5)
    assert measure_gemm_rate(torch.device("cpu"), torch.float32) == 4000


@pytest.mark.parametrize("name", [OURS, "huggingface"])
@pytest.mark.parametrize("config", ["Kinetics/vit_small_16x4_finetune.yaml", "AVA/vit_small_16x4.yaml"])
def test_other_tasks(config, name):
    """Each step takes another batch; those of a detector have other numbers of persons."""
    if name == "huggingface":
        pytest.importorskip("transformers", reason="an extra of the tests: pip install transformers")
    cfg = model_zoo.get_config(config)
    cfg.merge_from_list([*TINY, "INPUT.TRAIN_SHORT_SIDE", "32", "MODEL.BACKBONE.DROP_PATH", "0.0"])
    training = _Training(cfg, Settings(batch=2), name, torch.device("cpu"))
    turn = training.run_turn(2)
    assert turn.keys() == {*PARTS, "step"}
    weights = [parameter.detach().clone() for parameter in training.step.model.parameters()]
    training.run_step()
    assert all(p.grad is not None for p in training.step.model.parameters() if p.requires_grad)
    assert any(not torch.equal(a, b) for a, b in zip(weights, training.step.model.parameters()))


def test_report_of_a_gpu():
    ours = Measurements(graphs=[12])
    for graphs in (12, 13):
        turn = {"data": 0.01, "forward": 0.1, "backward": 0.2, "optimizer": 0.01, "step": 0.25}
        ours.add({"turn": turn, "peak_bytes": 2e9, "host_waits": 3, "graphs": graphs})
    settings = Settings(batch=64, amp="bf16", compile=True)
    peak = peak_flops("NVIDIA H100 80GB HBM3", "bf16")
    result = TrainBenchmark(settings, "NVIDIA H100 80GB HBM3", 0.25 * 989e12 / 4, 700e12, peak, {OURS: ours})
    assert result.mfu == 0.25
    assert "MFU 25.0% of the 989 TFLOP/s of its data sheet" in result.report()
    assert "the host waits for the GPU 3 times in a step" in result.report()
    assert "12 graphs compiled in the warm-up, 1 during the measurement" in result.report()
    assert result.to_json()["mfu"] == 0.25


@pytest.mark.parametrize(
    ("name", "amp", "expected"),
    [
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA GH200 480GB", "fp16", 989e12),
        ("NVIDIA A100-SXM4-80GB", "none", 19.5e12),
        ("NVIDIA A10", "bf16", 125e12),
        ("NVIDIA RTX A4000", "bf16", None),  # not the A40
        ("Tesla V100-SXM2-16GB", "bf16", None),  # it has no bf16
        ("Tesla V100-SXM2-16GB", "fp16", 125e12),
        ("Tesla V100-PCIE-32GB", "fp16", 112e12),
        ("Tesla V100-PCIE-32GB", "bf16", None),
        ("the CPU, 2 threads", "bf16", None),
    ],
)
def test_peak_of_a_gpu(name, amp, expected):
    assert peak_flops(name, amp) == expected


def test_host_waits_are_counted(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step():
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally at ...)", stacklevel=2)
        warnings.warn("something else", stacklevel=2)

    assert count_host_waits(step) == 2
    assert modes == ["warn", "default"]
