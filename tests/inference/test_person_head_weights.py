"""Weights with a person head: detection on video, person boxes, features and exported files need no other
detector.
"""

import json

import numpy as np
import pytest
import torch
from cached_traces import cached_traces
from one_stage_models import HEAD, LABELS, detector_config, randomize

from vmae_det.checkpoint import save_weights
from vmae_det.cli.main import main
from vmae_det.formats.ava_csv import LabelMap, read_action_csv
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.inference import ActionPredictor, predictor
from vmae_det.inference.export.exporter import export_model
from vmae_det.inference.person_sources import WholeFramePerson
from vmae_det.inference.predictor import read_config
from vmae_det.inference.scorers import EagerModel, load_scorer
from vmae_det.modeling import build_model
from vmae_det.utils.errors import ConfigError


@pytest.fixture
def weights(tiny_cfg, mini_ava, tmp_path):
    """A checkpoint of a one-stage detector, as training writes it."""
    cfg = tiny_cfg("detect", *HEAD)
    names = LabelMap.from_file(mini_ava / "annotations" / "mini_ava_actions.pbtxt")
    label_map = {"ids": list(names.ids), "names": list(names.names), "kinds": list(names.kinds)}
    model = randomize(build_model(cfg))
    return save_weights(model.state_dict(), cfg.dump(), tmp_path / "model.pt", label_map)


@pytest.fixture
def video(mini_ava):
    return sorted((mini_ava / "videos").glob("*.mp4"))[0]


@pytest.fixture
def no_detector(monkeypatch):
    """Fail if a person detector is built."""

    def refuse(cfg):
        raise ConfigError("a person detector was built")

    monkeypatch.setattr(predictor, "build_person_detector", refuse)


def detect(video, weights, output, *options):
    """Run `detect`; return the lines of its JSON lines."""
    command = ["detect", str(video), "--weights", str(weights), "--output", str(output)]
    if weights.suffix == ".pt":
        command += ["--precision", "fp32"]
    assert main([*command, "--smooth", "0", *map(str, options)]) == 0
    return [json.loads(line) for line in (output / f"{video.stem}.jsonl").open()]


def test_detect_writes_all_files_and_runs_the_network_once(
    weights, video, tmp_path, no_detector, monkeypatch
):
    clips = []
    run = EagerModel._run
    monkeypatch.setattr(
        EagerModel, "_run", lambda self, batch: clips.extend(batch["video"]) or run(self, batch)
    )
    lines = detect(video, weights, tmp_path / "out", "--every", 2, "--format", "csv,jsonl,overlay,html")
    assert len(clips) == len(lines) == 5
    people = [person for line in lines for person in line["people"]]
    assert {person["track"] for person in people}
    assert all(person["person_score"] >= 0.35 for person in people)
    for suffix in (".csv", "_actions.mp4", ".html"):
        assert (tmp_path / "out" / f"{video.stem}{suffix}").stat().st_size


