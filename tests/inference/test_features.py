"""`vmae-det features` and its extractors: the numbers, the files, resuming, and errors."""

import json
import sys

import numpy as np
import polars as pl
import pytest
import torch
from numbered_videos import Recipe, write_numbered

from vmae_det.checkpoint import save_weights
from vmae_det.cli.main import main
from vmae_det.data.transforms import make_clip, resize, to_video, view_crop
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.inference import ActionPredictor, FeatureExtractor, PersonFeatureExtractor
from vmae_det.inference.features import ClipFeatureStream
from vmae_det.inference.predictor import read_config
from vmae_det.modeling import build_model
from vmae_det.modeling.features import video_features
from vmae_det.utils.errors import DataError, UserError
from vmae_det.video.readers import open_video
from vmae_det.video.sampling import sample_test_clip, sliding_clip_starts
from vmae_det.video.sources import Frame
from vmae_det.visualization.embedding import clip_features

SUFFIXES = {"npy": ".npy", "npz": ".npz", "hdf5": ".h5", "parquet": ".parquet"}


@pytest.fixture
def save(tiny_cfg, tmp_path):
    """save(TASK, KEY, VALUE, ...): the path of weights of an untrained model, with its config."""

    def make(task, *overrides):
        cfg = tiny_cfg(task, *overrides)
        torch.manual_seed(1)
        model = build_model(cfg)
        if task == "finetune":  # a LayerNorm that changes its input
            torch.nn.init.normal_(model.fc_norm.weight)
        return save_weights(model.state_dict(), cfg.dump(), tmp_path / f"{task}.pt")

    return make


@pytest.fixture
def video(tmp_path):
    return write_numbered(tmp_path / "v", Recipe(count=30))


@pytest.fixture
def features(save, video, tmp_path, capsys):
    """Run the command on `video`; return its status and output."""
    weights = save("finetune")

    def run(*arguments, videos=(video,), out="out"):
        options = ["--weights", weights, "--output", tmp_path / out, *arguments]
        return main(["features", *map(str, [*videos, *options])]), capsys.readouterr()

    return run


def read(path):
    """Return the features and the columns of a file."""
    if path.suffix == ".npy":
        return np.load(path), {}
    if path.suffix == ".parquet":
        table = pl.read_parquet(path)
        return table["features"].to_numpy(), table.drop("features").to_dict(as_series=False)
    if path.suffix == ".npz":
        content = dict(np.load(path))
    else:
        with pytest.importorskip("h5py").File(path) as file:
            content = {name: values[:] for name, values in file.items()}
    return content.pop("features"), content


