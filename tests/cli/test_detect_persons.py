"""`vmae-det detect-persons` with a detector of bright cells."""

import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "inference"))  # for onnx_detectors

from vmae_det.cli.main import main
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.person_boxes import format_person_boxes, read_person_boxes
from vmae_det.inference import detect_persons as module
from vmae_det.video.readers import open_video

pytest.importorskip("onnx", reason="requires onnx to create a detector")
pytest.importorskip("onnxruntime", reason="requires onnxruntime to run a detector")

from onnx_detectors import write_bright_detector


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """Return the options of a detector of bright cells."""
    path = write_bright_detector(tmp_path_factory.mktemp("net") / "net.onnx", "yolov8", "batch")
    return [
        "--opts",
        *("PERSON_DETECTOR.NAME", "onnx", "PERSON_DETECTOR.WEIGHTS", str(path)),
        *("PERSON_DETECTOR.SCORE", "0.4", "MODEL.DEVICE", "cpu"),
    ]


@pytest.fixture
def videos(mini_ava, tmp_path):
    """Return a folder with two videos."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for path in sorted((mini_ava / "videos").glob("*.mp4"))[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_people_of_a_folder_of_videos(videos, detector, tmp_path, capsys):
    output = tmp_path / "persons.csv"
    command = ["detect-persons", str(videos), "--output", str(output), "--video-start", "900"]
    assert main([*command, "--every", "2.5", *detector]) == 0
    assert capsys.readouterr().out.split()[-1] == str(output)
    found = read_person_boxes(output)
    assert sorted(found.videos) == sorted(path.stem for path in videos.iterdir())
    assert set(found.timestamp) == {900, 902.5, 905, 907.5}
    assert (found.score >= 0.4).all()
    assert not module.parts_folder(output).exists()
    first = output.read_bytes()
    assert main([*command, *detector]) == 2, "an existing file is not overwritten"
    assert "already exists" in capsys.readouterr().err
    assert output.read_bytes() == first


def test_boxes_match_the_detections_in_the_frames(videos, detector, tmp_path):
    from vmae_det.config import get_cfg
    from vmae_det.inference.person_detectors import build_person_detector
    from vmae_det.video.readers import open_video

    video, output = sorted(videos.iterdir())[0], tmp_path / "persons.csv"
    assert main(["detect-persons", str(video), "--output", str(output), *detector]) == 0
    cfg = get_cfg()
    cfg.merge_from_list(detector[1:])
    frame = open_video(video).frames(np.array([36]))[0]  # second 3
    ((boxes, scores),) = build_person_detector(cfg).detect([frame])
    kept_boxes, kept_scores = read_person_boxes(output).at(video.stem, 3.0)
    np.testing.assert_allclose(kept_boxes * [192, 144, 192, 144], boxes, atol=1e-3)
    np.testing.assert_allclose(kept_scores, scores, atol=1e-6)


def test_the_keyframes_of_a_dataset(mini_ava, detector, tmp_path):
    output = tmp_path / "persons.csv"
    assert (
        main(["detect-persons", "--dataset", str(mini_ava / "val.yaml"), "--output", str(output), *detector])
        == 0
    )
    wanted = read_action_csv(mini_ava / "annotations" / "mini_ava_val.csv")
    keyframes = {(wanted.videos[v], t) for v, t in zip(wanted.video, wanted.timestamp)}
    found = read_person_boxes(output)
    assert {(found.videos[v], t) for v, t in zip(found.video, found.timestamp)} <= keyframes
    assert len(found)


def test_a_broken_video_is_skipped_and_retried(videos, detector, tmp_path, capsys, monkeypatch):
    good, bad = sorted(videos.iterdir())
    content, output = bad.read_bytes(), tmp_path / "persons.csv"
    bad.write_bytes(b"no video")
    command = ["detect-persons", str(videos), "--output", str(output), *detector]
    assert main(command) == 2
    assert f"1 of 2 videos cannot be read, such as {bad}" in capsys.readouterr().err
    assert list(read_person_boxes(output).videos) == [good.stem]
    bad.write_bytes(content)
    asked = []
    kept = module._detect_video
    monkeypatch.setattr(
        module,
        "_detect_video",
        lambda *args: asked.append(args[2].name) or kept(*args),
    )
    assert main(command) == 0
    assert asked == [bad.stem], "finished videos are skipped"
    assert sorted(read_person_boxes(output).videos) == [good.stem, bad.stem]
    assert not module.parts_folder(output).exists()


def test_an_interrupted_run_is_resumed(videos, detector, tmp_path, monkeypatch):
    output, kept = tmp_path / "persons.csv", module._detect_video
    done = []

    def stopped(*args):
        if done:
            raise KeyboardInterrupt
        done.append(args[2].name)
        return kept(*args)

    command = ["detect-persons", str(videos), "--output", str(output)]
    monkeypatch.setattr(module, "_detect_video", stopped)
    assert main([*command, *detector]) == 130
    assert not output.exists()
    again = []
    monkeypatch.setattr(module, "_detect_video", lambda *args: again.append(args[2].name) or kept(*args))
    assert main([*command, *detector]) == 0
    assert sorted(done + again) == sorted(path.stem for path in videos.iterdir())
    whole = tmp_path / "whole.csv"
    assert main(["detect-persons", str(videos), "--output", str(whole), *detector]) == 0
    assert output.read_bytes() == whole.read_bytes()


def test_another_detector_starts_from_scratch(videos, detector, tmp_path, monkeypatch):
    output, kept = tmp_path / "persons.csv", module._detect_video
    monkeypatch.setattr(module, "_join", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    command = ["detect-persons", str(videos), "--output", str(output)]
    assert main([*command, *detector]) == 130
    monkeypatch.undo()
    again = []
    monkeypatch.setattr(module, "_detect_video", lambda *args: again.append(args[2].name) or kept(*args))
    assert main([*command, *detector, "PERSON_DETECTOR.SCORE", "0.5"]) == 0
    assert len(again) == 2
    assert (read_person_boxes(output).score >= 0.5).all()


@pytest.mark.usefixtures("preloaded_processes")
def test_several_processes_write_the_same_file(videos, detector, tmp_path):
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    assert main(["detect-persons", str(videos), "--output", str(one), *detector]) == 0
    assert main(["detect-persons", str(videos), "--output", str(two), "--num-gpus", "2", *detector]) == 0
    assert one.read_bytes() == two.read_bytes()


def test_a_folder_of_frames_has_the_same_name_as_in_detect(videos, detector, tmp_path):
    folder = tmp_path / "film"
    folder.mkdir()
    for index, frame in enumerate(open_video(sorted(videos.iterdir())[0]).frames(np.arange(0, 36, 12))):
        Image.fromarray(frame).save(folder / f"img_{index:05d}.png")
    found = []
    for asked in (folder, folder / "img_%05d.png"):
        output = tmp_path / f"{len(found)}.csv"
        assert main(["detect-persons", str(asked), "--output", str(output), *detector]) == 0
        found.append(output.read_text())
    assert found[0].startswith("film,0000,")
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "boxes.json"], "boxes.json: boxes are written as CSV"),
        (["--output", "boxes.PKL"], "boxes.PKL: boxes are written as CSV"),
        (["--output", "boxes.csv", "--video-start", "-5"], "expected a number in [0,"),
        (["rtsp://127.0.0.1:9/street", "--output", "boxes.csv"], "street: a live stream"),
    ],
)
def test_outputs_and_clocks_that_could_not_be_read(
    videos, detector, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    with suppress(SystemExit):
        assert main(["detect-persons", str(videos), *arguments, *detector]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("problem", ["same name", "comma", "missing", "empty folder", "nothing asked"])
def test_invalid_videos(videos, detector, tmp_path, capsys, problem):
    first = sorted(videos.iterdir())[0]
    asked, message = [str(videos)], ""
    if problem == "same name":
        (videos / "other").mkdir()
        first.rename(videos / "other" / sorted(videos.iterdir())[1].name)
        message = "has the same name as"
    elif problem == "comma":
        first.rename(videos / "a,b.mp4")
        message = "is not a valid video id"
    elif problem == "missing":
        asked, message = [str(videos / "none.mp4")], "no such video file"
    elif problem == "empty folder":
        (tmp_path / "empty").mkdir()
        asked, message = [str(tmp_path / "empty")], "contains no videos and no images"
    else:
        with pytest.raises(SystemExit):
            main(["detect-persons", "--output", str(tmp_path / "p.csv"), *detector])
        return
    assert main(["detect-persons", *asked, "--output", str(tmp_path / "p.csv"), *detector]) == 2
    assert message in capsys.readouterr().err


def test_lines_of_person_boxes(tmp_path):
    boxes = np.array([[0.1, 0.2, 0.5, 1.0], [0.3, 0.3, 0.3000000001, 0.9]])
    assert format_person_boxes("v", 2.0, boxes, np.array([0.9, 0.8])) == [
        "v,0002,0.100000,0.200000,0.500000,1.000000,,0.900000\n"
    ]
    for seconds, written in ((902.5, "902.5"), (0.0, "0000"), (1200.0, "1200"), (0.1 + 0.2, "0.3")):
        assert format_person_boxes("v", seconds, boxes[:1], np.array([1.0]))[0].split(",")[1] == written
