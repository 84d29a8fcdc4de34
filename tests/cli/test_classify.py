"""`vmae-det classify`: scores as those of `test`, formats of weights, outputs, and wrong inputs."""

import csv
import json

import numpy as np
import pytest
import torch
from numbered_videos import Recipe, write_numbered
from odd_videos import UNREADABLE

from vmae_det.checkpoint import save_weights
from vmae_det.checkpoint.convert import write_huggingface_folder
from vmae_det.cli.main import main
from vmae_det.data.catalog import get_dataset
from vmae_det.data.classes import ModelClasses
from vmae_det.engine.evaluation import run_evaluation
from vmae_det.formats.label_map import LabelMap, write_label_map
from vmae_det.inference import ActionClassifier, FeatureExtractor
from vmae_det.inference.predictor import read_config
from vmae_det.modeling import build_model
from vmae_det.utils.errors import DataError
from vmae_det.video.readers import open_video
from vmae_det.video.sources import LiveSource, open_source


@pytest.fixture
def cfg(tiny_cfg):
    return tiny_cfg("finetune", "TEST.NUM_CLIPS", 2, "TEST.NUM_CROPS", 3, "MODEL.BACKBONE.POSITIONS", "flat")


@pytest.fixture
def actions(mini_ava):
    return LabelMap.from_file(mini_ava / "annotations" / "mini_ava_actions.pbtxt")


@pytest.fixture
def weights(cfg, actions, tmp_path):
    """Random weights whose scores differ clearly between videos and classes."""
    torch.manual_seed(3)
    model = build_model(cfg)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    label_map = ModelClasses(actions, "").to_checkpoint()
    return save_weights(model.state_dict(), cfg.dump(), tmp_path / "model.pt", label_map)


@pytest.fixture
def classify(weights, tmp_path, capsys):
    """Run the command; return its status and output."""

    def run(*arguments, weights=weights, output=tmp_path / "out", keys=()):
        options = ["--weights", str(weights)] + (["--output", str(output)] if output else [])
        status = main(["classify", *map(str, arguments), *options, *keys])
        return status, capsys.readouterr()

    return run


