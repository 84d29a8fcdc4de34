"""Options without effect raise an error instead of being ignored."""

import pytest

from vmae_det.cli import main as cli_main

DETECT = ["detect", "v.mp4", "--weights", "w.pt", "--output", "out"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([*DETECT, "--boxes", "b.csv", "--every", "2"], "--every: not used with --boxes"),
        ([*DETECT, "--format", "csv,html", "--timeline"], "--timeline: only used by the overlay"),
        ([*DETECT, "--format", "csv,html", "--top-k", "5"], "--top-k: only used by the overlay"),
        ([*DETECT, "--format", "csv", "--html", "--font", "f.ttf"], "--font: only used by the overlay"),
        ([*DETECT, "--format", "jsonl", "--threshold", "0.5"], "--threshold: only used by overlay and html"),
        (["classify", "v.mp4", "--weights", "w.pt", "--overwrite"], "--overwrite: requires --output"),
        (
            ["detect-persons", "--dataset", "mini_ava_val", "--output", "p.csv", "--every", "2"],
            "--every: not used with --dataset",
        ),
        (
            ["detect-persons", "--dataset", "mini_ava_val", "--output", "p.csv", "--video-start", "900"],
            "--video-start: not used with --dataset",
        ),
        (
            ["benchmark", "data", "--key-every", "30"],
            "--key-every: applies only to the synthetic videos of --videos",
        ),
        (["benchmark", "train", "--alike"], "--alike: applies only to the implementation of --against"),
        (["train", "--resume", "--eval-only"], "--resume: resumes training, so it cannot be combined"),
    ],
)
def test_unused_options_raise_an_error(tmp_path, monkeypatch, capsys, arguments, problem):
    monkeypatch.chdir(tmp_path)
    assert cli_main.main(arguments) == 2
    assert problem in capsys.readouterr().err


def test_slurm_options_with_a_local_job(tmp_path, monkeypatch, capsys):
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    for option, value in (("--partition", "gpu"), ("--sbatch", "account=vision")):
        assert cli_main.main(["submit", "--time", "9", "--cluster", "local", option, value]) == 2
        assert f"{option}: only used with --cluster slurm" in capsys.readouterr().err


def test_video_and_dataset_are_mutually_exclusive(capsys):
    arguments = ["--video", "v.mp4", "--dataset", "d", "--weights", "w.pt", "--output", "out"]
    with pytest.raises(SystemExit):
        cli_main.main(["visualize", "reconstruction", *arguments])
    assert "not allowed with argument --video" in capsys.readouterr().err