def test_the_same_numbers_as_visualize_embedding(tiny_cfg, save):
    cfg = tiny_cfg("finetune", "MODEL.WEIGHTS", str(save("finetune")))
    expected = clip_features(cfg, limit=6)
    for row, path in zip(expected.features[:2].numpy(), expected.videos[:2], strict=True):
        frames = sample_test_clip(cfg.INPUT, len(open_video(path)), 0, 1)
        assert (np.diff(frames) == cfg.INPUT.SAMPLING_RATE).all()
        clips = FeatureExtractor(cfg, stride=int(frames[0]))(path)
        np.testing.assert_allclose(clips.features[1], row, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("view", ["crop", "stretch"])
def test_rows_are_the_clips_at_their_starts(save, video, view):
    extractor = FeatureExtractor.from_weights(save("detect"), frames=8, stride=5, view=view, batch_size=2)
    clips = extractor(video)
    frames = open_video(video).frames(np.arange(30))
    starts = list(range(0, 30 - 7, 5))
    for start, row in zip(starts, clips.features, strict=True):
        clip = make_clip(frames[start : start + 8])
        clip = resize(clip, 64, 64) if view == "stretch" else view_crop(clip, extractor.cfg)
        with torch.no_grad():
            expected = video_features(extractor.model, to_video(clip)[None])[0]
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(clips.start, np.array(starts) / 25, atol=1e-6)
    # ActionFormer: position in the features = (seconds * fps - num_frames / 2) / feat_stride.
    np.testing.assert_allclose((clips.center * 25 - 8 / 2) / 5, np.arange(len(starts)), atol=1e-4)


def test_starts_are_those_of_the_published_script():
    for num_frames in (16, 17, 100, 1001):
        for stride in (4, 16):
            published = list(range(0, num_frames - 15, stride))
            assert sliding_clip_starts(num_frames, 16, 1, stride).tolist() == published
    assert sliding_clip_starts(7, 16, 1, 4).tolist() == [0]
    assert sliding_clip_starts(32, 16, 2, 1).tolist() == [0, 1]


def test_kinds_agree_with_each_other(save, video):
    weights = save("finetune")
    mean, tokens, blocks = (
        FeatureExtractor.from_weights(weights, kind=kind)(video).features
        for kind in ("mean", "tokens", "blocks")
    )
    model = FeatureExtractor.from_weights(weights).model
    assert tokens.shape == (len(mean), 2, 4, 4, 24)
    assert blocks.shape == (len(mean), 2, 24)
    with torch.no_grad():
        for raw in (tokens.mean(axis=(1, 2, 3)), blocks[:, -1]):
            np.testing.assert_allclose(model.fc_norm(torch.from_numpy(raw)), mean, rtol=1e-4, atol=1e-4)
    assert FeatureExtractor.from_weights(save("pretrain"), kind="blocks")(video).features.shape[1:] == (2, 24)


class DamagedSource:
    """A video without the frames `missing`."""

    name, rate = "damaged", 25

    def __init__(self, count, missing):
        self.images = np.random.default_rng(0).integers(0, 255, (count, 64, 64, 3), dtype=np.uint8)
        self.times, self.missing = np.arange(count) / 25, missing

    def frames(self, first, wanted):
        for index in wanted.tolist():
            if index not in self.missing:
                yield Frame(index, float(self.times[index]), self.images[index])

    def close(self):
        pass


def test_damaged_frames_are_replaced_by_the_frame_before(save, caplog):
    extractor = FeatureExtractor.from_weights(save("finetune"), stride=2)
    whole, damaged = (DamagedSource(12, missing) for missing in (set(), {0, 5, 6, 7, 8, 11}))
    whole.images[[5, 6, 7, 8]] = whole.images[4]
    whole.images[0], whole.images[11] = whole.images[1], whole.images[10]
    expected, stream = ClipFeatureStream(extractor, whole), ClipFeatureStream(extractor, damaged)
    for (row, _), (other, _) in zip(expected, stream, strict=True):
        np.testing.assert_allclose(row, other, rtol=1e-5, atol=1e-6)
    assert stream.info["damaged_frames"] == 6
    assert "6 frames are damaged" in caplog.text
    with pytest.raises(DataError, match="none of its frames can be decoded"):
        list(ClipFeatureStream(extractor, DamagedSource(12, set(range(12)))))


@pytest.mark.parametrize("stride", [1, 16])
def test_few_frames_are_kept(save, monkeypatch, stride):
    kept = []
    extractor = FeatureExtractor.from_weights(save("finetune"), stride=stride)
    clip = ClipFeatureStream._clip
    monkeypatch.setattr(
        ClipFeatureStream, "_clip", lambda self, n, frames: kept.append(len(frames)) or clip(self, n, frames)
    )
    assert len(list(ClipFeatureStream(extractor, DamagedSource(100, set())))) == len(kept)
    assert max(kept) <= 4 + 1


@pytest.mark.parametrize("format", SUFFIXES)
def test_an_interrupted_run_leaves_nothing_and_the_next_one_the_same_bytes(
    tmp_path, features, monkeypatch, format
):
    if format == "hdf5":
        pytest.importorskip("h5py")
    other = write_numbered(tmp_path / "w", Recipe(count=20))
    videos = [other, tmp_path / "v.mp4"]
    arguments = ("--stride", 4, "--format", format)
    assert features(*arguments, videos=videos, out="whole")[0] == 0
    compute, calls = FeatureExtractor.features, []

    def interrupt(self, clips):
        calls.append(clips)
        if len(calls) == 8:  # in the second video
            raise KeyboardInterrupt
        return compute(self, clips)

    monkeypatch.setattr(FeatureExtractor, "features", interrupt)
    assert features(*arguments, videos=videos)[0] == 130
    out, suffix = tmp_path / "out", SUFFIXES[format]
    assert sorted(path.name for path in out.iterdir()) == sorted(["w.json", f"w{suffix}"])
    before = (out / "w.json").stat().st_mtime_ns
    status, printed = features(*arguments, videos=videos)
    assert status == 0
    assert "Skipping 1 of 2 videos" in printed.out
    assert (out / "w.json").stat().st_mtime_ns == before
    for name in ("v.json", "w.json", f"v{suffix}", f"w{suffix}"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    rows, columns = read(out / f"v{suffix}")
    manifest = json.loads((out / "v.json").read_text())
    assert manifest["shape"] == list(rows.shape) == [7, 24]
    assert (manifest["fps"], manifest["num_frames"], manifest["stride"]) == (25, 30, 4)
    np.testing.assert_allclose(manifest["start"], np.arange(7) * 4 / 25, atol=1e-6)
    for name, column in columns.items():
        np.testing.assert_allclose(column, manifest[name], atol=1e-6)
    direct = FeatureExtractor.from_weights(tmp_path / "finetune.pt", stride=4)(videos[1])
    np.testing.assert_array_equal(rows, direct.features)


@pytest.mark.parametrize("format", ["npy", "npz", "hdf5"])
def test_half_precision_rounds(tmp_path, features, format):
    if format == "hdf5":
        pytest.importorskip("h5py")
    arguments = ("--kind", "tokens", "--format", format)
    assert features(*arguments, out="single")[0] == features(*arguments, "--half")[0] == 0
    single, half = (read(tmp_path / out / f"v{SUFFIXES[format]}")[0] for out in ("single", "out"))
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, single.astype(np.float16))


def test_features_beyond_float16_and_nan_are_errors(tmp_path, features, monkeypatch):
    for value, expected in ((7e4, "--half: a feature is 70000"), (np.nan, "not finite")):
        monkeypatch.setattr(
            FeatureExtractor,
            "features",
            lambda self, clips, value=value: np.full((len(clips), 24), value, np.float32),
        )
        status, printed = features("--half")
        assert status == 2
        assert expected in printed.err
        assert list((tmp_path / "out").iterdir()) == []


def test_other_settings_and_other_videos_are_not_skipped(tmp_path, features):
    assert features()[0] == 0
    status, printed = features("--stride", 4)
    assert status == 2
    assert "out/v.json: the features have stride 16, and 4 is requested" in printed.err
    assert features("INPUT.TEST_SHORT_SIDE", 80)[0] == 2
    assert "Skipping 1 of 1 videos" in features("MODEL.DEVICE", "cpu", "TEST.BATCH_SIZE", 3)[1].out
    assert features("--stride", 4, "--overwrite")[0] == 0
    assert len(np.load(tmp_path / "out/v.npy")) == 7
    (tmp_path / "b").mkdir()
    other = write_numbered(tmp_path / "b" / "v", Recipe(count=40))
    status, printed = features("--stride", 4, videos=[other])
    assert status == 2
    assert "their sizes differ" in printed.err
    (tmp_path / "out/v.json").write_text("[1]")
    assert "is not a manifest of features" in features()[1].err


def test_an_interrupted_overwrite_is_not_done(tmp_path, features, monkeypatch):
    assert features()[0] == 0
    old = np.load(tmp_path / "out/v.npy")

    def interrupt(self, clips):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractor, "features", interrupt)
        assert features("--overwrite")[0] == 130
    np.testing.assert_array_equal(np.load(tmp_path / "out/v.npy"), old)
    assert not (tmp_path / "out/v.json").exists()
    status, printed = features()
    assert status == 0
    assert "Skipping" not in printed.out
    assert (tmp_path / "out/v.json").exists()