def test_boxes_are_those_of_test_and_of_detect_persons(weights, video, mini_ava, tmp_path, no_detector):
    """`test`, `detect-persons` and `detect` find the same people, and their metrics are the same."""
    val, out = mini_ava / "val.yaml", tmp_path / "out"
    options = ["MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(out), "MODEL.DEVICE", "cpu"]
    assert main(["test", *options]) == 0
    tested = json.loads((out / "results.json").read_text())
    written = tmp_path / "persons.csv"
    command = ["detect-persons", "--weights", str(weights), "--output", str(written)]
    assert main([*command, "--dataset", str(val)]) == 0
    truth = str(mini_ava / "annotations" / "mini_ava_val.csv")
    for path in (out / "persons.csv", written):
        result = tmp_path / "result.json"
        assert (
            main(["evaluate", "--ground-truth", truth, "--person-boxes", str(path), "--json", str(result)])
            == 0
        )
        metrics = json.loads(result.read_text())
        assert metrics["num_detections"] > 50
        for name, key in (("ap_50", "AP50"), ("ap", "AP"), ("recall_50", "recall50")):
            assert metrics[name] == pytest.approx(tested[f"person_{key}"], abs=1e-6)
    first, second = read_person_boxes(out / "persons.csv"), read_person_boxes(written)
    np.testing.assert_allclose(first.boxes, second.boxes, atol=2e-6)
    detected = read_action_csv(out / "detections.csv", kind="detections")
    name = str(detected.videos[0])
    lines = detect(mini_ava / "videos" / f"{name}.mp4", weights, tmp_path / "d", "--video-start", 900)
    (line,) = [line for line in lines if line["timestamp"] == 904]
    boxes, scores = second.at(name, 904.0)
    assert len(boxes)
    np.testing.assert_allclose([person["box"] for person in line["people"]], boxes, atol=1e-4)
    np.testing.assert_allclose([person["person_score"] for person in line["people"]], scores, atol=1e-4)


def test_given_boxes_and_another_detector_override(weights, video, tmp_path, monkeypatch):
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"{video.stem},2,0.1,0.2,0.4,0.9,0.95\n")
    (line,) = detect(video, weights, tmp_path / "boxes", "--boxes", boxes, "--format", "jsonl")
    assert [person["box"] for person in line["people"]] == [[0.1, 0.2, 0.4, 0.9]]

    class Corner:
        def detect(self, frames):
            return [(np.array([[0, 0, 10, 10]], np.float32), np.ones(1, np.float32)) for _ in frames]

    monkeypatch.setattr(predictor, "build_person_detector", lambda cfg: Corner())
    for number, opts in enumerate(
        (("PERSON_DETECTOR.NAME", "fasterrcnn_resnet50_fpn"), ("PERSON_DETECTOR.WEIGHTS", "random"))
    ):
        lines = detect(
            video, weights, tmp_path / str(number), "--every", 5, "--format", "jsonl", "--opts", *opts
        )
        assert [len(line["people"]) for line in lines] == [1, 1]


def test_thresholds(weights, video, tmp_path, no_detector):
    """The options of person detectors set the thresholds of the person head too."""

    def scores(name, *opts):
        options = ("--every", 5, "--format", "jsonl", *(("--opts", *opts) if opts else ()))
        lines = detect(video, weights, tmp_path / name, *options)
        return [[person["person_score"] for person in line["people"]] for line in lines]

    default = scores("default")
    middle = float(np.median(np.concatenate(default)))
    expected = [[score for score in own if score >= middle] for own in default]
    assert scores("detector", "PERSON_DETECTOR.SCORE", middle - 1e-4) == expected
    assert scores("head", "MODEL.PERSON_HEAD.SCORE_THRESHOLD", middle - 1e-4) == expected
    assert scores("most", "PERSON_DETECTOR.MAX_PEOPLE", 1) == [own[:1] for own in default]
    assert scores("none", "PERSON_DETECTOR.SCORE", 1.0) == [[], []]


def test_explain_views_and_features(weights, video, tmp_path, no_detector):
    lines = detect(video, weights, tmp_path / "explain", "--every", 5, "--explain")
    assert any(line["people"] for line in lines)
    views = ("TEST.SHORT_SIDES", "(64, 80)", "TEST.FLIP", "True")
    several = detect(video, weights, tmp_path / "views", "--every", 5, "--format", "jsonl", "--opts", *views)
    for line, other in zip(lines, several):
        assert [p["box"] for p in line["people"]] == [p["box"] for p in other["people"]]
    command = ["features", str(video), "--weights", str(weights), "--output", str(tmp_path / "features")]
    assert main([*command, "--persons", "--every", "5"]) == 0
    features = np.load(tmp_path / "features" / f"{video.stem}.npz")
    expected = [person["box"] for line in lines for person in line["people"]]
    np.testing.assert_allclose(
        np.stack([features[side] for side in ("x1", "y1", "x2", "y2")], axis=1), expected, atol=1e-4
    )
    assert features["features"].shape == (len(expected), 24)


