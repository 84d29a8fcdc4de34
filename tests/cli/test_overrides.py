"""`KEY VALUE` overrides, and keys and options of other toolkits."""

import argparse

import pytest

from vmae_det.cli import detect, train
from vmae_det.cli.main import main
from vmae_det.cli.overrides import split_overrides, take_local_rank
from vmae_det.config.defaults import KEYS
from vmae_det.config.other_toolkits import OPTION_REPLACEMENTS, REPLACEMENTS
from vmae_det.engine import launch
from vmae_det.utils.errors import ConfigError


def parser_of(module):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser


@pytest.mark.parametrize(
    ("line", "overrides"),
    [
        ("a.mp4 b.mp4 --weights w.pt --output out SEED 3", "SEED 3"),
        ("--weights w.pt --output out a.mp4 PERSON_DETECTOR.SCORE 0.3", "PERSON_DETECTOR.SCORE 0.3"),
        ("a.mp4 --weights w.pt --output out --opts SEED 3", "SEED 3"),
        ("a.mp4 --weights w.pt --output out --actions walk run MODEL.DEVICE cpu", "MODEL.DEVICE cpu"),
        ("--weights model.pth --output SEED TEST.MP4 GOPR0001.MP4 CLIP.AVI", ""),
        ("a.mp4 --weights w.pt --output out --html SOLVR.EPOCHS 3", "SOLVR.EPOCHS 3"),
        ("a.mp4 --weights w.pt --output out SEED=3", "SEED=3"),
        ("a.mp4 --weights w.pt --output out NUM_GPUS 3", "NUM_GPUS 3"),
    ],
)
def test_overrides_after_several_positional_arguments(line, overrides):
    arguments, found = split_overrides(line.split(), parser_of(detect))
    assert found == overrides.split()
    assert [*arguments, *found] == line.replace("--opts ", "").split()


def error_of(capsys, *argv):
    assert main(list(argv)) == 2
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0
    return message


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["TRAIN.BATCH_SIZE", "8"], "a key of SlowFast, use SOLVER.BATCH_SIZE instead"),
        (["TRAIN.ENABLE", "False"], "use vmae-det train, or vmae-det test instead"),
        (["NUM_GPUS", "2"], "use the option --num-gpus instead"),
        (["DATA.PATH_TO_DATA_DIR", "x"], "use a dataset file in DATASETS.TRAIN"),
        (["SOLVER.MAX_ITER", "9"], "a key of detectron2, use SOLVER.EPOCHS"),
        (
            ["MODEL.NUM_CLASSES", "9"],
            "use MODEL.CLASSIFIER.NUM_CLASSES or MODEL.ROI_HEAD.NUM_CLASSES instead",
        ),
        (["--opts", "TEST.CHECKPOINT_FILE_PATH", "x"], "use MODEL.WEIGHTS instead"),
        (["train_cfg.max_epochs", "9"], "a key of mmaction2, use SOLVER.EPOCHS instead"),
        (["train_cfg.max_epochs=9"], "a key of mmaction2, use SOLVER.EPOCHS instead"),
        (["MULTIGRID.SHORT_CYCLE", "True"], "a key of SlowFast without a counterpart here"),
        (["BN.NORM_TYPE", "x"], "without a counterpart here: networks have no batch normalization"),
        (["SOLVER.NESTEROV", "True"], "a key of SlowFast, use SOLVER.MOMENTUM instead"),
        (["MODEL.RESNETS.DEPTH", "50"], "use PERSON_DETECTOR.CONFIG, a YAML file of detectron2 instead"),
        (["INPUT.CROP.ENABLED", "True"], "a key of detectron2, use INPUT.TRAIN_CROP and INPUT.CROP_SIZE"),
        (["solver.epochs", "9"], "did you mean 'SOLVER.EPOCHS'?"),
        (["SOLVER.EPOCHS=9"], "write SOLVER.EPOCHS 9"),
        (
            ["--cfg-options", "train_cfg.max_epochs=9"],
            "--cfg-options: an option of another toolkit; use KEY VALUE",
        ),
        (["--cfg-options", "train_cfg.max_epochs=9"], "use SOLVER.EPOCHS instead"),
        (["--cfg", "x.yaml"], "--cfg: an option of another toolkit; use --config-file"),
        (["--work-dir=x"], "use OUTPUT_DIR"),
        (["--resume", "old/checkpoint.pth"], "--resume: takes no value, got old/checkpoint.pth; resumes"),
        (["SOLVER.EPOCHS", "3", "--resume", "x"], "--resume: not a config key; options must come before"),
        (["--config-file", "configs/MiniAVA/detct.yaml"], "did you mean 'MiniAVA/detect.yaml'"),
    ],
)
def test_keys_and_options_of_other_toolkits_suggest_ours(capsys, argv, expected):
    assert expected in error_of(capsys, "train", *argv)


