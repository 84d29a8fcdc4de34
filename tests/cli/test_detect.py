"""`vmae-det detect`: several videos, skipped and failed videos, and options."""

import json

import av
import numpy as np
import pytest
from numbered_videos import Recipe, numbered_frame, numbers, write_numbered, x264
from odd_videos import UNREADABLE
from PIL import Image

from vmae_det.checkpoint import save_weights
from vmae_det.cli.main import main
from vmae_det.engine import launch
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.inference.person_sources import WholeFramePerson
from vmae_det.inference.predictor import ActionPredictor, read_config
from vmae_det.inference.stream import StreamOptions
from vmae_det.modeling import build_model
from vmae_det.utils.errors import DataError, UserError
from vmae_det.video.discovery import find_video_inputs
from vmae_det.video.readers import open_video


@pytest.fixture
def weights(tiny_cfg, tmp_path):
    cfg = tiny_cfg("detect", "MODEL.ROI_HEAD.NUM_CLASSES", 3)
    label_map = {"ids": (1, 2, 7), "names": ("stand", "walk, or run", 'wave "hello"'), "kinds": ("",) * 3}
    return save_weights(build_model(cfg).state_dict(), cfg.dump(), tmp_path / "model.pt", label_map)


@pytest.fixture
def detect(weights, tmp_path, capsys):
    """Run the command with --whole-frame every half second; return its status and output."""

    def run(*arguments):
        options = ["--weights", str(weights), "--output", str(tmp_path / "out"), "--whole-frame"]
        status = main(["detect", *map(str, arguments), *options, "--every", "0.5"])
        return status, capsys.readouterr()

    return run


def make(path, **recipe):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_numbered(path, Recipe(**({"count": 30} | recipe)))


def written(tmp_path):
    """Return the files in the output folder."""
    out = tmp_path / "out"
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def test_a_folder_with_a_broken_video(tmp_path, detect):
    videos = tmp_path / "videos"
    make(videos / "a")
    make(videos / "below" / "b")
    UNREADABLE["text"](videos / "c")
    status, printed = detect(videos, "--format", "csv")
    assert status == 2
    assert written(tmp_path) == ["a.csv", "below/b.csv"]
    assert "c.mp4: cannot be read as a video" in printed.out
    assert f"1 of 3 videos failed: {videos / 'c.mp4'}" in printed.err
    # The second run only retries the failed video.
    before = (tmp_path / "out/a.csv").stat().st_mtime_ns
    status, printed = detect(videos, "--format", "csv")
    assert status == 2
    assert "Skipping 2 of 3 videos already done" in printed.out
    assert (tmp_path / "out/a.csv").stat().st_mtime_ns == before
    (videos / "c.mp4").unlink()
    assert detect(videos, "--format", "csv", "--overwrite")[0] == 0
    assert (tmp_path / "out/a.csv").stat().st_mtime_ns > before


@pytest.mark.usefixtures("preloaded_processes")
def test_processes_share_the_videos(tmp_path, detect):
    for name in "abc":
        make(tmp_path / "videos" / name)
    UNREADABLE["text"](tmp_path / "videos" / "d")
    assert detect(tmp_path / "videos", "--format", "jsonl", "--num-gpus", 2)[0] == 2
    assert written(tmp_path) == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_processes_are_counted_for_the_device_of_the_config(tmp_path, detect, monkeypatch):
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 1)
    status, printed = detect(make(tmp_path / "v"), "--format", "jsonl", "--num-gpus", 2)
    assert status == 0
    assert "--num-gpus 2: MODEL.DEVICE is cpu" in printed.err  # that of the weights


def test_keyframes_before_the_start_of_the_clock(tmp_path, detect):
    video = make(tmp_path / "v", count=100)
    assert "--video-start: -2 places keyframes before second 0" in detect(video, "--video-start", -2)[1].err
    status, _ = detect(video, "--video-start", -2, "--start", 2, "--format", "csv")
    assert status == 0
    rows = read_action_csv(tmp_path / "out/v.csv", kind="detections")
    assert set(rows.timestamp) == {0, 0.5, 1, 1.5}


def test_part_of_a_video_and_some_actions(tmp_path, detect):
    video = make(tmp_path / "v", count=100)
    arguments = (video, "--start", 1, "--end", 2.4, "--actions", "7", "stand")
    assert detect(*arguments)[0] == 0
    assert written(tmp_path) == ["v.csv", "v.jsonl", "v_actions.mp4"]
    lines = [json.loads(line) for line in (tmp_path / "out/v.jsonl").open()]
    assert [line["timestamp"] for line in lines] == [1, 1.5, 2]
    assert {action["name"] for action in lines[0]["people"][0]["actions"]} == {"stand", 'wave "hello"'}
    rows = read_action_csv(tmp_path / "out/v.csv", kind="detections")
    assert set(rows.action) == {1, 7}
    assert len(rows) == 3 * 2
    drawn = open_video(tmp_path / "out/v_actions.mp4")
    assert len(drawn) == 36  # frames 25 to 60
    assert [line["people"][0]["track"] for line in lines] == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--format", "csv,mp3"), "--format: unknown format 'mp3'"),
        (("--actions", "wlak"), "actions: 'wlak' is not in the label map"),
        (("--start", "99"), "no keyframe from second 99 on: its last frame is at second "),
    ],
)
def test_invalid_choices(tmp_path, detect, arguments, expected):
    status, printed = detect(make(tmp_path / "v"), *arguments)
    assert status == 2
    assert expected in printed.err
    assert not (tmp_path / "out").exists() or not written(tmp_path)


