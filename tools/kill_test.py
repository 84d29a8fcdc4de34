"""Kill small pre-training runs at random times, resume them, and compare: python tools/kill_test.py

In each run, one process or all processes receive SIGKILL: in every third run while a checkpoint is being
written, in the others at a random time. The run is then resumed with `--resume`. Its final weights must be
bitwise equal to those of a run that was never killed. Runs alternate between 1 and 2 processes, each with one
loader worker.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch
from tqdm import tqdm

from vmae_det import model_zoo
from vmae_det.config import CfgNode
from vmae_det.synthetic_data.mini_ava import TINY, make_mini_ava

_RUN_TIMEOUT = 600.0  # seconds
_EXIT_TIMEOUT = 60.0  # seconds for the other processes to exit after one was killed


def main() -> int:
    """Parse the arguments, run the test and return the exit status: 1 if weights differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=50, help="number of runs (%(default)s)")
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes, in turn (1 2)"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=40,
        help="epochs of a run; each has two steps and a checkpoint (%(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the times at which processes are killed (%(default)s)"
    )
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_mini_ava(folder / "mini_ava", size=TINY, progress=False)
        reference = {}
        for processes in args.processes:
            cfg = small_config(data, folder / f"reference_{processes}", args.epochs)
            if start_run(cfg, processes).wait(_RUN_TIMEOUT):
                raise SystemExit(f"the reference run failed: {tail_of_log(cfg)}")
            reference[processes] = final_weights(cfg), training_seconds(cfg)
        different, while_writing = 0, 0
        for number in tqdm(range(args.runs), unit="run", disable=None):
            processes = args.processes[number % len(args.processes)]
            weights, duration = reference[processes]
            cfg = small_config(data, folder / f"run_{number}", args.epochs)
            description = kill_once(cfg, processes, duration, rng, while_writing=number % 3 == 0)
            while_writing += "written" in description
            killed_at = logged_steps(cfg)
            resumed = start_run(cfg, processes, resume=True)
            status = resumed.wait(_RUN_TIMEOUT)
            same = status == 0 and equal(final_weights(cfg), weights)
            different += not same
            tqdm.write(
                f"run {number + 1}: {processes} process(es), {description}, after step {killed_at}: "
                + ("equal" if same else f"DIFFERENT (status {status}): {tail_of_log(cfg)}")
            )
    print(
        f"{args.runs - different} of {args.runs} killed runs end with the weights of the reference run; "
        f"{while_writing} of them were killed while a checkpoint was being written"
    )
    return int(different > 0)


def small_config(data: Path, output: Path, epochs: int) -> CfgNode:
    """Return the config of a tiny pre-training with a checkpoint after each epoch."""
    cfg = model_zoo.get_config("MiniAVA/pretrain.yaml")
    cfg.merge_from_list(
        [
            *("DATASETS.TRAIN", (str(data / "unlabelled.yaml"),), "OUTPUT_DIR", str(output)),
            *("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.EMBED_DIM", 192, "MODEL.BACKBONE.DEPTH", 4),
            *("MODEL.BACKBONE.NUM_HEADS", 2, "MODEL.BACKBONE.DROP_PATH", 0.2),
            *("MODEL.BACKBONE.PATCH_SIZE", 16, "MODEL.BACKBONE.TUBELET_SIZE", 2),
            *("MODEL.DECODER.EMBED_DIM", 16, "MODEL.DECODER.DEPTH", 1, "MODEL.DECODER.NUM_HEADS", 2),
            *("INPUT.NUM_FRAMES", 4, "INPUT.CROP_SIZE", 64, "INPUT.TRAIN_SHORT_SIDE", 64),
            *("INPUT.TEST_SHORT_SIDE", 64),
            *("DATALOADER.NUM_WORKERS", 1, "DATALOADER.CLIPS_PER_VIDEO", 2, "SOLVER.BASE_LR", 1e-3),
            *("SOLVER.BATCH_SIZE", 4, "SOLVER.EPOCHS", epochs, "SOLVER.WARMUP_EPOCHS", 0.0),
            *("SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.LOG_PERIOD", 1, "SOLVER.EMA_DECAY", 0.9),
        ]
    )
    return cfg


def start_run(cfg: CfgNode, processes: int, resume: bool = False) -> subprocess.Popen:
    """Start `vmae-det train` in a new session; its output goes to OUTPUT_DIR.txt."""
    output = Path(cfg.OUTPUT_DIR)
    config = output.with_suffix(".yaml")
    config.write_text(cfg.dump(), encoding="utf-8")
    command = [sys.executable, "-m", "vmae_det.cli.main", "train", "--config-file", str(config)]
    command += ["--num-gpus", str(processes), *(["--resume"] if resume else [])]
    with output.with_suffix(".txt").open("a") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # deterministic order of summation
        )


def kill_once(cfg: CfgNode, processes: int, duration: float, rng: random.Random, while_writing: bool) -> str:
    """Start a run, kill one or all of its processes, wait until all have exited, and return a description.

    Args:
        duration: seconds of the reference run; processes are killed in its first half.
    """
    run = start_run(cfg, processes)
    output = Path(cfg.OUTPUT_DIR)
    metrics = output / "metrics.jsonl"
    while run.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.01)
    deadline = time.monotonic() + rng.uniform(0, 0.5 * duration)
    while run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    when = "at a random time"
    if while_writing:
        while run.poll() is None and not any(output.glob(".checkpoint_*.tmp.pt")):
            time.sleep(0.0005)
        when = "while a checkpoint was being written"
    members = processes_of_session(run.pid)
    if run.poll() is not None or not members:
        return "exited before it was killed"
    # All of them while a checkpoint is written, so that the writing process is among them.
    victims = members if while_writing or rng.random() < 0.5 else [rng.choice(members)]
    for pid in victims:
        kill(pid)
    deadline = time.monotonic() + _EXIT_TIMEOUT
    while processes_of_session(run.pid) and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.05)
    for pid in processes_of_session(run.pid):
        kill(pid)
    run.wait()
    while processes_of_session(run.pid):
        time.sleep(0.01)
    return f"{len(victims)} of {len(members)} processes killed {when}"


def kill(pid: int) -> None:
    """Send SIGKILL if the process still exists."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def processes_of_session(leader: int) -> list[int]:
    """Return the running processes of a session, from /proc."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(session) == leader and state != "Z":
                pids.append(int(entry.name))
    return sorted(pids)


def final_weights(cfg: CfgNode) -> dict[str, torch.Tensor]:
    """Return the weights of a completed run."""
    return torch.load(Path(cfg.OUTPUT_DIR) / "model_final.pt", weights_only=True)["model"]


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Return whether two state dicts are bitwise equal."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def training_seconds(cfg: CfgNode) -> float:
    """Return the duration of a run in seconds, from the modification times of its files."""
    output = Path(cfg.OUTPUT_DIR)
    return (output / "model_final.pt").stat().st_mtime - (output / "config.yaml").stat().st_mtime


def logged_steps(cfg: CfgNode) -> int:
    """Return the number of steps in the log of a run."""
    metrics = Path(cfg.OUTPUT_DIR) / "metrics.jsonl"
    return metrics.read_text(encoding="utf-8").count("\n") if metrics.exists() else 0


def tail_of_log(cfg: CfgNode) -> str:
    """Return the end of the output of a run."""
    return Path(cfg.OUTPUT_DIR).with_suffix(".txt").read_text(encoding="utf-8")[-2000:]


if __name__ == "__main__":
    sys.exit(main())
