"""Exported models return the scores of the model, also through `detect`; errors are one line."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cached_traces import cached_traces
from numbered_videos import Recipe, write_numbered
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from vmae_det.checkpoint import save_weights
from vmae_det.cli.main import main
from vmae_det.config import get_cfg
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.inference import onnx_session
from vmae_det.inference.export import exporter
from vmae_det.inference.export.exported_model import DETECTOR_INPUTS, METADATA_KEY, is_exported, move_program
from vmae_det.inference.export.exporter import export_model
from vmae_det.inference.scorers import EagerModel, load_scorer, read_stored_metadata
from vmae_det.modeling import build_model
from vmae_det.utils.errors import ConfigError, UserError, WeightsError

FORMS = {"torch": ".pt2", "onnx": ".onnx"}
LABELS = {"ids": [1, 2, 4], "names": ["walk", "sit", "talk"], "kinds": ["", "", ""]}


@pytest.fixture(params=FORMS, scope="module")
def form(request):
    if request.param == "onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(module)
    return request.param


@pytest.fixture(scope="module", autouse=True)
def trace_once():
    """Trace each model once for both forms."""
    with cached_traces():
        yield


def trained(folder, architecture, *opts):
    """Return the config of a small model, and save its weights."""
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", architecture, "INPUT.CROP_SIZE", 64, "INPUT.NUM_FRAMES", 4),
            *("MODEL.BACKBONE.EMBED_DIM", 24, "MODEL.BACKBONE.DEPTH", 1, "MODEL.BACKBONE.NUM_HEADS", 2),
            *("MODEL.ROI_HEAD.NUM_CLASSES", 3, "MODEL.CLASSIFIER.NUM_CLASSES", 3),
            *("INPUT.TEST_SHORT_SIDE", 64, "MODEL.DEVICE", "cpu", *opts),
        ]
    )
    torch.manual_seed(0)
    model = build_model(cfg)
    for name, value in model.named_parameters():  # so that the scores depend on the input
        if "norm" not in name and "patch_embed" not in name:
            nn.init.normal_(value, std=0.5)
    cfg.MODEL.WEIGHTS = str(folder / f"{architecture}.pt")
    save_weights(model.state_dict(), cfg.dump(), cfg.MODEL.WEIGHTS, LABELS)
    return cfg


@pytest.fixture(scope="module")
def detector(form, tmp_path_factory):
    """The config of a detector, its exported file, and the report of the export."""
    folder = tmp_path_factory.mktemp(form)
    cfg = trained(folder, "ActionDetector")
    output = folder / ("model" + FORMS[form])
    return cfg, output, export_model(cfg, output, form, LABELS)


def scorer_of(output, cfg, *opts):
    """Return the scorer that `detect` would use."""
    cfg = cfg.clone()
    cfg.merge_from_list(["MODEL.WEIGHTS", str(output), *opts])
    return load_scorer(cfg)


def batch(counts, height, width):
    """Return a batch of clips; `counts` are the numbers of persons in each."""
    generator = torch.Generator().manual_seed(sum(counts))
    shape = (len(counts), 3, 4, height, width)
    boxes = []
    for count in counts:
        corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values
        boxes.append((corners * torch.tensor([width, height])).flatten(1))
    return {
        "video": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        "boxes": boxes,
        "person_scores": [torch.rand(count, generator=generator) for count in counts],
        "size": [torch.tensor([width - 9.0, height])] * len(counts),
    }


def assert_same_scores(eager, exported, tolerance=1e-4):
    all_scores = []
    for counts in ([1], [3], [0], [1, 0, 3, 1], [0, 0, 0, 0], [2, 1, 0, 1]):
        for size in ((64, 64), (64, 112), (96, 32)):
            inputs = batch(counts, *size)
            expected, actual = eager(inputs), exported(inputs)
            assert [len(scores) for scores in actual] == counts
            for a, b in zip(actual, expected):
                np.testing.assert_allclose(a, b, atol=tolerance)
            all_scores += expected
    assert np.concatenate(all_scores).std(axis=0).min() > 0.05, (
        "the scores must vary for the test to be valid"
    )


def test_exported_detector_scores_as_the_model_does(detector):
    cfg, output, report = detector
    assert report.difference < 1e-5
    compared = {(clips, people) for clips, people, *_ in report.cases}
    assert compared == {(clips, people) for clips in (1, 4) for people in (0, 1, 3)}
    assert_same_scores(EagerModel(cfg), scorer_of(output, cfg))


def test_options_of_the_heads(form, tmp_path):
    """SlowFast's aligned RoIAlign with a fixed sampling ratio, without person scores; and attention. The
    backbone has rotary positions.
    """
    head = ("ALIGNED", True, "SAMPLING_RATIO", 2, "USE_PERSON_SCORE", False, "TEMPORAL_POOL", "max")
    head += ("CONTEXT", True, "NUM_LAYERS", 2, "NAME", "AttentionRoIHead")
    opts = [f"MODEL.ROI_HEAD.{value}" if number % 2 == 0 else value for number, value in enumerate(head)]
    opts += ["MODEL.BACKBONE.NAME", "VJepa21ViT"]
    cfg = trained(tmp_path, "ActionDetector", "MODEL.BACKBONE.DEPTH", 2, *opts)
    output = tmp_path / ("model" + FORMS[form])
    export_model(cfg, output, form)
    assert read_stored_metadata(output)["label_map"] is None
    # The attention of these weights is saturated, which amplifies rounding.
    assert_same_scores(EagerModel(cfg), scorer_of(output, cfg), tolerance=3e-4)


@pytest.mark.parametrize(
    ("architecture", "backbone"), [("ActionDetector", "VideoViT"), ("VideoClassifier", "VJepa2ViT")]
)
def test_token_dropout(form, tmp_path, architecture, backbone):
    """The numbers of tokens that are left are formulas of height and width in the file."""
    opts = ("MODEL.BACKBONE.TOKEN_KEEP_RATE", 0.7, "MODEL.BACKBONE.NAME", backbone, "INPUT.NUM_FRAMES", 8)
    cfg = trained(tmp_path, architecture, *opts)
    report = export_model(cfg, tmp_path / ("model" + FORMS[form]), form)
    assert report.difference < 2e-5


def test_hiera(tmp_path):
    """Its position table and its windows follow height and width in the file."""
    for module in ("hiera", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    keys = {"NAME": "Hiera", "EMBED_DIM": 64, "DEPTH": 5, "NUM_HEADS": 8, "PATCH_SIZE": 32}
    keys["STAGES"] = (1, 1, 2, 1)
    options = [part for key, value in keys.items() for part in (f"MODEL.BACKBONE.{key}", value)]
    cfg = trained(tmp_path, "ActionDetector", *options)
    report = export_model(cfg, tmp_path / "model.onnx", "onnx")
    assert report.difference < 1e-4
    eager, exported = EagerModel(cfg), scorer_of(tmp_path / "model.onnx", cfg)
    for size in ((64, 64), (96, 160)):
        inputs = batch([2, 1], *size)
        for expected, actual in zip(eager(inputs), exported(inputs)):
            np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_exported_classifier_scores_as_the_model_does(form, tmp_path, capsys):
    """The file is written by the command."""
    opts = ("MODEL.CLASSIFIER.LINEAR_PROBE", True, "MODEL.BACKBONE.CLASS_TOKEN", True)
    cfg = trained(tmp_path, "VideoClassifier", *opts)
    output = tmp_path / "new" / ("model" + FORMS[form])
    assert main(["export", "--weights", cfg.MODEL.WEIGHTS, "--output", str(output)]) == 0
    assert f"{output}: " in capsys.readouterr().out
    model = exporter.build_model_with_weights(cfg).eval()
    run = (exporter._load_onnx if form == "onnx" else exporter._load_torch)(output)
    for clips in (1, 4):
        video = batch([0] * clips, 64, 80)["video"]
        with torch.no_grad():
            expected = model({"video": video})["scores"]
        torch.testing.assert_close(run(video), expected, rtol=0, atol=1e-4)
        assert expected.std() > 0.01
    weights, cfg.MODEL.WEIGHTS = cfg.MODEL.WEIGHTS, str(output)
    scores = load_scorer(cfg, "VideoClassifier")({"video": video})
    np.testing.assert_allclose(np.stack(scores), expected[:, None], atol=1e-4)
    metadata = read_stored_metadata(output)
    assert metadata["label_map"] == LABELS
    assert weights not in metadata["config"]
    assert metadata["video"] == {"frames": 4, "side_multiple": 16, "smallest_side": 32}


def test_file_whose_scores_differ_is_deleted(tmp_path, monkeypatch):
    cfg = trained(tmp_path, "VideoClassifier")
    model = exporter.ClassifierGraph(exporter.build_model_with_weights(cfg)).eval()
    monkeypatch.setattr(exporter, "trace", lambda *_: None)
    monkeypatch.setattr(exporter, "_write_torch", lambda _, path, *__: path.write_bytes(b"a program"))
    monkeypatch.setattr(exporter, "_load_torch", lambda path: lambda *inputs: model(*inputs) + 2e-4)
    with pytest.raises(WeightsError, match=r"deleted: its scores differ .* by 2\.0e-04, more than 1e-04"):
        export_model(cfg, tmp_path / "out" / "model.pt2", "torch")
    assert list((tmp_path / "out").iterdir()) == []


def test_file_contains_no_paths_of_the_machine(detector):
    cfg, output, _ = detector
    content = output.read_bytes()
    for path in (output, cfg.MODEL.WEIGHTS, exporter.__file__, torch.__file__):
        assert str(Path(path).parent).encode() not in content


def test_detect_with_exported_model(detector, mini_ava, tmp_path, capsys):
    cfg, output, _ = detector
    video = sorted((mini_ava / "videos").glob("*.mp4"))[0]
    boxes = tmp_path / "boxes.csv"
    lines = [(2, "0.1,0.2,0.4,0.9"), (3, "0.1,0.2,0.4,0.9"), (3, "0.6,0.2,0.8,0.9"), (4, "0,0,1,1")]
    boxes.write_text("".join(f"{video.stem},{second},{box},0.9\n" for second, box in lines))
    rows = []
    for weights in (cfg.MODEL.WEIGHTS, output):
        out = tmp_path / "out" / str(len(rows))
        command = [
            "detect",
            str(video),
            "--boxes",
            str(boxes),
            "--weights",
            str(weights),
            "--output",
            str(out),
            *("SOLVER.AMP", "none"),  # an exported file computes in float32
        ]
        assert main(command) == 0
        rows.append(read_action_csv(out / f"{video.stem}.csv", kind="detections"))
    assert len(rows[0]) == len(lines) * 3
    np.testing.assert_array_equal(rows[0].action, rows[1].action)
    np.testing.assert_allclose(rows[0].score, rows[1].score, atol=1e-4)


def test_keys_fixed_by_the_export_cannot_be_overridden(detector):
    cfg, output, _ = detector
    scorer_of(output, cfg, "INPUT.TEST_SHORT_SIDE", 96)
    expected = r"^MODEL\.ROI_HEAD\.TEST_BOX_SCALE: \(1\.2, 1\.2\), but .* was exported with \(1\.1, 1\.05\)"
    with pytest.raises(ConfigError, match=expected):
        scorer_of(output, cfg, "MODEL.ROI_HEAD.TEST_BOX_SCALE", (1.2, 1.2))


def test_invalid_uses(tmp_path, capsys):
    cfg = trained(tmp_path, "ActionDetector")
    command = ["export", "--weights", cfg.MODEL.WEIGHTS, "--output"]
    for arguments, expected in (
        (["model.bin"], "model.bin ends in '.bin', expected .pt2 or .onnx"),
        (["model.onnx", "--format", "torch"], "expected the suffix .pt2 for the format torch, got '.onnx'"),
        (
            [str(tmp_path / "m.pt2"), "--opts", "MODEL.ROI_HEAD.NUM_CLASSES", "4"],
            "does not fit the model of the config",
        ),
    ):
        assert main([*command, *arguments]) == 2
        assert expected in capsys.readouterr().err
    pretraining = trained(tmp_path, "MaskedAutoencoder").MODEL.WEIGHTS
    assert main(["export", "--weights", pretraining, "--output", str(tmp_path / "m.pt2")]) == 2
    assert "expected ActionDetector or VideoClassifier, got MaskedAutoencoder" in capsys.readouterr().err
    assert not list(tmp_path.glob("*m.pt2"))


def test_missing_onnxruntime(tmp_path, monkeypatch):
    cfg = trained(tmp_path, "ActionDetector")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnxruntime is not installed: pip install 'vmae_det\[onnx\]'"):
        export_model(cfg, tmp_path / "model.onnx", "onnx")
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(UserError, match=r"pip install 'vmae_det\[onnx\]'"):
        read_stored_metadata(tmp_path / "model.onnx")


def test_unreadable_files(form, tmp_path):
    path = tmp_path / ("noise" + FORMS[form])
    path.write_bytes(b"not a model" * 100)
    with pytest.raises(
        WeightsError, match=rf"noise{FORMS[form]}: (not an ONNX model|damaged, or not a torch.export arch)"
    ):
        read_stored_metadata(path)
    with pytest.raises(WeightsError, match="no such checkpoint file"):
        read_stored_metadata(tmp_path / ("gone" + FORMS[form]))


def foreign(path, metadata):
    """Write a valid file of another program."""
    if path.suffix == ".pt2":
        program = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),))
        torch.export.save(program, path, extra_files={f"{METADATA_KEY}.json": metadata} if metadata else None)
        return
    import onnx

    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", 1, [1])], [value("y", 1, [1])]
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    if metadata:
        onnx.helper.set_model_props(model, {METADATA_KEY: metadata})
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (None, "contains no metadata of vmae_det"),
        ("{", "its metadata is damaged"),
        (json.dumps({"format": 1, "config": 3, "label_map": None}), "its metadata is damaged"),
        (json.dumps({"format": 99, "config": "", "label_map": None}), "metadata of version 99, expected 2"),
    ],
)
def test_missing_or_invalid_metadata(form, metadata, expected, tmp_path):
    path = tmp_path / ("other" + FORMS[form])
    foreign(path, metadata)
    with pytest.raises(WeightsError, match=rf"other{FORMS[form]}: {expected}"):
        read_stored_metadata(path)


@pytest.mark.parametrize(
    ("source", "exported"),
    [
        ("a/model.onnx", True),
        ("model.pt2", True),
        ("model.onnx.pt", False),
        ("a#1.onnx", True),
        ("https://host/model.onnx#sha256=00", True),
        ("https://host/model.pth?name=a.onnx", False),
        ("videomae-base", False),
    ],
)
def test_exported_files_are_recognized_by_their_suffix(source, exported):
    assert is_exported(source) == exported


def test_benchmark_takes_the_config_of_an_exported_model(detector, tmp_path):
    _, file, _ = detector
    video, figures = write_numbered(tmp_path / "v", Recipe()), tmp_path / "detect.json"
    command = ["benchmark", "detect", "--repeats", "1", "--video", str(video), "--minutes", ""]
    command += ["--no-steps", "--json"]
    assert main([*command, str(figures), "MODEL.WEIGHTS", str(file)]) == 0
    assert json.loads(figures.read_text())["parts"]["model"] > 0


# ---------------------------------------------------------------- other devices


def test_a_program_runs_on_a_gpu(form, detector, monkeypatch):
    """On fake tensors. The devices of the graph are those of the export, the CPU."""
    if form != "torch":
        pytest.skip("only files of torch.export contain devices")
    passes = pytest.importorskip("torch.export.passes")
    move = passes.move_to_device_pass
    gpu, program = torch.device("cuda", 0), torch.export.load(detector[1])
    program._example_inputs = None

    def as_before_torch_2_9(program, location):
        program = move(program, location)
        for node in program.graph.nodes:
            if node.target is torch.ops.aten.to.device:
                node.args = (node.args[0], torch.device("cpu"), *node.args[2:])
        return program

    monkeypatch.setattr(passes, "move_to_device_pass", as_before_torch_2_9)
    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv()):
        for tensors in (program.state_dict, program.constants):
            for name, value in tensors.items():
                fake = torch.empty_like(value)
                tensors[name] = nn.Parameter(fake) if isinstance(value, nn.Parameter) else fake
        run = move_program(program, gpu).module()
        sizes = {"boxes": (3, 4), "person_scores": (3,), "sizes": (3, 2)}
        inputs = {name: torch.empty(size, device=gpu) for name, size in sizes.items()}
        inputs["video"] = torch.empty(2, 3, 4, 64, 96, dtype=torch.uint8, device=gpu)
        inputs["clips"] = torch.empty(3, dtype=torch.int64, device=gpu)
        scores = run(*(inputs[name] for name in DETECTOR_INPUTS))
    assert (scores.device, scores.shape) == (gpu, (3, 3))


def test_a_program_stays_on_the_cpu_with_torch_2_4(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.export.passes", None)
    with pytest.raises(RuntimeError, match=r"set MODEL\.DEVICE cpu, or install torch 2\.5 or newer"):
        move_program(None, torch.device("cuda", 0))


class Runtime:
    """Stand-in for onnxruntime.

    Args:
        available: the providers that it was built with.
        loaded: the providers that a session gets.
    """

    GraphOptimizationLevel = SimpleNamespace(ORT_ENABLE_ALL=0, ORT_DISABLE_ALL=1)

    class SessionOptions:
        def add_session_config_entry(self, key, value):
            pass

    def __init__(self, available, loaded):
        self.get_available_providers = lambda: available
        self.loaded = loaded

    def InferenceSession(self, path, options, providers):
        self.providers = providers
        return SimpleNamespace(get_providers=lambda: self.loaded)


CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("device", "available", "loaded", "providers", "warning"),
    [
        ("cuda:3", [CUDA, CPU], [CUDA, CPU], [(CUDA, {"device_id": 3}), CPU], ""),
        ("cuda:3", [CUDA, CPU], [CPU], [(CUDA, {"device_id": 3}), CPU], "cannot load its CUDA provider"),
        ("cuda:0", [CPU], [CPU], [CPU], "pip install onnxruntime-gpu"),
        ("cpu", [CUDA, CPU], [CPU], [CPU], ""),
    ],
)
def test_onnx_files_run_on_the_gpu_of_the_process(
    monkeypatch, caplog, device, available, loaded, providers, warning
):
    runtime = Runtime(available, loaded)
    monkeypatch.setattr(onnx_session, "import_onnx_packages", lambda *_: [runtime])
    onnx_session.open_session(Path("model.onnx"), torch.device(device))
    assert runtime.providers == providers
    assert warning in caplog.text
    assert bool(warning) == bool(caplog.records)


def test_onnxruntime_without_a_cpu_provider(monkeypatch):
    monkeypatch.setattr(onnx_session, "import_onnx_packages", lambda *_: [Runtime([CUDA], [CUDA])])
    with pytest.raises(UserError, match=r"^model\.onnx: this build of onnxruntime has no CPU provider"):
        onnx_session.open_session(Path("model.onnx"))