def test_a_video_shorter_than_a_clip_has_one_row(tmp_path, features):
    status, printed = features(videos=[write_numbered(tmp_path / "short", Recipe(count=2))])
    assert status == 0
    assert "has 2 frames, and a clip needs 4" in printed.out
    assert np.load(tmp_path / "out/short.npy").shape == (1, 24)


@pytest.mark.parametrize("format", ["npz", "hdf5", "parquet"])
def test_persons(tmp_path, save, video, capsys, format):
    if format == "hdf5":
        pytest.importorskip("h5py")
    cfg_keys = ("MODEL.ROI_HEAD.NUM_CLASSES", 3)
    if format == "npz":
        cfg_keys += ("MODEL.ROI_HEAD.CONTEXT", True, "MODEL.ROI_HEAD.NUM_LAYERS", 2)
    weights = save("detect", *cfg_keys)
    boxes = tmp_path / "boxes.csv"
    rows = ["0.2,0.1,0.2,0.4,0.9,0.95", "0.8,0.1,0.2,0.45,0.9,0.9", "0.8,0.6,0.2,0.8,0.9,0.9"]
    boxes.write_text("\n".join(f"v,{row}" for row in rows))
    options = ["--weights", weights, "--boxes", boxes, "--output", tmp_path / "out", "--format", format]
    assert main(["features", *map(str, [video, *options])]) == 0
    capsys.readouterr()
    found, columns = read(tmp_path / "out" / f"v{SUFFIXES[format]}")
    assert found.shape == (3, 48 if format == "npz" else 24)
    assert list(columns["track"]) == [1, 1, 2]
    np.testing.assert_allclose(columns["timestamp"], [0.2, 0.8, 0.8])
    np.testing.assert_allclose(columns["x2"], [0.4, 0.45, 0.8], atol=1e-6)
    label_map = {"ids": (1, 2, 3), "names": ("a", "b", "c"), "kinds": ("",) * 3}
    cfg = read_config(weights)
    named = save_weights(build_model(cfg).state_dict(), cfg.dump(), tmp_path / "named.pt", label_map)
    cfg.MODEL.WEIGHTS = str(named)
    scores = ActionPredictor(cfg)(video, read_person_boxes(boxes)).scores
    cfg.MODEL.WEIGHTS = str(named)
    extractor = PersonFeatureExtractor(cfg, read_person_boxes(boxes))
    pooled = np.concatenate([part for part, _ in extractor.stream(video)])
    np.testing.assert_array_equal(found, pooled)
    with torch.no_grad():
        expected = extractor.model.roi_head.classify(torch.from_numpy(pooled)).sigmoid().numpy()
    np.testing.assert_allclose(expected * np.asarray(columns["person_score"])[:, None], scores, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--persons", "--stride", "4"), "--stride: only used for clips"),
        (("--every", "2"), "--every: only used for persons"),
        (("--persons", "--format", "npy"), "--format: npy has no columns"),
        (("--format", "parquet", "--kind", "tokens"), "--format: parquet is written from memory"),
        (("--format", "parquet", "--half"), "--half: not used with --format parquet"),
        (("--boxes", "missing.csv"), "missing.csv: No such file"),
        (("--persons",), "features of persons need an ActionDetector"),
        (("--frames", "5"), "INPUT.NUM_FRAMES"),
        (("INPUT.SAMPLING_RATE", "4"), "INPUT.SAMPLING_RATE: is set by --sampling-rate"),
    ],
)
def test_invalid_options(tmp_path, features, arguments, expected):
    status, printed = features(*arguments)
    assert status == 2
    assert expected in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_live_streams_exported_models_and_incomplete_weights(tmp_path, features, save, tiny_cfg, monkeypatch):
    assert "a live stream has no end" in features(videos=["rtsp://127.0.0.1:9/x"])[1].err
    cfg = tiny_cfg("finetune")
    cfg.MODEL.WEIGHTS = "m.onnx"
    with pytest.raises(UserError, match=r"m\.onnx is an exported model"):
        FeatureExtractor(cfg)
    # A classifier's features depend on fc_norm, which pre-trained weights lack.
    cfg.MODEL.WEIGHTS = str(save("pretrain"))
    with pytest.raises(UserError, match=r"without fc_norm\.weight"):
        FeatureExtractor(cfg)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert 'pip install "vmae_det[hdf5]"' in features("--format", "hdf5")[1].err
