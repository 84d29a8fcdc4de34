"""`vmae-det visualize`: from the command line to files."""

import av
import cv2
import pytest

from vmae_det.checkpoint import save_weights
from vmae_det.cli.main import main
from vmae_det.formats.label_map import LabelMap
from vmae_det.modeling import build_model


@pytest.fixture
def weights(tiny_cfg, mini_ava, tmp_path):
    """Return the weights file of an untrained model, as written by training."""

    def make(task, *keys):
        cfg = tiny_cfg(task, *keys)
        names = LabelMap.from_file(mini_ava / "annotations" / "mini_ava_actions.pbtxt")
        label_map = {"ids": list(names.ids), "names": list(names.names), "kinds": list(names.kinds)}
        if task != "detect":
            label_map = None
        return str(save_weights(build_model(cfg).state_dict(), cfg.dump(), tmp_path / "model.pt", label_map))

    return make


@pytest.fixture
def video(mini_ava):
    return str(sorted((mini_ava / "videos").glob("*.mp4"))[0])


def check(printed, *names):
    """Check that the printed paths have these names and contain pictures and videos."""
    lines = [line for line in printed.splitlines() if not line.startswith("[")]  # without log lines
    assert [line.rsplit("/", 1)[-1] for line in lines] == list(names)
    for line in lines:
        if line.endswith(".png"):
            assert cv2.imread(line).std() > 5
        elif line.endswith(".mp4"):
            with av.open(line) as file:
                assert sum(1 for _ in file.decode(video=0)) >= 4


@pytest.mark.parametrize("topic", ["reconstruction", "attention", "batch", "curves", "embedding"])
def test_help_of_each_topic(topic, capsys):
    with pytest.raises(SystemExit) as end:
        main(["visualize", topic, "--help"])
    assert end.value.code == 0
    assert "--output" in capsys.readouterr().out


def test_reconstruction(weights, video, tmp_path, capsys):
    out = ["--output", str(tmp_path / "out")]
    model = ["--weights", weights("pretrain")]
    assert main(["visualize", "reconstruction", *model, "--clips", "1", "--ratio", "0.5", *out]) == 0
    check(capsys.readouterr().out, "reconstruction.png", "reconstruction.mp4")
    # The defaults include 95 % of 16 positions.
    assert main(["visualize", "reconstruction", *model, "--video", video, *out]) == 0
    check(capsys.readouterr().out, "reconstruction.png", "reconstruction.mp4")


@pytest.mark.parametrize("method", ["rollout", "last"])
def test_attention(weights, video, tmp_path, capsys, method):
    boxes = ["--box", "0.1", "0.2", "0.4", "0.9", "--box", "0.5", "0.2", "0.9", "0.9"]
    command = ["visualize", "attention", "--weights", weights("detect"), "--video", video, "--at", "2"]
    assert main([*command, *boxes, "--method", method, "--output", str(tmp_path)]) == 0
    stem = video.rsplit("/", 1)[-1].removesuffix(".mp4")
    check(capsys.readouterr().out, f"attention_{stem}.png", f"attention_{stem}.mp4")
    assert main([*command, "--box", "0.9", "0", "0.1", "1", "--output", str(tmp_path)]) == 2
    assert "expected x1 y1 x2 y2" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["pretrain", "finetune", "detect"])
def test_batch(tiny_cfg, tmp_path, capsys, task):
    (tmp_path / "config.yaml").write_text(tiny_cfg(task).dump())
    command = ["visualize", "batch", "--config-file", str(tmp_path / "config.yaml"), "--clips", "2"]
    assert main([*command, "--step", "1", "--output", str(tmp_path), "INPUT.FLIP", "1.0"]) == 0
    check(capsys.readouterr().out, "batch.png", "batch.mp4")


def test_curves(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="requires matplotlib")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    runs = [str(tmp_path / name) for name in ("one", "two")]
    out = ["--output", str(tmp_path / "curves.png")]
    assert main(["visualize", "curves", *runs, *out]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("skipped lines without a step and values: 1")
    check(printed[-1], "curves.png")
    assert main(["visualize", "curves", *runs, "--name", "first", *out]) == 2
    assert "--name: expected one per run, got 1 for 2 runs" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_embedding(weights, tmp_path, capsys, method):
    pytest.importorskip("matplotlib", reason="requires matplotlib")
    if method == "tsne":
        pytest.importorskip("sklearn", reason="requires scikit-learn")
    command = ["visualize", "embedding", "--weights", weights("finetune"), "--method", method]
    assert main([*command, "--limit", "12", "--output", str(tmp_path / "out")]) == 0
    check(capsys.readouterr().out, "embedding.png", "embedding.csv")


def test_weights_without_a_config_require_one(tiny_cfg, tmp_path, capsys):
    path = save_weights(build_model(tiny_cfg("pretrain")).state_dict(), None, tmp_path / "plain.pt", None)
    command = ["visualize", "reconstruction", "--weights", str(path), "--clips", "1", "--ratio", "0.5"]
    command += ["--output", str(tmp_path)]
    assert main(command) == 2
    assert "--config-file" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text(tiny_cfg("pretrain").dump())
    assert main([*command, "--config-file", str(tmp_path / "config.yaml")]) == 0
