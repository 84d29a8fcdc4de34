"""An option is used or refused, never ignored."""

import pytest

from vmae_det.cli import main as cli_main

DETECT = ["detect", "v.mp4", "--weights", "w.pt", "--output", "out"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([*DETECT, "--boxes", "b.csv", "--every", "2"], "--every: --boxes says at which times"),
        ([*DETECT, "--format", "csv,html", "--timeline"], "--timeline: the overlay alone shows it"),
        ([*DETECT, "--format", "csv,html", "--top-k", "5"], "--top-k: the overlay alone shows it"),
        ([*DETECT, "--format", "csv", "--html", "--font", "f.ttf"], "--font: the overlay alone shows it"),
        ([*DETECT, "--format", "jsonl", "--threshold", "0.5"], "--threshold: --format has neither"),
        (
            ["detect-persons", "--dataset", "mini_ava_val", "--output", "p.csv", "--every", "2"],
            "--every: --dataset has keyframes",
        ),
        (
            ["detect-persons", "--dataset", "mini_ava_val", "--output", "p.csv", "--video-start", "900"],
            "--video-start: --dataset has keyframes",
        ),
        (["benchmark", "data", "--key-every", "30"], "--key-every: is of the videos that --videos makes"),
        (["benchmark", "train", "--alike"], "--alike: is about the model of --against"),
        (["train", "--resume", "--eval-only"], "--resume: goes on with a training"),
    ],
)
def test_what_would_be_ignored_is_refused(tmp_path, monkeypatch, capsys, arguments, problem):
    monkeypatch.chdir(tmp_path)
    assert cli_main.main(arguments) == 2
    assert problem in capsys.readouterr().err


def test_options_of_slurm_with_a_local_job(tmp_path, monkeypatch, capsys):
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    for option, value in (("--partition", "gpu"), ("--sbatch", "account=vision")):
        assert cli_main.main(["submit", "--time", "9", "--cluster", "local", option, value]) == 2
        assert f"{option}: is an option of SLURM" in capsys.readouterr().err


def test_one_source_of_clips(capsys):
    arguments = ["--video", "v.mp4", "--dataset", "d", "--weights", "w.pt", "--output", "out"]
    with pytest.raises(SystemExit):
        cli_main.main(["visualize", "reconstruction", *arguments])
    assert "not allowed with argument --video" in capsys.readouterr().err
