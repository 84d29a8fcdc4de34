"""`vmae-det study` with tiny models: results, resuming, failed runs, and two studies at the same time."""

import json
import os
import signal
import sys
import time

import pytest
from preloaded import PreloadedCommand

from vmae_det.cli.main import main
from vmae_det.studies.grid import build_grid
from vmae_det.studies.run_process import Resources, start_run
from vmae_det.studies.run_store import RunStore
from vmae_det.studies.study_file import read_study

LIMIT = 300  # seconds

STUDY = """\
title: Initialization
question: Does pre-training help?
seeds: 2
stages:
  pretrain: {config: pretrain.yaml, metrics: [parameters, memory, seconds]}
  finetune: {config: finetune.yaml, from: pretrain, metrics: [top1, loss]}
factors:
  start:
    scratch: {pretrain: null}
    pre-trained: {}
findings:
  - claim: Pre-training is better.
    source: a paper
    better: {start: pre-trained}
    worse: {start: scratch}
    metric: finetune/top1
"""


@pytest.fixture
def site(tiny_cfg, tmp_path, monkeypatch):
    """A folder with own.yaml, pretrain.yaml and finetune.yaml."""
    keys = ["INPUT.CROP_SIZE", 32, "INPUT.TRAIN_SHORT_SIDE", 32, "INPUT.TEST_SHORT_SIDE", 32]
    keys += ["MODEL.BACKBONE.DEPTH", 1, "SOLVER.BATCH_SIZE", 2]
    for task in ("pretrain", "finetune"):
        (tmp_path / f"{task}.yaml").write_text(tiny_cfg(task, *keys).dump())
    (tmp_path / "own.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def study(*more):
    return main(["study", "own.yaml", "--output", "out", "--workers", "1", *map(str, more)])


def start(site, *options):
    """Start the study in a process of its own, which writes to output.txt."""
    output = (site / "output.txt").open("w")
    command = [sys.executable, "-m", "vmae_det.cli.main", "study", "own.yaml", "--output", "out"]
    return PreloadedCommand([*command, *options], stdout=output, stderr=output)


def written(site):
    """The times at which runs finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in site.glob("out/runs/*/finished.json")}


def wait(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def test_a_killed_study_repeats_no_finished_run(site, capfd):
    runs, store = build_grid(read_study(site / "own.yaml")).runs(), RunStore(site / "out" / "runs")
    process = start(site, "--workers", "1")
    wait(lambda: len(written(site)) >= 2)
    process.kill()
    process.wait(LIMIT)
    wait(lambda: not any(store.is_locked(run) for run in runs))  # its run stops, too
    before = written(site)
    assert len(before) < 6

    capfd.readouterr()
    assert study() == 0
    printed = capfd.readouterr().out
    assert "2 cells, 2 seeds, 6 runs" in printed
    after = written(site)
    assert len(after) == 6
    assert before.items() <= after.items()
    assert "Of 1 published finding," in printed
    content = json.loads((site / "out" / "own" / "results.json").read_text())
    scratch, pretrained = content["cells"]
    for cell in (scratch, pretrained):
        values = cell["metrics"]["finetune/top1"]["values"]
        folders = {run["seed"]: run["folder"] for run in cell["runs"] if run["stage"] == "finetune"}
        for seed in (0, 1):
            results = json.loads((site / "out" / "runs" / folders[seed] / "results.json").read_text())
            assert values[str(seed)] == results["top1"]
    measures = pretrained["metrics"]
    assert 0 < measures["pretrain/parameters"]["mean"] < 1
    assert 50 < measures["pretrain/memory"]["mean"] < 50_000
    assert scratch["metrics"]["pretrain/seconds"]["mean"] is None
    log = (site / "out" / "runs" / folders[0] / "log.txt").read_text()
    assert "pretrain-seed0-" in log  # it starts from the pre-trained weights

    assert study() == 0  # everything is finished
    assert written(site) == after
    assert main(["study", "own.yaml", "--output", "out", "--dry-run"]) == 0
    assert "6 of them finished" in capfd.readouterr().out


def test_a_killed_run_resumes_from_its_checkpoint(site):
    text = STUDY.replace(
        "metrics: [parameters", "SOLVER.EPOCHS: 20, SOLVER.CHECKPOINT_PERIOD: 1, metrics: [parameters"
    )
    (site / "own.yaml").write_text(text)
    run = next(run for run in build_grid(read_study(site / "own.yaml")).runs() if run.stage == "pretrain")
    store = RunStore(site / "out" / "runs")
    process = start_run(run, store, Resources())
    folder = store.folder(run)
    wait(lambda: list(folder.glob("checkpoint_*.pt")))
    assert store.is_locked(run)
    process.kill()
    process.join()
    assert not store.is_locked(run)
    assert not store.is_finished(run)
    assert study("--seeds", 1) == 0
    log = (folder / "log.txt").read_text()
    assert log.count("resumed from") == 1
    assert store.results(run)["seconds"] is None  # the time of the first part is not known


def test_a_run_saves_and_stops_if_its_study_is_killed(site):
    text = STUDY.replace("metrics: [parameters", "SOLVER.EPOCHS: 3000, metrics: [parameters")
    (site / "own.yaml").write_text(text)
    run = next(run for run in build_grid(read_study(site / "own.yaml")).runs() if run.stage == "pretrain")
    store = RunStore(site / "out" / "runs")
    process = start(site, "--seeds", "1")
    metrics = store.folder(run) / "metrics.jsonl"
    wait(lambda: metrics.exists() and metrics.read_text())
    process.kill()
    process.wait(LIMIT)
    wait(lambda: not store.is_locked(run))
    assert "the state is saved" in (store.folder(run) / "console.txt").read_text()


def test_a_failed_run_is_named_and_the_others_finish(site, capfd):
    (site / "own.yaml").write_text(
        STUDY.replace(
            "    pre-trained: {}", "    pre-trained: {}\n    broken: {pretrain: {SOLVER.BATCH_SIZE: 64}}"
        )
    )
    assert study("--seeds", 1) == 1
    printed = capfd.readouterr().out
    (failed,) = [line for line in printed.splitlines() if line.startswith("failed: ")]
    assert failed.startswith("failed: pretrain-seed0-")
    assert "SOLVER.BATCH_SIZE: 64, but DATASETS.TRAIN" in failed
    assert failed.endswith("console.txt)")
    (skipped,) = [line for line in printed.splitlines() if line.startswith("skipped: ")]
    assert skipped.startswith("skipped: finetune-seed0-")
    assert len(written(site)) == 3
    before = written(site)
    assert "no results yet" in printed
    assert study("--seeds", 1) == 1  # it is tried again
    assert written(site) == before
    # The report shows what there is.
    assert main(["study", "own.yaml", "--output", "out", "--seeds", "1", "--report-only"]) == 0
    assert "3 of 5 runs are finished." in capfd.readouterr().out


def test_a_run_of_another_study_is_waited_for(site, capfd):
    """Its process has the lock; when it is finished, it is not done again."""
    run = next(run for run in build_grid(read_study(site / "own.yaml")).runs() if run.stage == "pretrain")
    store = RunStore(site / "out" / "runs")
    store.folder(run).mkdir(parents=True)
    with store.lock(run):
        process = start(site, "--seeds", "1")
        wait(lambda: "another study works on it; waiting" in (site / "output.txt").read_text())
        assert not (store.folder(run) / "log.txt").exists()
    assert process.wait(LIMIT) == 0
    assert store.is_finished(run)


def test_an_interrupted_study_stops_its_runs(site):
    text = STUDY.replace("metrics: [parameters", "SOLVER.EPOCHS: 3000, metrics: [parameters")
    (site / "own.yaml").write_text(text)
    grid = build_grid(read_study(site / "own.yaml"))
    run = next(run for run in grid.runs() if run.stage == "pretrain")
    store = RunStore(site / "out" / "runs")
    process = start(site, "--seeds", "1")
    wait(
        lambda: (
            (store.folder(run) / "metrics.jsonl").exists()
            and (store.folder(run) / "metrics.jsonl").read_text()
        )
    )

    os.kill(process.pid, signal.SIGINT)
    assert process.wait(LIMIT) == 130
    assert not store.is_locked(run)
    assert "the state is saved" in (store.folder(run) / "console.txt").read_text()
    assert "interrupted; run the command again to resume" in (site / "output.txt").read_text()
    assert (site / "out" / "own" / "table.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["missing"], "missing: neither a study file (.yaml) nor a study of the model zoo"),
        (["own.yaml", "--seeds", "0"], "--seeds: expected a number of seeds such as 3"),
        (["own.yaml", "--seeds", "1,1"], "--seeds: expected a number of seeds such as 3"),
        (["own.yaml", "--dry-run", "--report-only"], "--dry-run: cannot be combined with --report-only"),
        (["own.yaml", "--submit"], "--submit: requires --time"),
        (["own.yaml", "--time", "9"], "--time: has no effect without --submit"),
        (["own.yaml", "--submit", "--time", "9", "--workers", "2"], "--workers: has no effect with --submit"),
        (["own.yaml", "--list"], "--list: lists the studies"),
        (["own.yaml", "SOLVER.EPOCH", "3"], "SOLVER.EPOCH: no such config key"),
    ],
)
def test_invalid_arguments(site, capsys, arguments, expected):
    try:
        status = main(["study", *arguments])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert expected in capsys.readouterr().err


def test_the_list_of_studies(capsys):
    assert main(["study"]) == 0
    printed = capsys.readouterr().out
    assert "\nmasks " in printed
    assert "cells, 3 seeds" in printed


def test_jobs_of_a_cluster_depend_on_each_other(site, monkeypatch, capsys):
    """A fake sbatch stores the scripts."""
    pytest.importorskip("submitit", reason="requires submitit")
    programs = site / "bin"
    programs.mkdir()
    (programs / "srun").write_text("#!/bin/sh\n")
    script = 'n=$(ls {0}/scripts | wc -l)\ncp "$1" {0}/scripts/$n\necho Submitted batch job 10$n\n'
    (site / "scripts").mkdir()
    (programs / "sbatch").write_text("#!/bin/sh\n" + script.format(site))
    (programs / "squeue").write_text(f"#!/bin/sh\ncat {site}/queue\n")
    (site / "queue").touch()
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    options = ["--submit", "--time", "60", "--sbatch", "account=vision", "--seeds", "1"]
    assert main(["study", "own.yaml", "--output", "out", *options]) == 0
    printed = capsys.readouterr().out
    jobs = dict(line[4:].split(": ") for line in printed.splitlines() if line.startswith("job "))
    assert [name.partition("-")[0] for name in jobs.values()] == ["finetune", "pretrain", "finetune"]
    scripts = {f"10{path.name}": path.read_text() for path in (site / "scripts").iterdir()}
    assert scripts.keys() == jobs.keys()
    assert all("#SBATCH --account=vision\n" in text for text in scripts.values())
    assert "--dependency" not in scripts["100"] + scripts["101"]
    assert "#SBATCH --dependency=afterok:101\n" in scripts["102"]
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in scripts["102"]

    (site / "queue").write_text("7\n100\n101\n")  # the job of the last run has failed
    assert main(["study", "own.yaml", "--output", "out", *options]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"job 103: {jobs['102']}\n1 job;")
    assert "runs that have a job in the queue already: 2" in printed
    assert "#SBATCH --dependency=afterok:101\n" in (site / "scripts" / "3").read_text()

    (programs / "squeue").write_text("#!/bin/sh\necho no controller >&2; exit 1\n")
    assert main(["study", "own.yaml", "--output", "out", *options]) == 2
    assert "squeue: no controller" in capsys.readouterr().err
    assert len(list((site / "scripts").iterdir())) == 4


def test_a_submitted_run_is_that_of_the_study(site, monkeypatch):
    """What a job calls, in this process."""
    submitit = pytest.importorskip("submitit", reason="requires submitit")
    from vmae_det.cli.study_jobs import SubmittedStudyRun
    from vmae_det.studies.run_process import train_and_mark

    run = next(run for run in build_grid(read_study(site / "own.yaml")).runs() if run.stage == "pretrain")
    store = RunStore(site / "out" / "runs")
    environment = type(
        "Environment", (), {"raw_job_id": "7", "num_nodes": 1, "node": 0, "hostnames": ["localhost"]}
    )
    monkeypatch.setattr(submitit, "JobEnvironment", environment)
    job = SubmittedStudyRun(
        store.config(run), True, 1, 0, 600.0, 60, train_and_mark, run=run, root=store.root
    )
    job()
    marker = store.marker(run)
    assert marker
    job()
    assert store.marker(run) == marker
    with store.lock(run), pytest.raises(SystemExit, match="another process works on it"):
        job()
