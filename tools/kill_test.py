"""Kill a small pre-training at random moments, resume it, and compare: python tools/kill_test.py [--runs 50]

Each run loses one process, or all of them, by SIGKILL: every third run while a checkpoint is being written,
the others at any moment. `--resume` then takes it to its end. Its weights must be those of a run that was
never killed, bit for bit. Runs take 1 and 2 processes in turn, each with a loader process of its own.
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
from vmae_det.mini_ava import TINY, make_mini_ava

_LIMIT = 600.0  # seconds that a run may take
_GRACE = 60.0  # seconds in which the rest of a run may end after one of its processes was killed


def main() -> int:
    """Parse, run, print; gives 1 where weights differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--epochs", type=int, default=40, help="of two steps, each with a checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_mini_ava(folder / "mini_ava", size=TINY, progress=False)
        unbroken = {}
        for processes in args.processes:
            cfg = small_config(data, folder / f"unbroken_{processes}", args.epochs)
            if start_run(cfg, processes).wait(_LIMIT):
                raise SystemExit(f"the unbroken run failed: {log_of(cfg)}")
            unbroken[processes] = final_weights(cfg), training_seconds(cfg)
        different, writing = 0, 0
        for number in tqdm(range(args.runs), unit="run", disable=None):
            processes = args.processes[number % len(args.processes)]
            weights, training = unbroken[processes]
            cfg = small_config(data, folder / f"run_{number}", args.epochs)
            how = kill_once(cfg, processes, training, rng, at_writing=number % 3 == 0)
            writing += "written" in how
            killed_at = done_steps(cfg)
            resumed = start_run(cfg, processes, resume=True)
            status = resumed.wait(_LIMIT)
            same = status == 0 and equal(final_weights(cfg), weights)
            different += not same
            tqdm.write(
                f"run {number + 1}: {processes} process(es), {how}, after step {killed_at}: "
                + ("equal" if same else f"DIFFERENT (status {status}): {log_of(cfg)}")
            )
    print(
        f"{args.runs - different} of {args.runs} killed runs end in the weights of the unbroken run; "
        f"{writing} of them were killed while a checkpoint was being written"
    )
    return int(different > 0)


def small_config(data: Path, output: Path, epochs: int) -> CfgNode:
    """Pre-training of a tiny model with a checkpoint after each epoch."""
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
    """`vmae-det train` in a session of its own; what it prints is in OUTPUT_DIR.txt."""
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
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # sums in one order, however busy the machine is
        )


def kill_once(cfg: CfgNode, processes: int, training: float, rng: random.Random, at_writing: bool) -> str:
    """Start a run and kill something of it; gives what and when in words. All of it has ended then."""
    run = start_run(cfg, processes)
    output = Path(cfg.OUTPUT_DIR)
    metrics = output / "metrics.jsonl"
    while run.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.01)
    deadline = time.monotonic() + rng.uniform(0, 0.5 * training)
    while run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    when = "at any moment"
    if at_writing:
        while run.poll() is None and not any(output.glob(".checkpoint_*.tmp.pt")):
            pass
        when = "while a checkpoint was being written"
    members = session_of(run.pid)
    if run.poll() is not None or not members:
        return "ended before it was killed"
    # All at once, so that the one that writes is among them.
    victims = members if at_writing or rng.random() < 0.5 else [rng.choice(members)]
    for pid in victims:
        kill(pid)
    deadline = time.monotonic() + _GRACE
    while session_of(run.pid) and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.05)
    for pid in session_of(run.pid):
        kill(pid)
    run.wait()
    while session_of(run.pid):
        time.sleep(0.01)
    return f"{len(victims)} of {len(members)} processes killed {when}"


def kill(pid: int) -> None:
    """SIGKILL, if it still lives."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def session_of(leader: int) -> list[int]:
    """The living processes of a session, through /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(session) == leader and state != "Z":
                found.append(int(entry.name))
    return sorted(found)


def final_weights(cfg: CfgNode) -> dict[str, torch.Tensor]:
    """Of a run that has ended."""
    return torch.load(Path(cfg.OUTPUT_DIR) / "model_final.pt", weights_only=True)["model"]


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether no bit differs."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def training_seconds(cfg: CfgNode) -> float:
    """From the first step to the end, by the times of the files."""
    output = Path(cfg.OUTPUT_DIR)
    return (output / "model_final.pt").stat().st_mtime - (output / "config.yaml").stat().st_mtime


def done_steps(cfg: CfgNode) -> int:
    """Steps that a run had logged."""
    metrics = Path(cfg.OUTPUT_DIR) / "metrics.jsonl"
    return metrics.read_text(encoding="utf-8").count("\n") if metrics.exists() else 0


def log_of(cfg: CfgNode) -> str:
    """The end of what a run printed."""
    return Path(cfg.OUTPUT_DIR).with_suffix(".txt").read_text(encoding="utf-8")[-2000:]


if __name__ == "__main__":
    sys.exit(main())