def test_a_write_error_removes_all_files_of_the_video(tmp_path, detect, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vmae_det.video.writer.VideoWriter.write", fail)
    status, printed = detect(make(tmp_path / "v"))
    assert status == 2
    assert "cannot be written: No space left on device" in printed.err
    assert list((tmp_path / "out").iterdir()) == []


def test_the_overlay_has_the_frames_of_the_video(tmp_path, detect):
    video = make(tmp_path / "v", count=60, size=(192, 144), options=x264(keyint=20))
    assert detect(video, "--format", "overlay", "--threshold", "0.0")[0] == 0
    drawn, source = open_video(tmp_path / "out/v_actions.mp4"), open_video(video)
    np.testing.assert_allclose(drawn.times, source.times, atol=1e-4)
    pictures, plain = drawn.frames(np.arange(60)), source.frames(np.arange(60))
    changed = np.abs(pictures.astype(int) - plain).max(axis=(1, 2, 3)) > 60
    assert np.flatnonzero(~changed).tolist() == [57, 58, 59]  # a quarter of a second after the last keyframe
    with av.open(str(tmp_path / "out/v_actions.mp4")) as file:
        assert file.streams.video[0].average_rate == 25


def test_a_folder_of_frames_and_a_pattern(tmp_path, detect):
    folder = tmp_path / "frames.d"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(numbered_frame(number, 96, 64)).save(folder / f"img_{number:03d}.png")
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / f"other_{number:03d}.png")
    (folder / "rate.txt").write_text("10")
    pattern = folder / "img_%03d.png"
    assert numbers(open_video(pattern).frames(np.arange(12))) == list(range(12))
    assert detect(pattern, "--format", "jsonl")[0] == 0
    assert written(tmp_path) == ["frames.d.jsonl"]
    lines = [json.loads(line) for line in (tmp_path / "out/frames.d.jsonl").open()]
    assert [line["timestamp"] for line in lines] == [0, 0.5, 1]
    status, printed = detect(folder / "none_%03d.png")
    assert status == 2
    assert "no image matches this pattern" in printed.err


def test_inputs(tmp_path):
    for name in ("10", "9", "sub/x"):
        path = tmp_path / "set" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    frames = tmp_path / "set" / "frames"
    frames.mkdir()
    (frames / "1.jpg").touch()
    found = find_video_inputs([str(tmp_path / "set"), "rtsp://host/live", "0"])
    stems = [str(video.stem) for video in found]
    assert stems == ["9", "10", "frames", "sub/x", "live", "camera_0"]
    assert [video.is_live for video in found] == [False] * 4 + [True] * 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="contains no videos and no images"):
        find_video_inputs([str(tmp_path / "empty")])
    with pytest.raises(UserError, match="VIDEO: the path is empty"):  # not the current folder
        find_video_inputs([""])
    with pytest.raises(UserError, match="would be named 'x'"):
        find_video_inputs(["a/x.mp4", "b/x.mp4"])


def test_malicious_names(tmp_path, detect):
    video = make(tmp_path / 'a, "b" <i>%d')
    assert detect(video, "--format", "csv,jsonl")[0] == 0
    rows = read_action_csv(tmp_path / 'out/a, "b" <i>%d.csv', kind="detections")
    assert list(rows.videos) == ["a_ _b_ <i>%d"]
    line = (tmp_path / 'out/a, "b" <i>%d.jsonl').read_text().splitlines()[0]
    assert json.loads(line)["video"] == 'a, "b" <i>%d'


def test_heat_maps_are_drawn_on_request(tmp_path, detect):
    video = make(tmp_path / "v", count=12, size=(96, 64))
    options = ("--format", "overlay,csv", "--threshold", "0", "--smooth", "0")
    pictures, tables = [], []
    for name in ((), ("--explain",)):
        assert detect(video, *options, *name, "--overwrite")[0] == 0
        pictures.append(open_video(tmp_path / "out/v_actions.mp4").frames(np.arange(12)).astype(int))
        tables.append((tmp_path / "out/v.csv").read_text())
    assert np.abs(pictures[1] - pictures[0]).max() > 50
    assert tables[0] == tables[1]


def test_heat_maps_need_gradients_and_single_keyframes(tmp_path, detect):
    video = make(tmp_path / "v")
    assert (
        "--explain: explains the scores of single keyframes; add --smooth 0"
        in detect(video, "--explain")[1].err
    )
    refused = detect(video, "--explain", "--smooth", 0, "--format", "csv")[1].err
    assert "--explain: only used by the overlay" in refused


def test_heat_maps_of_an_exported_model(weights, tmp_path, monkeypatch):
    predictor = ActionPredictor(read_config(weights))
    monkeypatch.setattr(predictor, "scorer", lambda batch: [])  # an exported model is no EagerModel
    with pytest.raises(UserError, match="an exported model has no gradients"):
        predictor.stream(make(tmp_path / "v"), WholeFramePerson(), options=StreamOptions(explain=0.5))


def test_a_heat_map_covers_the_frame_and_peaks_at_one(weights, tmp_path):
    predictor = ActionPredictor(read_config(weights))
    video = make(tmp_path / "v", size=(192, 144))
    maps = []
    for threshold in (0.0, 1.0):
        options = StreamOptions(explain=threshold, overlap=False)
        with predictor.stream(video, WholeFramePerson(), options=options) as stream:
            maps.append(next(stream).heat_maps)
    assert maps[0].shape == (1, 16, 21)  # a frame of 64 x 85 pixels, padded to 64 x 96
    assert (maps[0].min() >= 0, maps[0].max()) == (True, 1)
    assert not maps[1].any()  # no score reaches 1