def test_weights_without_a_person_head(tiny_cfg, tmp_path, video, capsys):
    cfg = tiny_cfg("detect")
    path = save_weights(build_model(cfg).state_dict(), cfg.dump(), tmp_path / "two.pt")
    command = ["detect-persons", str(video), "--weights", str(path), "--output", str(tmp_path / "p.csv")]
    assert main(command) == 2
    assert "has no person head; train one (docs/guides/one_stage.md)" in capsys.readouterr().err


def test_config_from_before_person_heads(tiny_cfg, tmp_path):
    """Its person detector was the default, not a choice."""
    cfg = tiny_cfg("detect", "PERSON_DETECTOR.NAME", "fasterrcnn_resnet50_fpn_v2")
    lines = cfg.dump().splitlines()
    start = next(i for i, line in enumerate(lines) if line == "  PERSON_HEAD:")
    end = next(i for i in range(start + 1, len(lines)) if not lines[i].startswith("    "))
    old = "\n".join(lines[:start] + lines[end:])
    for text, name in ((old, "auto"), (cfg.dump(), "fasterrcnn_resnet50_fpn_v2")):
        path = save_weights(build_model(cfg).state_dict(), text, tmp_path / f"{name}.pt")
        assert name == read_config(path).PERSON_DETECTOR.NAME


# ---------------------------------------------------------------- exported files


def test_an_exported_file_has_the_metrics_of_its_weights(weights, mini_ava, tmp_path):
    """`test` finds the people with a one-stage file, as with the weights."""
    output, results = tmp_path / "model.pt2", []
    assert main(["export", "--weights", str(weights), "--output", str(output)]) == 0
    for path in (weights, output):
        out = tmp_path / path.suffix[1:]
        options = ["MODEL.WEIGHTS", str(path), "OUTPUT_DIR", str(out), "MODEL.DEVICE", "cpu"]
        assert main(["test", *options]) == 0
        results.append(json.loads((out / "results.json").read_text()))
    assert results[0]["person_recall50"] > 0
    assert results[1] == pytest.approx(results[0], abs=1e-4)


@pytest.fixture(scope="module")
def trace_once():
    """Trace each model once for both formats."""
    with cached_traces():
        yield


# An RoI head that takes tokens and the boxes of the other people, on a backbone that drops tokens. Two scales
# are traced in less time than the default four.
ATTENTION = ("MODEL.ROI_HEAD.NAME", "AttentionRoIHead", "MODEL.ROI_HEAD.CONTEXT", True)
ATTENTION += ("MODEL.BACKBONE.TOKEN_KEEP_RATE", 0.7, "MODEL.PERSON_HEAD.SCALES", (2.0, 1.0))


@pytest.fixture(
    params=[(".pt2", ()), (".onnx", ()), (".pt2", ATTENTION), (".onnx", ATTENTION)], scope="module"
)
def exported(request, tmp_path_factory, trace_once):
    """The config of a detector, and its exported file."""
    suffix, opts = request.param
    if suffix == ".onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("exported")
    cfg = detector_config(folder, *opts)
    output = folder / f"model{suffix}"
    report = export_model(cfg, output, "onnx" if suffix == ".onnx" else "torch", LABELS)
    assert report.difference < 5e-5  # the attention of these weights is saturated, which amplifies rounding
    assert "boxes and scores differ" in str(report)
    return cfg, output


@pytest.fixture(scope="module")
def scorer(exported):
    """The exported file. Its threshold is 0.5."""
    cfg, output = exported
    cfg = cfg.clone()
    cfg.MODEL.PERSON_HEAD.SCORE_THRESHOLD, cfg.MODEL.WEIGHTS = 0.5, str(output)
    return load_scorer(cfg)


