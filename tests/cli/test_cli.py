"""Help is fast, and every invalid usage ends in one line that names the problem."""

import runpy
import subprocess
import sys

import pytest
import torch
from preloaded import PreloadedCommand

from vmae_det import model_zoo
from vmae_det.checkpoint import save_weights
from vmae_det.cli.main import COMMANDS, main
from vmae_det.modeling import build_model

PROGRAM = [sys.executable, "-m", "vmae_det.cli.main"]


HELP = """
import contextlib, io, sys
from vmae_det.cli.main import COMMANDS, main
for arguments in (["--help"], *([name, "--help"] for name in COMMANDS)):
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            main(arguments)
    except SystemExit as end:
        assert end.code == 0, arguments
    assert "usage: vmae-det" in printed.getvalue(), arguments
    assert "torch" not in sys.modules, f"{arguments} imports torch"
print(len(COMMANDS))
"""


def test_help_needs_no_torch():
    """The help of all commands, in one process."""
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{len(COMMANDS)}\n"


def test_the_tools_are_the_commands(monkeypatch, capsys):
    tools = model_zoo.config_folder().parent / "tools"
    if not tools.is_dir():
        pytest.skip("the tools are part of a clone, not of the installed package")
    launchers = [tools / f"{name}.py" for name in ("train_net", "test_net", "demo", "evaluate_ava")]
    for launcher in (*launchers, tools.parent / "datasets" / "prepare.py"):
        monkeypatch.setattr(sys, "argv", [str(launcher), "--help"])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(launcher), run_name="__main__")
        assert end.value.code == 0
        assert "usage: vmae-det" in capsys.readouterr().out