@pytest.fixture
def video(tmp_path):
    return write_numbered(tmp_path / "v", Recipe(count=60))


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def written(tmp_path):
    out = tmp_path / "out"
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def test_scores_are_those_of_test(cfg, mini_ava, weights, classify, tmp_path, actions):
    cfg.merge_from_list(["MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(tmp_path / "test")])
    run_evaluation(cfg)
    expected = np.load(tmp_path / "test" / "scores.npz")
    files, _ = get_dataset(str(mini_ava / "clips_val.yaml")).labeled_videos()
    assert classify(mini_ava / "clips", "--format", "csv,jsonl")[0] == 0
    for file, scores in zip(files, expected["scores"]):
        stem = file.relative_to(mini_ava / "clips").with_suffix("")
        rows = rows_of(tmp_path / "out" / f"{stem}_classes.csv")
        assert [row["rank"] for row in rows] == [str(rank + 1) for rank in range(len(actions))]
        assert {row["video"] for row in rows} == {stem.as_posix()}
        assert rows[0]["class"] == actions.names[scores.argmax()]
        by_name = {row["class"]: float(row["score"]) for row in rows}
        np.testing.assert_allclose([by_name[name] for name in actions.names], scores, atol=1e-6)
        line = json.loads((tmp_path / "out" / f"{stem}_classes.jsonl").read_text())
        assert line["video"] == stem.as_posix()
        assert line["classes"] == [
            {"id": int(row["id"]), "name": row["class"], "score": float(row["score"])} for row in rows
        ]
    assert np.ptp(expected["scores"], axis=0).max() > 0.02  # the videos differ
    assert np.ptp(expected["scores"], axis=1).min() > 0.02  # the classes differ


def test_a_folder_of_hugging_face(cfg, weights, actions, video, tmp_path):
    expected = ActionClassifier(read_config(weights))(video)
    assert expected.scores.sum() == pytest.approx(1)
    state_dict = torch.load(weights, weights_only=True)["model"]
    write_huggingface_folder(state_dict, cfg, ModelClasses(actions, "").to_checkpoint(), tmp_path / "folder")
    of_folder = read_config(tmp_path / "folder")
    of_folder.merge_from_list(["MODEL.DEVICE", "cpu", "TEST.NUM_CLIPS", 2, "TEST.NUM_CROPS", 3])
    of_folder.merge_from_list(["INPUT.SAMPLING_RATE", cfg.INPUT.SAMPLING_RATE])
    result = ActionClassifier(of_folder)(video)
    np.testing.assert_allclose(result.scores, expected.scores, atol=1e-5)
    assert result.label_map.names == actions.names  # of id2label
    assert result.top(3) == [(name, pytest.approx(score, abs=1e-5)) for name, score in expected.top(3)]


def test_table(classify, video, tmp_path, actions):
    status, printed = classify(video, "--top-k", 2, output=None)
    assert status == 0
    lines = printed.out.splitlines()
    start = lines.index("v")
    assert lines[start + 1].split() == ["rank", "score", "class"]
    assert [line.split()[0] for line in lines[start + 2 :]] == ["1", "2"]
    assert lines[start + 2].split(maxsplit=2)[2] in actions.names
    assert not (tmp_path / "out").exists()


def test_done_videos_are_skipped(classify, tmp_path):
    videos = tmp_path / "videos"
    for name in ("a", "below/b"):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        write_numbered(videos / name, Recipe(count=30))
    UNREADABLE["text"](videos / "c")
    status, printed = classify(videos)
    assert status == 2
    assert f"1 of 3 videos failed: {videos / 'c.mp4'}" in printed.err
    names = [f"{name}_classes.{form}" for name in ("a", "below/b") for form in ("csv", "jsonl")]
    assert written(tmp_path) == names
    (videos / "c.mp4").unlink()
    (tmp_path / "out" / "a_classes.jsonl").unlink()
    kept = (tmp_path / "out" / "below" / "b_classes.csv").stat().st_mtime_ns
    status, printed = classify(videos)
    assert status == 0
    assert "Skipping 1 of 2 videos already done" in printed.out
    assert written(tmp_path) == names
    assert (tmp_path / "out" / "below" / "b_classes.csv").stat().st_mtime_ns == kept
    assert classify(videos, "--overwrite")[0] == 0
    assert (tmp_path / "out" / "below" / "b_classes.csv").stat().st_mtime_ns > kept


def test_names_of_classes(cfg, weights, actions, video, classify, tmp_path):
    nameless = tmp_path / "nameless.pt"
    save_weights(torch.load(weights, weights_only=True)["model"], cfg.dump(), nameless, None)
    status, printed = classify(video, weights=nameless, output=None)
    assert status == 0
    assert "contains no class names; the classes are numbered from 0; pass a --label-map" in printed.out
    best = ActionClassifier(read_config(weights))(video).scores.argmax()
    assert f"class {best}\n" in printed.out
    write_label_map(tmp_path / "map.pbtxt", actions)
    status, printed = classify(video, "--label-map", tmp_path / "map.pbtxt", weights=nameless, output=None)
    assert status == 0
    assert actions.names[best] in printed.out
    write_label_map(tmp_path / "short.pbtxt", actions.select(np.arange(3)))
    status, printed = classify(video, "--label-map", tmp_path / "short.pbtxt", weights=nameless, output=None)
    assert status == 2
    assert "MODEL.CLASSIFIER.NUM_CLASSES: 11, but the label map has 3 classes" in printed.err


def test_wrong_inputs(tiny_cfg, classify, video, tmp_path):
    detector = tiny_cfg("detect")
    other = save_weights(build_model(detector).state_dict(), detector.dump(), tmp_path / "detector.pt")
    status, printed = classify(video, weights=other)
    assert status == 2
    assert "classification needs a VideoClassifier, got ActionDetector" in printed.err
    for arguments, expected in (
        (("--format", "mp3"), "--format: unknown format 'mp3'"),
        (("--format", "overlay"), "--format: overlay requires --every SECONDS"),
        (("--format", "table"), "--output: not used, since --format only contains table"),
        (("--start", "1"), "--start: requires --every"),
        (("--every", "1", "--start", "2", "--end", "1"), "--end: must be greater than --start 2, got 1"),
        (("--every", "1", "--format", "csv", "--top-k", "2"), "--top-k: only used by table and overlay"),
    ):
        status, printed = classify(video, *arguments)
        assert status == 2
        assert expected in printed.err
    assert "csv requires --output" in classify(video, "--format", "csv", output=None)[1].err
    assert "0: a live stream has no end; classify it by --every" in classify("0")[1].err
    assert "no such video file" in classify(tmp_path / "none.mp4")[1].err
    assert not (tmp_path / "out").exists()


def test_the_number_of_classes_can_be_auto(weights, video):
    cfg = read_config(weights)
    expected = ActionClassifier(cfg)(video).scores
    features = FeatureExtractor(cfg)(video).features
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = "auto"
    np.testing.assert_array_equal(ActionClassifier(cfg)(video).scores, expected)
    np.testing.assert_array_equal(FeatureExtractor(cfg)(video).features, features)


# ---------------------------------------------------------------- over time


def test_a_clip_in_the_center_has_the_score_of_the_whole_video(cfg, weights, tmp_path):
    video = write_numbered(tmp_path / "v", Recipe(count=61))
    cfg.merge_from_list(["MODEL.WEIGHTS", str(weights), "TEST.NUM_CLIPS", 1, "INPUT.SAMPLING_RATE", 2])
    cfg.merge_from_list(["DATALOADER.DECODE_SMALLER", False])
    classifier = ActionClassifier(cfg)
    # The only clip of the whole video has frames 27, 29, 31 and 33, as that around frame 31.
    with classifier.stream(video, every=31 / 25) as stream:
        results = list(stream)
    assert [result.time for result in results] == pytest.approx([0, 31 / 25])
    np.testing.assert_allclose(results[1].scores, classifier(video).scores[None], atol=1e-6)
    assert np.abs(results[0].scores - results[1].scores).max() > 1e-3


def test_files_over_time(classify, video, tmp_path, actions):
    status, printed = classify(
        video, "--every", 0.5, "--format", "table,csv,jsonl,overlay,html", "--threshold", 0, "--top-k", 2
    )
    assert status == 0
    assert written(tmp_path) == [f"v_timeline.{form}" for form in ("csv", "html", "jsonl", "mp4")]
    rows = rows_of(tmp_path / "out" / "v_timeline.csv")
    times = ["0", "0.5", "1", "1.5", "2"]
    assert [row["time"] for row in rows[:: len(actions)]] == times
    lines = [json.loads(line) for line in (tmp_path / "out" / "v_timeline.jsonl").open()]
    assert [f"{line['time']:g}" for line in lines] == times
    for number, line in enumerate(lines):
        best = rows[number * len(actions)]
        assert (best["rank"], best["class"]) == ("1", line["classes"][0]["name"])
    assert [text.split()[0] for text in printed.out.splitlines() if " s  " in text][-1] == "2.00"
    assert "INPUT.SAMPLING" not in printed.out  # no warning, since the model is trained on dense clips
    drawn, source = open_video(tmp_path / "out" / "v_timeline.mp4"), open_video(video)
    assert len(drawn) == len(source)
    frame, plain = drawn.frames(np.array([30]))[0], source.frames(np.array([30]))[0]
    assert frame.shape[0] > plain.shape[0]  # the timeline is below the frame
    changed = np.abs(frame[: plain.shape[0]].astype(int) - plain).max(axis=2) > 60
    assert changed[:40, :100].any()
    assert not changed[60:].any()  # no box around the frame
    status, printed = classify(video, "--every", 0.5, "--format", "csv")
    assert "Skipping 1 of 1 videos" in printed.out
    # The files of the whole video are others.
    assert classify(video, "--format", "csv")[0] == 0
    assert "v_classes.csv" in written(tmp_path)


def test_clips_that_are_far_apart_are_one_person(weights, tmp_path):
    video = write_numbered(tmp_path / "v", Recipe(count=200))
    classifier = ActionClassifier(read_config(weights))
    with classifier.stream(video, every=3.5) as stream:
        assert [result.tracks.tolist() for result in stream] == [[1], [1], [1]]


def test_a_live_stream(weights, video):
    classifier = ActionClassifier(read_config(weights))
    frames = [frame.image for frame in open_source(video).frames()]
    clock = iter(np.arange(len(frames) * 10) / 100)
    source = LiveSource(frames, name="camera", clock=lambda: next(clock))
    with classifier.stream(source, every=0.1) as stream:
        results = list(stream)
    assert results
    assert all(result.scores.shape == (1, 11) and result.latency is not None for result in results)
    with pytest.raises(DataError, match="a live stream has no end"):
        classifier("rtsp://host/live")


def test_segments_are_reported(cfg, weights, video, classify):
    status, printed = classify(video, "--every", 1, output=None, keys=["INPUT.SAMPLING", "segments"])
    assert status == 0
    assert "INPUT.SAMPLING: segments, so" in printed.out