def test_a_config_file_of_another_toolkit_suggests_our_key(capsys, tmp_path):
    (tmp_path / "slowfast.yaml").write_text("TRAIN:\n  BATCH_SIZE: 64\n")
    message = error_of(capsys, "train", "--config-file", str(tmp_path / "slowfast.yaml"))
    assert "TRAIN.BATCH_SIZE: no such config key (in " in message
    assert "use SOLVER.BATCH_SIZE instead" in message
    (tmp_path / "mmaction2.py").write_text("_base_ = ['default_runtime.py']\n")
    message = error_of(capsys, "train", "--config-file", str(tmp_path / "mmaction2.py"))
    assert "mmaction2.py: expected a YAML file, got a Python config" in message


def test_suggested_keys_and_options_exist():
    names = {option.split(",")[0].split(" ")[0] for option in OPTION_REPLACEMENTS.values()}
    options = {name for name in names if name.startswith("--")}
    assert options <= {option for action in parser_of(train)._actions for option in action.option_strings}
    groups = {key.rpartition(".")[0] for key in KEYS}
    for table in REPLACEMENTS.values():
        for key, ours in table.items():
            assert key not in KEYS
            for word in ours.replace(",", " ").replace(":", " ").split():
                if word.isupper() and len(word) > 4 and word not in ("FSDP",):
                    assert word in KEYS or word in groups, (key, word)


def test_configs_are_found_by_their_path_in_a_clone(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "--config-file", "configs/MiniAVA/detect.yaml", "DATASETS.ROOT", "none"]) == 0
    _, _, shown = capsys.readouterr().out.partition("\n")  # the first line names the file
    assert main(["inspect", "--config-file", "MiniAVA/detect.yaml", "--opts", "DATASETS.ROOT", "none"]) == 0
    assert capsys.readouterr().out.partition("\n")[2] == shown


def test_a_command_without_config_accepts_no_keys(capsys):
    message = error_of(capsys, "check-data", "x.yaml", "SOLVER.EPOCHS", "3")
    assert "SOLVER.EPOCHS: vmae-det check-data takes no config keys" in message


def test_the_local_rank_of_older_launchers(capsys, monkeypatch):
    for added in (["--local-rank=3"], ["--local_rank", "3"]):
        monkeypatch.setenv("LOCAL_RANK", "0")  # so that monkeypatch restores it
        monkeypatch.delenv("LOCAL_RANK")
        assert take_local_rank([*added, "train", "SEED", "3"]) == ["train", "SEED", "3"]
        assert launch.os.environ["LOCAL_RANK"] == "3"
    with pytest.raises(ConfigError, match=r"--local-rank: expected the rank of a process, got 'x'"):
        take_local_rank(["--local-rank=x", "train"])


def test_more_processes_than_gpus(capsys, monkeypatch):
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 2)
    launch.check_processes(2)
    assert capsys.readouterr().err == ""
    with pytest.raises(ConfigError, match=r"--num-gpus: got 8, and this machine has 2 GPUs"):
        launch.check_processes(8)
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(launch, "count_cores", lambda: 2)
    launch.check_processes(8)
    assert "warning: --num-gpus 8: this machine has no GPU that torch can use" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"--num-gpus: got 9, and this machine has no GPU .* 2 CPU cores"):
        launch.check_processes(9)
    with pytest.raises(SystemExit):
        main(["train", "--num-gpus", "1000000"])
    assert "expected an integer in [1, 1024], got" in capsys.readouterr().err
