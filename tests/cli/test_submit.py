"""`vmae-det submit` with the local executor of submitit."""

import builtins
import json
import os
import signal
import time
from pathlib import Path

import pytest

from vmae_det.cli.main import main

submitit = pytest.importorskip("submitit", reason="requires submitit")

LIMIT = 300  # seconds


@pytest.fixture
def submit(tiny_cfg, tmp_path, capsys, monkeypatch):
    """submit(EPOCHS): submit a pre-training run; return its folder and the output of the command."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    started = []

    def begin(epochs):
        cfg = tiny_cfg("pretrain", "SOLVER.EPOCHS", epochs, "DATALOADER.CLIPS_PER_VIDEO", 4)
        (tmp_path / "config.yaml").write_text(cfg.dump())
        options = ["--cluster", "local", "--time", "30", "--config-file", str(tmp_path / "config.yaml")]
        assert main(["submit", *options]) == 0
        printed = capsys.readouterr().out
        started.append(int(printed.split()[1].rstrip(";")))
        return Path(cfg.OUTPUT_DIR), printed

    yield begin
    for number in started:
        try:
            os.kill(number, signal.SIGTERM)
            os.waitpid(number, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def wait(condition, folder):
    deadline = time.monotonic() + LIMIT
    while not condition():
        logs = "".join(path.read_text()[-3000:] for path in folder.glob("jobs/*.err"))
        assert time.monotonic() < deadline, f"timed out: {logs}"
        time.sleep(0.1)


def steps(folder):
    metrics = folder / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="requires /proc to find the process of the job"
)
def test_a_preempted_job_saves_and_resumes(submit):
    folder, printed = submit(30)
    assert str(folder / "jobs") in printed
    wait(lambda: steps(folder) >= 5, folder)
    controller = printed.split()[1].rstrip(";")
    (task,) = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)
    wait(lambda: (folder / "model_final.pt").exists(), folder)
    log = (folder / "log.txt").read_text()
    assert log.count("1 process(es)") == 2
    assert "resumed from" in log
    lines = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(1, 61))
    errors = "".join(path.read_text() for path in folder.glob("jobs/*.err"))
    assert "vmae-det: interrupted after step" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--time", "2", "--requeue-before", "120"],
            "--requeue-before: must be shorter than --time 2 minutes, got 120 s",
        ),
        (["--time", "9", "--max-restarts", "0"], "--max-restarts: must be 1 or more"),
        (["--time", "9", "--cluster", "local", "--sbatch", "account"], "--sbatch: expected NAME=VALUE"),
    ],
)
def test_invalid_options(options, expected, capsys, tmp_path):
    end = ["--config-file", "MiniAVA/pretrain.yaml", "OUTPUT_DIR", str(tmp_path)]
    assert main(["submit", *options, *end]) == 2
    assert expected in capsys.readouterr().err


def test_missing_submitit_raises_an_error(monkeypatch, capsys):
    imported = builtins.__import__

    def refuse(name, *args, **options):
        if name.split(".")[0] == "submitit":
            raise ImportError(name)
        return imported(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert main(["submit", "--time", "9", "--config-file", "MiniAVA/pretrain.yaml"]) == 2
    assert 'pip install "vmae_det[slurm]"' in capsys.readouterr().err


def test_options_of_sbatch(monkeypatch, tmp_path, capsys):
    """A fake sbatch stores the script."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "srun").write_text("#!/bin/sh\n")
    (programs / "sbatch").write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/script\necho Submitted batch job 17\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    options = ["--nodes", "2", "--num-gpus", "8", "--time", "600", "--partition", "long", "--memory", "100"]
    options += ["--sbatch", "account=vision", "--config-file", "MiniAVA/pretrain.yaml"]
    assert main(["submit", *options, "OUTPUT_DIR", str(tmp_path / "run"), "MODEL.DEVICE", "cuda"]) == 0
    assert capsys.readouterr().out.startswith("job 17;")
    script = (tmp_path / "script").read_text()
    for line in (
        *("nodes=2", "ntasks-per-node=1", "gpus-per-node=8", "time=600", "partition=long", "mem=100GB"),
        *("account=vision", "requeue", "signal=USR2@120"),
    ):
        assert f"#SBATCH --{line}\n" in script


def test_data_is_refused_with_the_remedy(capsys):
    assert main(["submit", "--time", "30", "--data", "own.yaml"]) == 2
    assert "submit its run: --config-file OUTPUT_DIR/config.yaml --resume" in capsys.readouterr().err