def test_the_home_folder_in_arguments(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    for arguments in (["--data=~/none"], ["--data", "~/none"]):
        assert main(["train", *arguments]) == 2
        assert f"error: --data: '{tmp_path / 'none'}'" in capsys.readouterr().err


@pytest.fixture
def wrong(tiny_cfg, mini_ava, tmp_path):
    """Return a factory of valid configs and of files with errors."""

    class Files:
        def config(self, task, *overrides):
            path = tmp_path / f"{task}.yaml"
            path.write_text(tiny_cfg(task, *overrides).dump())
            return path

        def dataset(self, **changes):
            """Return the dataset file of the training set of MiniAVA with other files."""
            text = (mini_ava / "train.yaml").read_text()
            for key in ("videos", "annotations", "label_map", "person_boxes", "excluded"):
                text = text.replace(f"\n{key}: ", f"\n{key}: {mini_ava}/")
            for key, value in changes.items():
                text = "\n".join(
                    f"{key}: {value}" if line.startswith(f"{key}:") else line for line in text.splitlines()
                )
            path = tmp_path / "own.yaml"
            path.write_text(text)
            return path

        def annotations(self, change):
            """Return the dataset file of the training set of MiniAVA with a change in line 5 of its CSV."""
            lines = (mini_ava / "annotations" / "mini_ava_train.csv").read_text().splitlines()
            fields = lines[4].split(",")
            change(fields)
            lines[4] = ",".join(fields)
            path = tmp_path / "train.csv"
            path.write_text("\n".join(lines))
            return self.dataset(annotations=path)

        def file(self, name, content):
            path = tmp_path / name
            path.write_bytes(content)
            return path

    return Files()


def train_on(wrong, dataset):
    return ["train", "--config-file", wrong.config("detect"), "DATASETS.TRAIN", f"('{dataset}',)"]


def swap(fields):
    fields[2], fields[4] = fields[4], fields[2]


def pixels(fields):
    fields[2:6] = ["20", "30", "120", "140"]


def unknown_action(fields):
    fields[6] = "77"


def case_misspelt_key(wrong, tmp_path):
    return [
        "train",
        "--config-file",
        wrong.config("pretrain"),
        "SOLVER.EPOCS",
        "3",
    ], "did you mean 'SOLVER.EPOCHS'"


def case_missing_config(wrong, tmp_path):
    return ["train", "--config-file", "MiniAVA/pretrian.yaml"], "did you mean 'MiniAVA/pretrain.yaml'"


def case_impossible_crop(wrong, tmp_path):
    return [
        "train",
        "--config-file",
        wrong.config("pretrain"),
        "INPUT.CROP_SIZE",
        "65",
    ], "INPUT.CROP_SIZE: 65"


def case_missing_dataset(wrong, tmp_path):
    config = wrong.config("detect")
    return [
        "train",
        "--config-file",
        config,
        "DATASETS.TRAIN",
        "('mini_ava_tain',)",
    ], "did you mean 'mini_ava_train'"


def case_missing_annotations(wrong, tmp_path):
    return train_on(wrong, wrong.dataset(annotations="gone.csv")), "gone.csv does not exist"


def case_swapped_box(wrong, tmp_path):
    return train_on(wrong, wrong.annotations(swap)), "train.csv:5: "


def case_box_in_pixels(wrong, tmp_path):
    return train_on(wrong, wrong.annotations(pixels)), "pixels"


def case_unknown_action(wrong, tmp_path):
    return train_on(wrong, wrong.annotations(unknown_action)), "77"


def case_empty_csv(wrong, tmp_path):
    return train_on(wrong, wrong.dataset(annotations=wrong.file("empty.csv", b""))), "empty.csv"


def case_not_a_video(wrong, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.mp4").write_text("not a video")
    return [
        *("train", "--config-file", wrong.config("pretrain"), "DATASETS.TRAIN", f"('{folder}',)")
    ], "cannot be read as a video"


def case_not_a_video_in_a_worker(wrong, tmp_path):
    args, expected = case_not_a_video(wrong, tmp_path)
    return [*args, "DATALOADER.NUM_WORKERS", "1"], expected


def case_batch_larger_than_the_dataset(wrong, tmp_path):
    return [
        "train",
        "--config-file",
        wrong.config("detect"),
        "SOLVER.BATCH_SIZE",
        "4000",
    ], "SOLVER.BATCH_SIZE: 4000"


def case_another_architecture(wrong, tmp_path):
    from vmae_det.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(wrong.config("pretrain", "MODEL.BACKBONE.EMBED_DIM", 32))
    path = save_weights(build_model(cfg).state_dict(), cfg.dump(), tmp_path / "wide.pt")
    return [
        *("train", "--config-file", wrong.config("detect"), "MODEL.BACKBONE.CHECKPOINT", path)
    ], "(32,) in the file, (24,) in the model"


def case_not_a_checkpoint(wrong, tmp_path):
    path = wrong.file("model.pt", b"hello")
    return ["test", "--config-file", wrong.config("detect"), "MODEL.WEIGHTS", path], "model.pt"


def case_pickled_code(wrong, tmp_path):
    torch.save({"model": pytest.raises}, tmp_path / "model.pt")
    return [
        *("detect", "x.mp4", "--boxes", "b.csv", "--weights", tmp_path / "model.pt", "--output", tmp_path)
    ], "contains no config"


def case_missing_detections(wrong, tmp_path):
    return [
        *("evaluate", "--ground-truth", "gt.csv", "--detections", "det.csv", "--label-map", "map.pbtxt")
    ], "gt.csv"


def case_classes_do_not_match(wrong, tmp_path):
    config = wrong.config("detect")
    return ["train", "--config-file", config, "MODEL.ROI_HEAD.NUM_CLASSES", "80"], "set it to 11"


CASES = [value for name, value in sorted(globals().items()) if name.startswith("case_")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__.removeprefix("case_"))
def test_invalid_usage_ends_in_one_line(case, wrong, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, expected = case(wrong, tmp_path)
    assert main([str(arg) for arg in args]) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("vmae-det")]
    assert len(errors) == 1, captured.err
    assert errors[0].startswith("vmae-det: error: ")
    assert expected in errors[0]
    assert "Traceback" not in captured.err + captured.out
    assert "worker" not in errors[0]


def test_invalid_usage_in_a_separate_process(wrong):
    args = "train", "--config-file", wrong.config("pretrain"), "SOLVER.EPOCS", "3"
    done = subprocess.run([*PROGRAM, *args], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_reader_prints_nothing_itself(wrong, tmp_path):
    args, expected = case_not_a_video(wrong, tmp_path)
    with (tmp_path / "stdout").open("w") as stdout, (tmp_path / "stderr").open("w") as stderr:
        command = [*PROGRAM, *map(str, args), "DATALOADER.READER", "auto"]
        assert PreloadedCommand(command, stdout=stdout, stderr=stderr).wait(timeout=120) == 2
    lines = (tmp_path / "stderr").read_text().splitlines()
    assert lines
    assert [line for line in lines if expected not in line] == []


def test_unknown_commands_and_arguments():
    for args in ([], ["trian"], ["train", "--nmu-gpus", "2"]):
        with pytest.raises(SystemExit) as end:
            main(args)
        assert end.value.code == 2