@pytest.mark.parametrize("size", [(144, 192), (256, 352), (48, 480)])
@pytest.mark.parametrize("clips", [1, 4])
def test_exported_file_finds_what_the_model_finds(exported, scorer, clips, size, monkeypatch):
    cfg = exported[0].clone()
    generator = torch.Generator().manual_seed(clips)
    batch = {
        "video": torch.randint(0, 256, (clips, 3, 4, *size), generator=generator, dtype=torch.uint8),
        "size": [torch.tensor([size[1] - 7.0, size[0] - 4.0])] * clips,
    }
    batch["video"][0] = 0  # clips differ in their number of people
    threshold = float(np.sort(np.concatenate(EagerModel(cfg).find(batch).person_scores))[-3 * clips - 1])
    for own in (threshold + 1e-5, 1.0):
        cfg.MODEL.PERSON_HEAD.SCORE_THRESHOLD = own
        expected = EagerModel(cfg).find(batch)
        monkeypatch.setattr(scorer, "person_threshold", own)
        found = scorer.find(batch)
        assert sum(map(len, expected.boxes)) == (3 * clips if own < 1 else 0)
        for name in found._fields:
            for ours, theirs in zip(getattr(expected, name), getattr(found, name), strict=True):
                assert ours.shape == theirs.shape
                np.testing.assert_allclose(theirs, ours, atol=1e-4, rtol=1e-5)


def test_the_threshold_of_the_config_reaches_the_file(exported, scorer):
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (1, 3, 4, 64, 64), generator=generator, dtype=torch.uint8)
    batch = {"video": video, "size": [torch.tensor([64.0, 64.0])]}
    scores = np.concatenate(EagerModel(exported[0]).find(batch).person_scores)  # 0.35 or more
    found = np.concatenate(scorer.find(batch).person_scores)
    assert 0 < len(found) == (scores >= 0.5).sum() < len(scores)


def test_detect_with_an_exported_file(exported, video, tmp_path, no_detector, capsys):
    cfg, output = exported
    lines = detect(video, output, tmp_path / "file", "--every", 5, "--format", "jsonl")
    label_map = LabelMap(tuple(LABELS["ids"]), tuple(LABELS["names"]), tuple(LABELS["kinds"]))
    expected = ActionPredictor(cfg, label_map)(video, every=5)
    boxes = [person["box"] for line in lines for person in line["people"]]
    assert boxes
    np.testing.assert_allclose(boxes, expected.boxes, atol=1e-3)
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = str(output)
    with pytest.raises(ConfigError, match="finds the people itself and takes no person boxes"):
        ActionPredictor(cfg)(video, WholeFramePerson())
    cfg.TEST.FLIP = True
    with pytest.raises(ConfigError, match=r"TEST.FLIP: .* takes no person boxes"):
        ActionPredictor(cfg)


def test_onnx_file_for_other_programs(exported):
    """It needs the video and its size; non-maximum suppression is inside; the threshold has a default."""
    output = exported[1]
    if output.suffix != ".onnx":
        pytest.skip("another format")
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(output)
    assert [node.name for node in session.get_inputs()] == ["video", "sizes"]
    assert [node.name for node in session.get_outputs()] == ["boxes", "clips", "person_scores", "scores"]
    assert "NonMaxSuppression" in {node.op_type for node in onnx.load(output).graph.node}
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 64, 80), dtype=np.uint8)
    inputs = {"video": video, "sizes": np.array([[80, 64]] * 2, np.float32)}
    boxes, clips, person_scores, scores = session.run(None, inputs)
    assert len(boxes) == len(clips) == len(person_scores) == len(scores) > 0
    assert person_scores.min() >= 0.35
    assert (np.diff(clips) >= 0).all()
    threshold = np.median(person_scores)
    fewer = session.run(None, inputs | {"score_threshold": np.array(threshold)})
    assert 0 < len(fewer[0]) < len(boxes)


def test_export_of_a_detector_that_takes_boxes(tmp_path):
    """TEST.PERSON_BOXES dataset exports the two-stage detector of the same weights."""
    cfg = detector_config(tmp_path)
    cfg.TEST.PERSON_BOXES = "dataset"
    export_model(cfg, tmp_path / "two.pt2", "torch", LABELS)
    cfg.MODEL.WEIGHTS = str(tmp_path / "two.pt2")
    scorer = load_scorer(cfg)
    assert (scorer.takes_boxes, scorer.finds_persons) == (True, False)
